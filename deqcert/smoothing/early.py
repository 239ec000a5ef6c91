"""A depth that each row chooses for itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deqcert import kernels
from deqcert.errors import ConfigError
from deqcert.kernels import NFE, STATUS
from deqcert.solvers import Solver, SolveResult, Status, StopRule
from deqcert.solvers.cells import Cell
from deqcert.solvers.flight import Flight


@dataclass(frozen=True, slots=True)
class EarlyStop:
    """End a row after the first step that began at a small residual.

    Unlike a tolerance, which returns the best state that was evaluated and lets other rows vote
    for nobody, this one reads out the state *after* the step (its evaluation is paid for, and it is
    usually the better one), and a row that never gets there is read out at the full depth. So every
    row votes, at a depth that is a function of that row alone.

    Args:
        residual: Relative residual ``||f(z) - z|| / ||f(z)||`` at which the step is the row's last,
            above 0. Unlike a tolerance it need not be small: 0.05 to 0.3 are usual.

    Raises:
        ConfigError: If the value is out of range.
    """

    residual: float

    def __post_init__(self) -> None:
        if not 0.0 < self.residual < float("inf"):
            raise ConfigError(f"early is {self.residual}, but it must be above 0.")


class EarlyFlight(Flight):
    """Rows in flight of which each ends by an early stop, or at the fixed depth.

    Args:
        solver: The method.
        z: Start states, shape (B, D); taken over and overwritten.
        stop: The fixed depth.
        early: When a row ends before it.
    """

    def __init__(self, solver: Solver[Any], z: Tensor, stop: StopRule, early: EarlyStop) -> None:
        super().__init__(solver, z, stop)
        self.early = early

    def advance(self, cell: Cell) -> tuple[Tensor, SolveResult]:
        """Evaluate every row once and step; see :meth:`Flight.advance`."""
        watched = WatchedCell(cell)
        ended, part = super().advance(watched)
        running = self.watch.progress[:, STATUS] < 0
        rows = torch.nonzero(running & (watched.residual <= self.early.residual)).squeeze(1)
        if not rows.numel():
            return ended, part
        return torch.cat([ended, rows]), SolveResult(
            z=torch.cat([part.z, self.z[rows]]),
            # Nobody evaluated the cell at the state after the step.
            residual=torch.cat([part.residual, part.residual.new_full(rows.shape, torch.nan)]),
            status=torch.cat([part.status, part.status.new_full(rows.shape, Status.CONVERGED)]),
            nfe=torch.cat([part.nfe, self.watch.progress[rows, NFE].long()]),
        )


class WatchedCell:
    """A cell that remembers the relative residual of what it was last given.

    Attributes:
        residual: Of each row, shape (b,), float64; NaN or infinite where a value is not finite.
    """

    def __init__(self, cell: Cell) -> None:
        self._cell = cell
        self.residual = torch.empty(0)

    def __call__(self, z: Tensor, /) -> Tensor:
        """Evaluate the rows z, shape (b, D)."""
        fz = self._cell(z).contiguous()
        square, scale = kernels.residual_norms(z, fz)
        self.residual = (square / scale).sqrt()
        return fz

    def select(self, rows: Tensor, /) -> Cell:
        """Return the cell of the given rows, no longer watched."""
        return self._cell.select(rows)
