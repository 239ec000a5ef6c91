from .adjoint import AdjointMemory
from .base import Gradient, equilibrium, unrolls
from .implicit import Implicit
from .phantom import Phantom
from .registry import GRADIENTS, get_gradient
from .unroll import Unroll

__all__ = [
    "GRADIENTS",
    "AdjointMemory",
    "Gradient",
    "Implicit",
    "Phantom",
    "Unroll",
    "equilibrium",
    "get_gradient",
    "unrolls",
]
