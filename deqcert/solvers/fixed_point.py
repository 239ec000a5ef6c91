"""Solve on states of any shape, or on tuples of tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deqcert.errors import SolverError
from deqcert.solvers.base import Solver
from deqcert.solvers.cells import BoundCell, bind
from deqcert.solvers.registry import get_solver
from deqcert.solvers.result import SolveResult, StopRule

Structure = Tensor | tuple[Tensor, ...]


@dataclass(slots=True)
class StructuredResult(SolveResult):
    """A :class:`SolveResult` whose ``z`` has the structure of the start state."""

    z: Structure  # type: ignore[assignment]


def solve(
    f: Callable[..., Structure],
    z0: Structure,
    *context: Tensor,
    method: str | Solver[Any] = "anderson",
    stop: StopRule | None = None,
) -> StructuredResult:
    """Find z with f(z, *context) = z for every row of a tensor, or of a tuple of tensors.

    Args:
        f: The cell; maps the structure of z0 to the same structure. Rows (the first dimension)
            must be independent.
        z0: Start state: a tensor of shape (B, ...), or a tuple of such tensors with the same B.
        *context: Tensors with one entry a row that f takes after the state; given here rather than
            captured, they are restricted to the rows that still run.
        method: A solver, or its name with default knobs.
        stop: When to stop; the default is ``StopRule()``.

    Returns:
        The result; ``z`` has the structure of z0.

    Raises:
        SolverError: If the tensors of z0 differ in rows, type or device.
    """
    solver = get_solver(method) if isinstance(method, str) else method
    layout = _Layout.of(z0)

    def flat(z: Tensor, *present: Tensor) -> Tensor:
        return layout.pack(f(layout.unpack(z), *present))

    cell: BoundCell | Callable[[Tensor], Tensor] = bind(flat, *context) if context else flat
    result = solver.solve(cell, layout.pack(z0), stop)
    return StructuredResult(layout.unpack(result.z), result.residual, result.status, result.nfe)


@dataclass(frozen=True, slots=True)
class _Layout:
    """How a structure maps to rows of one flat tensor."""

    shapes: tuple[torch.Size, ...]
    single: bool

    @classmethod
    def of(cls, z: Structure) -> _Layout:
        parts = (z,) if isinstance(z, Tensor) else tuple(z)
        if not parts or any(part.ndim == 0 for part in parts):
            raise SolverError("the start state must have rows: at least one dimension a tensor.")
        if len({(part.shape[0], part.dtype, part.device) for part in parts}) > 1:
            raise SolverError(
                "the tensors of the start state must have the same number of rows, type and device."
            )
        return cls(tuple(part.shape[1:] for part in parts), isinstance(z, Tensor))

    def pack(self, z: Structure) -> Tensor:
        parts = (z,) if isinstance(z, Tensor) else tuple(z)
        if self.shapes != tuple(part.shape[1:] for part in parts):
            raise SolverError(
                f"the cell returned shapes {[tuple(part.shape[1:]) for part in parts]} a row for a "
                f"state of {[tuple(shape) for shape in self.shapes]}, but they must be the same."
            )
        return torch.cat([part.reshape(part.shape[0], -1) for part in parts], dim=1)

    def unpack(self, z: Tensor) -> Structure:
        sizes = [shape.numel() for shape in self.shapes]
        parts = tuple(
            part.reshape(z.shape[0], *shape)
            for part, shape in zip(torch.split(z, sizes, dim=1), self.shapes, strict=True)
        )
        return parts[0] if self.single else parts
