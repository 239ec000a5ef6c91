from .anderson import Anderson
from .base import Solver, State
from .broyden import Broyden
from .cells import Cell, bind
from .fixed_point import Solution, solve
from .picard import Picard
from .registry import SOLVERS, get_solver, register_solver
from .result import SolveResult, Status, StopRule
from .warm import Warm

__all__ = [
    "SOLVERS",
    "Anderson",
    "Broyden",
    "Cell",
    "Picard",
    "Solution",
    "SolveResult",
    "Solver",
    "State",
    "Status",
    "StopRule",
    "Warm",
    "bind",
    "get_solver",
    "register_solver",
    "solve",
]
