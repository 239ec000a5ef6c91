"""What a gradient method is, and the one call that uses it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Protocol

from torch import Tensor

from deqcert.solvers.base import Solver
from deqcert.solvers.result import SolveResult, StopRule


class Gradient(Protocol):
    """A way to obtain an equilibrium that a loss can be differentiated through.

    Attributes:
        name: What it is asked for by.
        solves: Whether it solves the equation, with the solver that it is given. One that does
            not, such as unrolling, differentiates its own evaluations, back to the start state, and
            says how many there are by ``steps``. A method without this attribute solves.
    """

    name: ClassVar[str]
    solves: ClassVar[bool] = True

    def solve(
        self,
        f: Callable[..., Tensor],
        z0: Tensor,
        context: tuple[Tensor, ...],
        solver: Solver[Any],
        stop: StopRule,
    ) -> tuple[Tensor, SolveResult | None]:
        """Return z*, shape (B, D), with its gradient attached, and how the solve ended."""
        ...


def unrolls(gradient: Gradient | type[Gradient]) -> bool:
    """Whether a method differentiates evaluations of its own in place of a solve."""
    return not getattr(gradient, "solves", True)


def equilibrium(
    f: Callable[..., Tensor],
    z0: Tensor,
    *context: Tensor,
    solver: Solver[Any],
    stop: StopRule,
    gradient: Gradient,
) -> tuple[Tensor, SolveResult | None]:
    """Solve ``z = f(z, *context)`` so that a loss on z* has gradients.

    The low-level call, on rows of one flat tensor; :func:`deqcert.solvers.solve` takes any
    structure. Gradients flow to the context tensors and to the parameters inside f, not to z0 (but
    for ``unroll``).

    Args:
        f: The cell, from (B, D) and the context of the same rows to (B, D), rows independent.
        z0: Start states, shape (B, D).
        *context: Tensors with one entry per row, such as the injection.
        solver: Solves the forward problem.
        stop: When the forward solve ends.
        gradient: How to go backward; see :func:`get_gradient`.

    Returns:
        z*, shape (B, D), and how the solve ended (None for ``unroll``, which does not solve).
    """
    return gradient.solve(f, z0, context, solver, stop)
