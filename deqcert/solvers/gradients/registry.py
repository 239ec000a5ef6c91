"""The gradient methods by name."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from deqcert.errors import ConfigError
from deqcert.registry import Registry

if TYPE_CHECKING:
    from deqcert.solvers.gradients.base import Gradient

GRADIENTS: Registry[type[Gradient]] = Registry(
    "gradient",
    {
        "implicit": "deqcert.solvers.gradients.implicit:Implicit",
        "phantom": "deqcert.solvers.gradients.phantom:Phantom",
        "unroll": "deqcert.solvers.gradients.unroll:Unroll",
    },
)
"""Ways backward through a solve; each is a dataclass whose fields are its options."""


def gradient_names() -> tuple[str, ...]:
    """Return the names that :func:`get_gradient` knows."""
    return GRADIENTS.names()


def get_gradient(name: str, **options: Any) -> Gradient:
    """Make the gradient method of that name.

    Args:
        name: One of :func:`gradient_names`.
        **options: Its options; see the class for ranges.

    Raises:
        ConfigError: If there is no such method, it has no such option, or a value is out of range.
    """
    kind = GRADIENTS.get(name)
    known = [entry.name for entry in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for option in options:
        if option not in known:
            raise ConfigError(
                f"gradient '{name}' has no option '{option}'; it has {', '.join(known)}."
            )
    return kind(**options)
