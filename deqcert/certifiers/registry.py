"""The certifiers by name, and how to make one from what is at hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from deqcert.errors import ConfigError
from deqcert.options import options_of
from deqcert.registry import Registry, unknown_option

if TYPE_CHECKING:
    from deqcert.certifiers.base import Certifier
    from deqcert.certifiers.goals import Goal
    from deqcert.certifiers.kept_votes import ParentRun
    from deqcert.certifiers.recertified import FromVotes
    from deqcert.smoothing import Predictor

CERTIFIERS: Registry[type[Certifier[Any]]] = Registry(
    "method",
    {
        "standard": "deqcert.certifiers.standard:Standard",
        "independent": "deqcert.certifiers.independent:Independent",
        "enclosed": "deqcert.certifiers.enclosed:Enclosed",
        "lipschitz": "deqcert.certifiers.lipschitz:Lipschitz",
        "interval": "deqcert.certifiers.interval:Interval",
        "zonotope": "deqcert.certifiers.zonotope:Zonotope",
        "latent": "deqcert.certifiers.latent:Latent",
        "latent-estimated": "deqcert.certifiers.latent_estimated:LatentEstimated",
        "serialized": "deqcert.certifiers.serialized:Serialized",
        "serialized-strata": "deqcert.certifiers.strata:SerializedStrata",
        "serialized-paper": "deqcert.certifiers.serialized_paper:SerializedPaper",
        "serialized-released": "deqcert.certifiers.serialized_released:SerializedReleased",
    },
    plural="certifiers",
)
"""Every :class:`deqcert.certifiers.Certifier` by name."""

RECERTIFIERS: Registry[type[FromVotes]] = Registry(
    "recertification",
    {
        "recertified": "deqcert.certifiers.recertified:Recertified",
        "incremental": "deqcert.certifiers.incremental:Incremental",
    },
)
"""What certifies a changed model from the votes of an earlier run, by name."""


def certifier_class(name: str) -> type[Certifier[Any]]:
    """Return the class of that name, whether it needs an earlier run or not.

    Raises:
        ConfigError: If there is none.
    """
    return RECERTIFIERS.get(name) if name in RECERTIFIERS else CERTIFIERS.get(name)


def make_certifier(
    name: str, pool: Mapping[str, Any], given: Mapping[str, Any] | None = None
) -> Certifier[Any]:
    """Make the certifier of that name from what is at hand, without knowing what it needs.

    Args:
        name: One of :data:`CERTIFIERS`.
        pool: What is at hand for whoever needs it, by field: ``predictor``, ``reference`` (the cold
            predictor of audits), ``n0``, ``n``, ``alpha``, ``audit``, ``depth``, ``goal``.
        given: What was asked for by name; it comes before the pool, and must not be ignored. None
            is nothing.

    Raises:
        ConfigError: If there is no such method, it has no such option, it needs something that is
            not at hand, or a value is impossible.
    """
    kind = CERTIFIERS.get(name)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    asked = {option: value for option, value in (given or {}).items() if value is not None}
    for option in asked:
        if option not in fields:
            known = [field for field in fields if field != "predictor"]
            raise ConfigError(unknown_option(f"method '{name}'", option, known))
    values = {field: asked.get(field, pool.get(field)) for field in fields}
    values = {field: value for field, value in values.items() if value is not None}
    missing = [
        field.name
        for field in fields.values()
        if field.name not in values
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"method '{name}' also needs {', '.join(missing)}.")
    return kind(**values)


def make_from_votes(
    name: str, predictor: Predictor, parent: ParentRun, options: Mapping[str, Any]
) -> FromVotes:
    """Make what certifies a changed model from the votes of an earlier run.

    Args:
        name: One of :data:`RECERTIFIERS`.
        predictor: The changed base classifier.
        parent: The earlier run.
        options: Its options by name; None is nothing.

    Raises:
        ConfigError: If there is no such method, it has no such option, or a value is impossible.
    """
    kind = RECERTIFIERS.get(name)
    known = options_of(kind)
    given = {key: value for key, value in options.items() if value is not None}
    for key in given:
        if key not in known:
            raise ConfigError(unknown_option(f"method '{name}'", key, known))
    return kind(predictor, parent=parent, **given)


def get_certifier(name: str, predictor: Predictor | None = None, **options: Any) -> Certifier[Any]:
    """Make the certifier of that name.

    Args:
        name: One of :data:`CERTIFIERS`.
        predictor: How a noisy copy is classified, where noise is drawn.
        **options: Fields of the certifier, such as ``n0``, ``n`` and ``alpha``; with an audit, also
            ``reference`` and ``audit``; where samples or audits may stop early, a ``goal``.

    Raises:
        ConfigError: If there is no such method, an option is unknown or missing, or a value is
            impossible.
    """
    return make_certifier(name, {}, {"predictor": predictor, **options})


def default_method(predictor: Predictor, goal: Goal | None = None) -> str:
    """Return the method that fits a predictor and a goal where none is asked for.

    Args:
        predictor: How votes are to be cast.
        goal: When to stop, if there is a goal.
    """
    if not predictor.independent:
        return "serialized" if goal is None else "serialized-strata"
    return "standard" if goal is None and predictor.start.name == "cold" else "independent"
