"""The certifiers by name."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from deqcert.certifiers.base import Certifier
from deqcert.certifiers.enclosed import Enclosed
from deqcert.certifiers.independent import Independent
from deqcert.certifiers.serialized import Serialized
from deqcert.certifiers.serialized_paper import SerializedPaper
from deqcert.certifiers.serialized_released import SerializedReleased
from deqcert.certifiers.standard import Standard
from deqcert.certifiers.strata import SerializedStrata
from deqcert.errors import ConfigError

if TYPE_CHECKING:
    from deqcert.smoothing import Predictor

_CERTIFIERS: dict[str, type[Certifier]] = {
    certifier.name: certifier
    for certifier in (
        Standard,
        Independent,
        Enclosed,
        Serialized,
        SerializedStrata,
        SerializedPaper,
        SerializedReleased,
    )
}


def certifier_names() -> tuple[str, ...]:
    """Return the names that :func:`get_certifier` knows."""
    return tuple(_CERTIFIERS)


def is_sound(name: str) -> bool:
    """Return whether the method of that name has a proven guarantee.

    Raises:
        ConfigError: If there is none of that name.
    """
    return _find(name).sound


def get_certifier(name: str, predictor: Predictor, **options: Any) -> Certifier:
    """Make the certifier of that name.

    Args:
        name: One of :func:`certifier_names`.
        predictor: How a noisy copy is classified.
        **options: ``n0``, ``n`` and ``alpha``; with an audit, also ``reference`` and ``audit``;
            where samples or audits may stop early, a ``goal``.

    Raises:
        ConfigError: If there is no such method, an option is unknown or missing, or a value is
            impossible.
    """
    certifier = _find(name)
    parameters = inspect.signature(certifier).parameters
    known = [p for p in parameters if p != "predictor"]
    for option in options:
        if option not in known:
            raise ConfigError(
                f"method '{name}' has no option '{option}'; it has {', '.join(known)}."
            )
    missing = [p for p in known if parameters[p].default is inspect.Parameter.empty]
    missing = [option for option in missing if option not in options]
    if missing:
        raise ConfigError(f"method '{name}' also needs {', '.join(missing)}.")
    return certifier(predictor, **options)


def _find(name: str) -> type[Certifier]:
    if name not in _CERTIFIERS:
        raise ConfigError(f"there is no method '{name}'; there are {', '.join(_CERTIFIERS)}.")
    return _CERTIFIERS[name]
