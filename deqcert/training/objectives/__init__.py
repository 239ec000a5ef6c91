"""Training objectives by name: one file and one line here each."""

from __future__ import annotations

from deqcert.errors import ConfigError
from deqcert.training.objectives.base import Forward, Objective
from deqcert.training.objectives.gaussian import Gaussian

__all__ = ["Forward", "Objective", "get_objective", "objective_names"]

_OBJECTIVES: dict[str, type[Objective]] = {
    objective.name: objective
    for objective in (
        Gaussian,
    )
}  # fmt: skip


def objective_names() -> tuple[str, ...]:
    """Return the names that :func:`get_objective` knows."""
    return tuple(_OBJECTIVES)


def get_objective(name: str, sigma: float) -> Objective:
    """Make the objective of that name.

    Raises:
        ConfigError: If there is no such objective.
    """
    if name not in _OBJECTIVES:
        raise ConfigError(f"there is no objective '{name}'; there are {', '.join(_OBJECTIVES)}.")
    return _OBJECTIVES[name](sigma)
