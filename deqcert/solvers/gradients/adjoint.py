"""The adjoint equation of an equilibrium, as a cell that our solvers know."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from deqcert.solvers.result import SolveResult

SHRINK = 0.6
"""A graph of the rows that still run is made when no larger share of the present graph's is left.

It costs one evaluation of them, and each product that follows is cheaper by what has ended.
"""


class AdjointMemory:
    """The last adjoint of some rows, for a later solve of the same rows to start from.

    For passes that differ little, such as the steps of an attack: what the Jacobian added to the
    right-hand side then, scaled to the present one, is added to it now. Each solve leaves its own
    adjoint here; one whose rows have another shape is ignored.

    Attributes:
        ended: How the last solve ended, per row: its status says where the adjoint, and so the
            gradient, is only the best state there was. None before the first.
    """

    def __init__(self) -> None:
        self._grad: Tensor | None = None
        self._adjoint: Tensor | None = None
        self.ended: SolveResult | None = None

    def start(self, grad: Tensor) -> Tensor:
        """Return where the solve for a right-hand side, shape (B, D), should start."""
        if self._grad is None or self._adjoint is None or self._grad.shape != grad.shape:
            # The first evaluation from zero would give the right-hand side: begin there.
            return grad
        size = self._grad.square().sum(dim=1, keepdim=True).clamp(min=1e-30)
        scale = (self._grad * grad).sum(dim=1, keepdim=True) / size
        start = grad + scale * (self._adjoint - self._grad)
        return torch.where(torch.isfinite(start).all(dim=1, keepdim=True), start, grad)

    def keep(self, grad: Tensor, adjoint: Tensor) -> None:
        """Remember a right-hand side and its adjoint, shape (B, D)."""
        self._grad, self._adjoint = grad, adjoint


class AdjointCell:
    """``g -> (df/dz)^T g + dL/dz`` at given states; rows that have ended are left out.

    A product with the transposed Jacobian goes backward through one evaluation of f, and that of a
    row that has ended costs as much as that of any other.

    Args:
        f: The cell, from (B, D) and the context of the same rows to (B, D), rows independent.
        z: States, shape (B, D), a leaf that needs gradients.
        fz: ``f(z, *context)`` with its graph.
        context: Tensors with one entry per row.
        grad: Gradient of the loss, dL/dz, shape (b, D), of the rows that run.
        rows: Which these are; all if not given.
    """

    def __init__(
        self,
        f: Callable[..., Tensor],
        z: Tensor,
        fz: Tensor,
        context: tuple[Tensor, ...],
        grad: Tensor,
        rows: Tensor | None = None,
    ) -> None:
        self._f, self._z, self._fz, self._context = f, z, fz, context
        self._grad, self._rows = grad, rows

    def __call__(self, g: Tensor, /) -> Tensor:
        """Evaluate the present rows, shape (b, D)."""
        if self._rows is None:
            return self._product(g) + self._grad
        whole = torch.zeros_like(self._z)
        whole[self._rows] = g
        return self._product(whole)[self._rows] + self._grad

    def select(self, rows: Tensor, /) -> AdjointCell:
        """Return the cell of the given rows alone; indices into the present rows, shape (b,)."""
        grad = self._grad[rows]
        rows = rows if self._rows is None else self._rows[rows]
        # A cell without context may have captured something per row: it is not cut down.
        if not self._context or len(rows) > SHRINK * len(self._z):
            return AdjointCell(self._f, self._z, self._fz, self._context, grad, rows)
        z = self._z.detach()[rows].requires_grad_()
        context = tuple(entry.detach()[rows] for entry in self._context)
        with torch.enable_grad():
            fz = self._f(z, *context)
        return AdjointCell(self._f, z, fz, context, grad)

    def _product(self, g: Tensor) -> Tensor:
        return torch.autograd.grad(self._fz, self._z, g, retain_graph=True)[0]
