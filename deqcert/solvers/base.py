"""A fixed-point method, and the one loop that every method shares."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Generic, Self, TypeVar

import torch
from torch import Tensor

from deqcert.errors import SolverError
from deqcert.kernels import Watch
from deqcert.options import check_options
from deqcert.solvers.cells import Cell, WholeBatchCell, as_cell
from deqcert.solvers.loop import SolveLoop, keep_rows
from deqcert.solvers.result import SolveResult, StopRule


@dataclass(slots=True)
class State:
    """What a method remembers between steps: tensors with one entry per row in front."""

    def select(self, keep: Tensor) -> None:
        """Keep only the rows whose indices are given, shape (b,), int64."""
        for field in dataclasses.fields(self):
            setattr(self, field.name, keep_rows(getattr(self, field.name), keep))

    def restart(self, rows: Tensor) -> None:
        """Forget everything about the rows whose indices are given, shape (b,), int64."""
        for field in dataclasses.fields(self):
            getattr(self, field.name)[rows] = 0

    def adopt(self, places: slice, other: Self, rows: Tensor) -> None:
        """Remember, in some places, what another memory remembers of its given rows."""
        for field in dataclasses.fields(self):
            getattr(self, field.name)[places] = getattr(other, field.name)[rows]


S = TypeVar("S", bound=State)


class Solver(ABC, Generic[S]):
    """A fixed-point method: algebra on states, never a call of the cell.

    A method is a frozen dataclass whose fields are its options, with :meth:`init` and :meth:`step`.
    """

    name: ClassVar[str]

    def __post_init__(self) -> None:
        check_options(self)

    @abstractmethod
    def init(self, z: Tensor) -> S:
        """Make the memory for a batch that starts at z, shape (B, D)."""

    @abstractmethod
    def step(
        self, z: Tensor, fz: Tensor, state: S, out: Tensor, watch: Watch | None = None
    ) -> None:
        """Write the next states, shape (b, D), into ``out`` and bring ``state`` up to date.

        The watch is what the loop keeps of the rows. A method hands it to its kernel, or calls
        :func:`deqcert.kernels.judge` before it writes ``out`` and :func:`deqcert.kernels.finish`
        after.
        """

    def solve(
        self, f: Callable[[Tensor], Tensor], z0: Tensor, stop: StopRule | None = None
    ) -> SolveResult:
        """Find z with f(z) = z for every row.

        Rows are independent: a row that ends costs nothing more, and a row that overflows touches
        no other. A plain callable is always given all B rows, because it may have captured one
        input per row, and those that ended at the state that is returned for them; make it a cell
        with :func:`deqcert.solvers.bind` and it is given only the rows that still run.

        Args:
            f: The cell, from (b, D) to (b, D), rows independent.
            z0: Start states, shape (B, D), float32, float64 or bfloat16. With
                bfloat16, relative residuals end near 0.01.
            stop: When to stop; the default is ``StopRule()``.

        Returns:
            A :class:`SolveResult`; ``residual`` and ``status`` describe the returned states.

        Raises:
            SolverError: If z0 or what f returns has a shape or a type that cannot be used, or f
                works in place on the state that it is given.
        """
        stop = stop or StopRule()
        _check_start(z0)
        with torch.no_grad():
            return self._loop(as_cell(f, z0), z0.detach().contiguous(), stop)

    def _loop(self, cell: Cell, z0: Tensor, stop: StopRule) -> SolveResult:
        rows = torch.arange(z0.shape[0], device=z0.device)
        loop = SolveLoop(self, z0, stop)
        result = loop.nothing
        while rows.numel():
            ended, part = loop.advance(cell)
            if ended.numel() == 0:
                continue
            if ended.numel() == len(z0):
                return part
            if rows.numel() == len(z0):  # not before, because it is one state more
                result = _room_for(z0)
            gone = rows[ended]
            result.z[gone] = part.z
            result.residual[gone] = part.residual
            result.status[gone] = part.status
            result.nfe[gone] = part.nfe
            if isinstance(cell, WholeBatchCell):
                cell.end(gone, part.z)
            remaining = _fill_gaps(len(rows), ended)
            rows = rows[remaining]
            if rows.numel():
                loop.select(remaining)
                cell = cell.select(remaining)
        return result


def _room_for(z0: Tensor) -> SolveResult:
    rows = z0.new_empty(len(z0), dtype=torch.float64)
    return SolveResult(
        torch.empty_like(z0), rows, rows.new_empty(len(z0), dtype=torch.int8), rows.long()
    )


def _fill_gaps(count: int, gone: Tensor) -> Tensor:
    """Indices of the rows that stay, the last ones in the places of those that are gone."""
    stays = torch.ones(count, dtype=torch.bool, device=gone.device)
    stays[gone] = False
    left = count - len(gone)
    remaining = torch.arange(left, device=gone.device)
    remaining[~stays[:left]] = left + torch.nonzero(stays[left:]).squeeze(1)
    return remaining


def _check_start(z0: Tensor) -> None:
    if not isinstance(z0, Tensor):
        raise SolverError(f"the start state is a {type(z0).__name__}, but it must be a tensor.")
    if z0.device.type == "meta":
        raise SolverError("the start state is on the meta device, where nothing is computed.")
    if z0.ndim != 2 or not z0.shape[1]:
        raise SolverError(
            f"the start state has shape {tuple(z0.shape)}, but a solver takes (rows, elements); "
            "deqcert.solvers.solve takes any shape."
        )
    if z0.dtype not in (torch.float32, torch.float64, torch.bfloat16):
        raise SolverError(
            f"the start state is {z0.dtype}, but it must be float32, float64 or bfloat16; "
            "deqcert.solvers.solve takes others."
        )
