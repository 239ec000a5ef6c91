"""Training objectives by name: one file and one line here each."""

from __future__ import annotations

import dataclasses
from typing import Any

from deqcert.errors import ConfigError
from deqcert.training.objectives.base import Forward, Objective, TrainingBatch
from deqcert.training.objectives.consistency import Consistency
from deqcert.training.objectives.gaussian import Gaussian
from deqcert.training.objectives.macer import Macer
from deqcert.training.objectives.smoothadv import SmoothAdv

__all__ = [
    "Forward",
    "Objective",
    "TrainingBatch",
    "get_objective",
    "objective_names",
    "objective_options",
]

_OBJECTIVES: dict[str, type[Objective]] = {
    objective.name: objective
    for objective in (
        Gaussian,
        SmoothAdv,
        Consistency,
        Macer,
    )
}


def objective_names() -> tuple[str, ...]:
    """Return the names that :func:`get_objective` knows."""
    return tuple(_OBJECTIVES)


def objective_options(name: str) -> dict[str, Any]:
    """Return the options of an objective with their default values.

    Raises:
        ConfigError: If there is no such objective.
    """
    fields = dataclasses.fields(_find(name))
    return {field.name: field.default for field in fields if field.name != "sigma"}


def get_objective(name: str, sigma: float, **options: Any) -> Objective:
    """Make the objective of that name.

    Args:
        name: One of :func:`objective_names`.
        sigma: Standard deviation of the noise, in [0, 1] pixel units.
        **options: Its options; see the class for ranges.

    Raises:
        ConfigError: If there is no such objective, it has no such option, or a value is out of
            range.
    """
    objective, known = _find(name), objective_options(name)
    for option in options:
        if option not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise ConfigError(f"objective '{name}' has no option '{option}'; {has}.")
    return objective(sigma, **options)


def _find(name: str) -> type[Objective]:
    if name not in _OBJECTIVES:
        raise ConfigError(f"there is no objective '{name}'; there are {', '.join(_OBJECTIVES)}.")
    return _OBJECTIVES[name]
