"""Implicit differentiation: the gradient of a loss on z* without storing the solve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from deqcert.errors import SolverError
from deqcert.solvers.anderson import Anderson
from deqcert.solvers.base import Solver
from deqcert.solvers.gradients.adjoint import AdjointCell, AdjointMemory
from deqcert.solvers.result import SolveResult, StopRule
from deqcert.solvers.transforms import Transforms, solve_rows


@dataclass(frozen=True)
class Implicit:
    """Implicit differentiation.

    At z* = f(z*, c) the implicit function theorem gives ``dL/dc = (df/dc)^T g`` with
    ``g = (df/dz)^T g + dL/dz*``, a fixed-point problem as well. Exact up to the two tolerances;
    memory of one cell evaluation. Gradients of gradients are refused, and so are forward-mode
    derivatives: both would need the derivative of the solve of g.

    Args:
        solver: Solves the adjoint equation.
        stop: When the adjoint is accurate enough. Rows that do not get there use their best state;
            which these are says ``memory.ended``.
        memory: Where the adjoint of an earlier pass over the same rows is; each backward pass
            starts there and leaves its own.

    **Source:** Bai, Kolter, Koltun 2019, "Deep Equilibrium Models", theorem 1.
    """

    name: ClassVar[str] = "implicit"
    solves: ClassVar[bool] = True
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
        result = solve_rows(f, z0, context, solver, stop)
        transforms = Transforms.active()
        z = result.z.detach().requires_grad_() if transforms is None else transforms.leaf(result.z)
        fz = f(z, *context)
        # Only outside torch.func can f be evaluated again in the backward pass.
        again = (f, context) if transforms is None else None
        return _WithAdjoint.apply(fz, z, _Adjoint(self, again)), result  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class _Adjoint:
    """How the adjoint equation of one solve is solved."""

    method: Implicit
    again: tuple[Callable[..., Tensor], tuple[Tensor, ...]] | None

    def __call__(self, grad: Tensor, z: Tensor, fz: Tensor) -> Tensor:
        solver, stop = self.method.solver, self.method.stop
        if torch._C._functorch.is_legacy_batchedtensor(grad):
            raise SolverError(
                "is_grads_batched and vectorize do not go through adjoint='implicit'; "
                "use torch.func.jacrev."
            )
        transforms = Transforms.active()
        if transforms is None and self.again is not None:
            memory = self.method.memory or AdjointMemory()
            cell = AdjointCell(self.again[0], z, fz, self.again[1], grad)
            ended = solver.solve(cell, memory.start(grad), stop)
            memory.keep(grad, ended.z)
            memory.ended = ended
            return ended.z
        if transforms is None:  # made inside torch.func: mapped, and f cannot be evaluated again
            rows = grad.reshape(-1, grad.shape[-1])
            found = solver.solve(
                lambda g: (_product(fz, z, g.view(grad.shape)) + grad).view(rows.shape), rows, stop
            )
            return found.z.view(grad.shape)
        start = transforms.lower(grad)
        found = transforms.solve(
            lambda g: _product(fz, z, g) + transforms.lift(start), start, solver, stop
        )
        return transforms.lift(found.z)


def _product(fz: Tensor, z: Tensor, g: Tensor) -> Tensor:
    """The transposed Jacobian of f at z times g."""
    (value,) = torch.autograd.grad(fz, z, g, retain_graph=True)
    return value


class _WithAdjoint(torch.autograd.Function):
    """The identity on f(z), with a backward pass that solves the adjoint equation."""

    @staticmethod
    def forward(fz: Tensor, z: Tensor, adjoint: _Adjoint) -> Tensor:
        return fz.view_as(fz)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.fz, ctx.z, ctx.adjoint = inputs

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        with torch.no_grad():
            found = ctx.adjoint(grad.contiguous(), ctx.z, ctx.fz)
        if torch.is_grad_enabled():  # somebody may differentiate what is returned
            found = _OnlyOnce.apply(found, grad, ctx.fz)  # type: ignore[no-untyped-call]
        return found, None, None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], fz: Tensor, z: Tensor, adjoint: _Adjoint
    ) -> tuple[Tensor, int]:
        return _WithAdjoint.apply(_in_front(info, in_dims[0], fz), z, adjoint), 0  # type: ignore[no-untyped-call]

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        raise SolverError(
            "forward-mode derivatives (jvp, jacfwd, hessian) do not go through adjoint='implicit'; "
            "use vjp or jacrev, or adjoint='unroll'."
        )


class _OnlyOnce(torch.autograd.Function):
    """The identity on a solved adjoint, which cannot be differentiated again."""

    @staticmethod
    def forward(found: Tensor, grad: Tensor, fz: Tensor) -> Tensor:
        return found.view_as(found)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None, None]:
        raise SolverError(
            "adjoint='implicit' gives first derivatives only; for derivatives of gradients use "
            "adjoint='unroll', with a stop rule that converges."
        )

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], found: Tensor, grad: Tensor, fz: Tensor
    ) -> tuple[Tensor, int]:
        moved = (_in_front(info, dim, t) for dim, t in zip(in_dims, (found, grad, fz), strict=True))
        return _OnlyOnce.apply(*moved), 0  # type: ignore[no-untyped-call]

    jvp = _WithAdjoint.jvp


def _in_front(info: Any, dim: int | None, tensor: Tensor) -> Tensor:
    """Return a tensor whose mapped dimension is the first one."""
    if dim is None:
        return tensor.expand(info.batch_size, *tensor.shape)
    return tensor if dim == 0 else tensor.movedim(dim, 0)
