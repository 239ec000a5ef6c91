"""The solvers by name: built in, brought by a plugin, or registered by a program."""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING, Any, TypeVar

from deqcert.errors import ConfigError
from deqcert.registry import Registry, make_named

if TYPE_CHECKING:
    from deqcert.solvers.base import Solver

S = TypeVar("S", bound="type[Solver[Any]]")

SOLVERS: Registry[type[Solver[Any]]] = Registry(
    "solver",
    {
        "picard": "deqcert.solvers.picard:Picard",
        "anderson": "deqcert.solvers.anderson:Anderson",
        "broyden": "deqcert.solvers.broyden:Broyden",
    },
)
"""Fixed-point methods; each is a dataclass whose fields are its options
(:func:`deqcert.options.options_of` says their ranges). Packages add theirs through the entry
points ``deqcert.solvers``."""


def get_solver(name: str, **options: Any) -> Solver[Any]:
    """Make the solver of that name.

    Args:
        name: One of the names of :data:`SOLVERS`.
        **options: Its options; see the class for ranges.

    Raises:
        ConfigError: If there is no such solver, it has no such option, or a value is out of range.
    """
    return make_named(SOLVERS, name, options)


def register_solver(solver: S) -> S:
    """Make a solver known by its name, everywhere that a solver is asked for by name.

    Args:
        solver: A subclass of :class:`deqcert.solvers.Solver` and a frozen dataclass, with a
            default for every field and a ``name`` of its own. Registered again, it takes the
            place of the one before, so that a notebook's cell can be run twice.

    Returns:
        The class, so that this serves as a decorator, above ``@dataclass(frozen=True)``.

    Raises:
        ConfigError: If it is none of this, or its name belongs to another solver.
    """
    from deqcert.solvers.base import Solver

    label = getattr(solver, "__name__", repr(solver))
    if not isinstance(solver, type) or not issubclass(solver, Solver):
        raise ConfigError(f"{label} cannot be registered; derive it from deqcert.solvers.Solver.")
    name = getattr(solver, "name", None)
    if not isinstance(name, str):
        raise ConfigError(f"solver {label} has no name; give it one, as in name = 'my-solver'.")
    if "__dataclass_fields__" not in vars(solver):
        raise ConfigError(f"solver '{name}' is no dataclass; put @dataclass(frozen=True) above it.")
    for entry in dataclasses.fields(solver):  # type: ignore[arg-type]
        if entry.default is dataclasses.MISSING:
            raise ConfigError(
                f"option {entry.name} of solver '{name}' has no default; give it one."
            )
    if name in SOLVERS and not SOLVERS.announced(name, solver):
        there = SOLVERS.get(name)
        if (there.__module__, there.__qualname__) != (solver.__module__, solver.__qualname__):
            raise ConfigError(f"there is a solver '{name}' already; give yours another name.")
    SOLVERS.register(name, solver, replace=True)
    inside = sys.modules.get("deqcert.solvers.torchdeq")
    if inside is not None:
        inside.offer(name)
    return solver
