"""Implicit differentiation: the gradient of a loss on z* without storing the solve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from deqcert.solvers.anderson import Anderson
from deqcert.solvers.base import Solver
from deqcert.solvers.cells import bind
from deqcert.solvers.gradients.adjoint import AdjointCell, AdjointMemory
from deqcert.solvers.result import SolveResult, StopRule


@dataclass(frozen=True)
class Implicit:
    """Implicit differentiation.

    At z* = f(z*, c) the implicit function theorem gives ``dL/dc = (df/dc)^T g`` with
    ``g = (df/dz)^T g + dL/dz*``, a fixed-point problem as well. Exact up to the two tolerances;
    memory of one cell evaluation.

    Args:
        solver: Solves the adjoint equation.
        stop: When the adjoint is accurate enough. Rows that do not get there use their best state.
        memory: Where the adjoint of an earlier pass over the same rows is; each backward pass
            starts there and leaves its own.

    Source: Bai, Kolter, Koltun 2019, "Deep Equilibrium Models", theorem 1.
    """

    name: ClassVar[str] = "implicit"
    solver: Solver[Any] = field(default_factory=Anderson)
    stop: StopRule = field(default_factory=lambda: StopRule(tol=1e-3, max_nfe=20))
    memory: AdjointMemory | None = None

    def solve(
        self,
        f: Callable[..., Tensor],
        z0: Tensor,
        context: tuple[Tensor, ...],
        solver: Solver[Any],
        stop: StopRule,
    ) -> tuple[Tensor, SolveResult | None]:
        """Solve without a graph, then attach one evaluation and the adjoint solve."""
        result = solver.solve(bind(f, *context), z0, stop)
        z = result.z.detach().requires_grad_()
        fz = f(z, *context)

        def adjoint(grad: Tensor) -> Tensor:
            memory = self.memory or AdjointMemory()
            cell = AdjointCell(f, z, fz, context, grad)
            found = self.solver.solve(cell, memory.start(grad), self.stop).z
            memory.keep(grad, found)
            return found

        return _WithAdjoint.apply(fz, adjoint), result  # type: ignore[no-untyped-call]


class _WithAdjoint(torch.autograd.Function):
    """The identity, with a backward pass that solves the adjoint equation."""

    @staticmethod
    def forward(ctx: Any, fz: Tensor, adjoint: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.adjoint = adjoint
        return fz.view_as(fz)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.adjoint(grad.contiguous()), None
