"""Batched fixed-point solvers with a status, a residual and an exact count for every row."""

from __future__ import annotations

from deqcert.solvers.anderson import Anderson
from deqcert.solvers.base import Solver
from deqcert.solvers.broyden import Broyden
from deqcert.solvers.cells import Cell, bind
from deqcert.solvers.picard import Picard
from deqcert.solvers.registry import get_solver, solver_names, solver_options
from deqcert.solvers.result import SolveResult, Status, StopRule
from deqcert.solvers.structured import solve

__all__ = [
    "Anderson",
    "Broyden",
    "Cell",
    "Picard",
    "SolveResult",
    "Solver",
    "Status",
    "StopRule",
    "bind",
    "get_solver",
    "solve",
    "solver_names",
    "solver_options",
]
