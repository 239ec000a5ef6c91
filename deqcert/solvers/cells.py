"""Cells that know which rows they are asked for, so that finished rows are not evaluated again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from deqcert.errors import SolverError


@runtime_checkable
class Cell(Protocol):
    """The function whose fixed point is wanted, over rows that do not influence each other."""

    def __call__(self, z: Tensor, /) -> Tensor:
        """Evaluate the rows z, shape (b, D), and return the same shape."""
        ...

    def select(self, rows: Tensor, /) -> Cell:
        """Return the cell of the given rows alone; indices into the present rows, shape (b,)."""
        ...


@dataclass(frozen=True, slots=True)
class BoundCell:
    """A function of the state and of one context entry a row."""

    function: Callable[..., Tensor]
    context: tuple[Tensor, ...]

    def __call__(self, z: Tensor, /) -> Tensor:
        """Evaluate the present rows."""
        return self.function(z, *self.context)

    def select(self, rows: Tensor, /) -> BoundCell:
        """Restrict the context to the given rows."""
        return BoundCell(self.function, tuple(entry[rows] for entry in self.context))


@dataclass(frozen=True, slots=True)
class WholeBatchCell:
    """A plain callable, always given every row: what it captured cannot be restricted."""

    function: Callable[[Tensor], Tensor]
    everything: Tensor
    rows: Tensor

    def __call__(self, z: Tensor, /) -> Tensor:
        """Evaluate all rows, those that ended at the state they ended in."""
        if len(self.rows) == len(self.everything):
            return self.function(z)
        self.everything[self.rows] = z
        return self.function(self.everything)[self.rows]

    def select(self, rows: Tensor, /) -> WholeBatchCell:
        """Remember which rows still run."""
        return WholeBatchCell(self.function, self.everything, self.rows[rows])


def bind(function: Callable[..., Tensor], *context: Tensor) -> BoundCell:
    """Make a cell from ``function(z, *context)``; finished rows are then not evaluated again.

    Args:
        function: Maps a state (b, D) and the context of the same b rows to (b, D).
        *context: Tensors with one entry a row in front, such as the injection.

    Raises:
        SolverError: If the context tensors differ in their number of rows.
    """
    if len({len(entry) for entry in context}) > 1:
        raise SolverError("every context tensor of a cell must have the same number of rows.")
    return BoundCell(function, context)


def as_cell(f: Callable[[Tensor], Tensor], z0: Tensor) -> Cell:
    """Return f itself where it can select rows, else a cell that gives it the whole batch."""
    if isinstance(f, Cell):
        return f
    return WholeBatchCell(f, z0.clone(), torch.arange(len(z0), device=z0.device))
