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
    """The function whose fixed point is wanted, over rows that do not influence each other.

    It returns a new tensor and leaves the state that it is given as it is.
    """

    def __call__(self, z: Tensor, /) -> Tensor:
        """Evaluate the rows z, shape (b, D), and return the same shape."""
        ...

    def select(self, rows: Tensor, /) -> Cell:
        """Return the cell of the given rows alone; indices into the present rows, shape (b,)."""
        ...


@dataclass(frozen=True, slots=True)
class BoundCell:
    """A function of the state and of one context entry per row."""

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
    """A plain callable, always given every row: what it captured cannot be restricted.

    Attributes:
        function: The callable.
        everything: States of all rows, shape (B, D); a row that has ended stays at its solution.
        rows: Which of them still run, shape (b,).
    """

    function: Callable[[Tensor], Tensor]
    everything: Tensor
    rows: Tensor

    def __call__(self, z: Tensor, /) -> Tensor:
        """Evaluate all rows, those that ended at the state that is returned for them."""
        if len(self.rows) == len(self.everything):
            return self.function(z)
        self.everything[self.rows] = z
        value = self.function(self.everything)
        check_value(value, self.everything)
        return value[self.rows]

    def end(self, rows: Tensor, z: Tensor) -> None:
        """Keep rows where they ended; indices into all rows, shape (b,), and states (b, D)."""
        self.everything[rows] = z

    def select(self, rows: Tensor, /) -> WholeBatchCell:
        """Remember which rows still run."""
        return WholeBatchCell(self.function, self.everything, self.rows[rows])


def bind(function: Callable[..., Tensor], *context: Tensor) -> BoundCell:
    """Make a cell from ``function(z, *context)``; finished rows are then not evaluated again.

    Args:
        function: Maps a state (b, D) and the context of the same b rows to (b, D).
        *context: Tensors with one entry per row in front, such as the injection.

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


def check_value(fz: Tensor, z: Tensor) -> None:
    """Refuse what a cell must not return for a state.

    Raises:
        SolverError: If it is no tensor, or of another shape or type.
    """
    if not isinstance(fz, Tensor):
        raise SolverError(
            f"the cell returned {'None' if fz is None else f'a {type(fz).__name__}'}, but it must "
            f"return a tensor of the same shape and type as the state, {tuple(z.shape)} {z.dtype}."
        )
    if fz.shape != z.shape or fz.dtype != z.dtype:
        raise SolverError(
            f"the cell returned {tuple(fz.shape)} {fz.dtype} for a state of {tuple(z.shape)} "
            f"{z.dtype}, but it must return the same shape and type."
        )


def share_memory(one: Tensor, other: Tensor) -> bool:
    """Whether two contiguous tensors overlap in memory."""
    first, second = one.data_ptr(), other.data_ptr()
    if first <= second:
        return second < first + one.nbytes
    return first < second + other.nbytes
