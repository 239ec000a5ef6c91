"""Solves inside torch.func: a solver sees plain rows, whatever transforms a cell is under.

``vmap`` over problems makes more rows; ``grad``, ``vjp`` and ``jacrev`` differentiate one
evaluation at the solution, as outside. What torch.func knows of its transforms is not public, so
all that is read of it stands in this file.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from deqcert.errors import SolverError
from deqcert.solvers.base import Solver
from deqcert.solvers.cells import bind
from deqcert.solvers.result import SolveResult, StopRule


def solve_rows(
    f: Callable[..., Tensor],
    z0: Tensor,
    context: tuple[Tensor, ...],
    solver: Solver[Any],
    stop: StopRule,
) -> SolveResult:
    """Solve ``z = f(z, *context)`` without a graph, inside torch.func or outside.

    Args:
        f: The cell, from (B, D) and the context of the same rows to (B, D), rows independent.
            Without a context it is given all rows at every evaluation, because it may have
            captured something per row.
        z0: Start states, shape (B, D).
        context: Tensors with one entry per row.
        solver: The method.
        stop: When a row ends.
    """
    transforms = Transforms.active()
    if transforms is None:
        return solver.solve(bind(f, *context) if context else f, z0, stop)
    with torch.no_grad(), _no_tangents():
        start = transforms.lower(z0)
        found = transforms.solve(lambda z: f(z, *context), start, solver, stop)
    return SolveResult(*map(transforms.lift, (found.z, found.residual, found.status, found.nfe)))


@dataclass(frozen=True)
class Transforms:
    """The torch.func transforms that are active here, outermost first."""

    stack: tuple[Any, ...]

    @classmethod
    def active(cls) -> Transforms | None:
        """Return those of this place, or None outside torch.func.

        Raises:
            SolverError: If there is one that a solve cannot be inside of.
        """
        if not torch._C._are_functorch_transforms_active():
            return None
        from torch._functorch.pyfunctorch import retrieve_all_functorch_interpreters

        stack = tuple(retrieve_all_functorch_interpreters())
        for level in stack:
            if _kind(level) not in ("Vmap", "Grad", "Jvp"):
                raise SolverError(
                    f"a solve decides on values, which torch.func's {_kind(level).lower()} hides; "
                    "use vmap, grad, vjp or jacrev."
                )
        return cls(stack)

    def solve(
        self,
        f: Callable[[Tensor], Tensor],
        z0: Tensor,
        solver: Solver[Any],
        stop: StopRule,
    ) -> SolveResult:
        """Solve z = f(z) for a function inside the transforms, outside of them.

        Args:
            f: The function, of what :meth:`lift` returns.
            z0: Start states, plain, mapped dimensions in front, (..., D).
            solver: The method.
            stop: When a row ends.

        Returns:
            The result, plain, mapped dimensions in front.
        """
        front = z0.shape[:-1]

        def cell(rows: Tensor) -> Tensor:
            z = rows.view(z0.shape)
            with _inside(layers):
                value = self.lower(f(self.lift(z)))
            return value.reshape(rows.shape)

        with _outside() as layers:
            found = solver.solve(cell, z0.reshape(-1, z0.shape[-1]), stop)
            return SolveResult(
                found.z.view(z0.shape),
                found.residual.view(front),
                found.status.view(front),
                found.nfe.view(front),
            )

    def lower(self, tensor: Tensor) -> Tensor:
        """Return the values as a plain tensor, mapped dimensions in front."""
        with contextlib.ExitStack() as left:
            for level in reversed(self.stack):
                if _kind(level) == "Vmap":
                    tensor = torch._C._functorch._remove_batch_dim(
                        tensor, level.level(), level.batch_size(), 0
                    )
                else:
                    tensor = torch._C._functorch._unwrap_for_grad(tensor, level.level())
                left.enter_context(_popped())
            return tensor.detach().contiguous()

    def lift(self, plain: Tensor) -> Tensor:
        """Return a plain tensor, mapped dimensions in front, as the function inside sees it."""
        return self._wrap(plain, differentiable=False)

    def leaf(self, tensor: Tensor) -> Tensor:
        """Return the same values as a tensor that every active transform can differentiate by."""
        plain = self.lower(tensor)
        with _outside():
            plain = plain.clone().requires_grad_()
        return self._wrap(plain, differentiable=True)

    def _wrap(self, tensor: Tensor, *, differentiable: bool) -> Tensor:
        for level in self.stack:
            if _kind(level) == "Vmap":
                tensor = torch._C._functorch._add_batch_dim(tensor, 0, level.level())
            elif differentiable:
                tensor = torch._C._functorch._wrap_for_grad(tensor, level.level())
                with _may_require_grad():
                    tensor.requires_grad_()
        return tensor


@contextlib.contextmanager
def _popped() -> Iterator[None]:
    """Leave the innermost transform for a while."""
    layer = torch._C._functorch.pop_dynamic_layer_stack()
    try:
        yield
    finally:
        torch._C._functorch.push_dynamic_layer_stack(layer)


@contextlib.contextmanager
def _outside() -> Iterator[list[Any]]:
    """Leave all transforms for a while; they are handed out, innermost first."""
    layers: list[Any] = []
    try:
        while torch._C._functorch.peek_interpreter_stack() is not None:
            layers.append(torch._C._functorch.pop_dynamic_layer_stack())
        yield layers
    finally:
        for layer in reversed(layers):
            torch._C._functorch.push_dynamic_layer_stack(layer)


@contextlib.contextmanager
def _inside(layers: list[Any]) -> Iterator[None]:
    """Enter transforms again that :func:`_outside` has left."""
    for layer in reversed(layers):
        torch._C._functorch.push_dynamic_layer_stack(layer)
    try:
        yield
    finally:
        for _ in layers:
            torch._C._functorch.pop_dynamic_layer_stack()


def _kind(level: Any) -> str:
    return str(level.key()).rpartition(".")[2]


@contextlib.contextmanager
def _may_require_grad() -> Iterator[None]:
    before = torch._C._functorch.get_inplace_requires_grad_allowed()
    torch._C._functorch.set_inplace_requires_grad_allowed(True)
    try:
        yield
    finally:
        torch._C._functorch.set_inplace_requires_grad_allowed(before)


def _no_tangents() -> contextlib.AbstractContextManager[None]:
    return forward_ad._set_fwd_grad_enabled(False)
