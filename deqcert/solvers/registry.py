"""The solvers by name."""

from __future__ import annotations

import dataclasses
from typing import Any

from deqcert.errors import ConfigError
from deqcert.solvers.anderson import Anderson
from deqcert.solvers.base import Solver
from deqcert.solvers.broyden import Broyden
from deqcert.solvers.picard import Picard

_SOLVERS: dict[str, type[Solver[Any]]] = {
    solver.name: solver for solver in (Picard, Anderson, Broyden)
}


def solver_names() -> tuple[str, ...]:
    """Return the names that :func:`get_solver` knows."""
    return tuple(_SOLVERS)


def solver_options(name: str) -> dict[str, Any]:
    """Return the knobs of a solver with their default values.

    Raises:
        ConfigError: If there is no solver of that name.
    """
    solver = _find(name)
    return {field.name: field.default for field in dataclasses.fields(solver)}  # type: ignore[arg-type]


def get_solver(name: str, **options: Any) -> Solver[Any]:
    """Make the solver of that name.

    Args:
        name: One of :func:`solver_names`.
        **options: Its knobs; see the class for ranges.

    Raises:
        ConfigError: If there is no such solver, it has no such knob, or a value is out of range.
    """
    solver, known = _find(name), solver_options(name)
    for option in options:
        if option not in known:
            raise ConfigError(
                f"solver '{name}' has no option '{option}'; it has {', '.join(known)}."
            )
    return solver(**options)


def _find(name: str) -> type[Solver[Any]]:
    if name not in _SOLVERS:
        raise ConfigError(f"there is no solver '{name}'; there are {', '.join(_SOLVERS)}.")
    return _SOLVERS[name]
