from .anderson import Anderson
from .base import Solver, State
from .broyden import Broyden
from .cells import Cell, bind
from .fixed_point import solve
from .picard import Picard
from .registry import SOLVERS, get_solver, register_solver, solver_names, solver_options
from .result import SolveResult, Status, StopRule

__all__ = [
    "SOLVERS",
    "Anderson",
    "Broyden",
    "Cell",
    "Picard",
    "SolveResult",
    "Solver",
    "State",
    "Status",
    "StopRule",
    "bind",
    "get_solver",
    "register_solver",
    "solve",
    "solver_names",
    "solver_options",
]
