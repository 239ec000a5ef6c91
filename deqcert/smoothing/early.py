"""Early stops: a depth that each row chooses for itself.

Unlike a tolerance, which returns the best state that was evaluated and leaves rows that do not meet
it without a vote, an early stop reads out the state *after* the step that it ends with (its
evaluation is paid for, and it is usually the better one), and a row that never gets there is read
out at the full depth. So every row votes, at a depth that is a function of that row alone.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deqcert import kernels
from deqcert.errors import ConfigError
from deqcert.kernels import NFE, STATUS
from deqcert.solvers import Solver, SolveResult, Status, StopRule
from deqcert.solvers.cells import Cell
from deqcert.solvers.loop import SolveLoop, keep_rows


@dataclass(frozen=True, slots=True)
class EarlyStop:
    """End a row after the first step that began at a small residual.

    Args:
        residual: Relative residual ``||f(z) - z|| / ||f(z)||`` at which the step is the row's last,
            above 0. Unlike a tolerance it need not be small: 0.05 to 0.3 are usual.

    Raises:
        ConfigError: If the value is out of range.
    """

    residual: float
    readout: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        if not 0.0 < self.residual < float("inf"):
            raise ConfigError(f"early is {self.residual}, but it must be above 0.")

    def readouts(self, nfe: NDArray[np.int64]) -> int:
        """Count the readouts that cast no vote: none."""
        return 0

    def describe(self) -> str:
        """Say in words which step is a row's last."""
        return f"the first that begins at a residual (rel) of at most {self.residual:g}"


@dataclass(frozen=True, slots=True)
class DecidedStop:
    """End a row after the first step at which its class stands out from what a step changes.

    With l the logits before and l' after a step: when the gap between the two largest of l' exceeds
    ``margin * max |l' - l|``. It reads out at the start and after every step, which costs.

    Args:
        margin: What the gap is compared with, above 0; 1 to 10 are usual.
        readout: Measured time of a readout in times of a cell evaluation, at least 0. Each
            evaluation counts as ``1 + readout``: every readout but the one that casts the vote.

    Raises:
        ConfigError: If a value is out of range.
    """

    margin: float
    readout: float

    def __post_init__(self) -> None:
        if not 0.0 < self.margin < float("inf"):
            raise ConfigError(f"margin is {self.margin}, but it must be above 0.")
        if not 0.0 <= self.readout < float("inf"):
            raise ConfigError(
                f"the cost of a readout is {self.readout}, but it must be at least 0."
            )

    def readouts(self, nfe: NDArray[np.int64]) -> int:
        """Count the readouts that cast no vote, for rows of so many evaluations."""
        return int(nfe.sum())

    def describe(self) -> str:
        """Say in words which step is a row's last."""
        return (
            "the first after which the two largest logits are further apart than "
            f"{self.margin:g} times what the step changed in any ({self.readout:.2f} evaluations a "
            "readout)"
        )


class EarlyLoop(SolveLoop):
    """The loop of a solve whose rows each end by an early stop, or at the fixed depth.

    Args:
        solver: The method.
        z: Start states, shape (B, D); taken over and overwritten.
        stop: The fixed depth; its tolerance plays no part.
    """

    def __init__(self, solver: Solver[Any], z: Tensor, stop: StopRule) -> None:
        # One more than the depth: a row that ends there must have a next state, too. No tolerance,
        # which a depth of one evaluation leaves unused and a deeper solve would end by.
        deeper = dataclasses.replace(stop, tol=0.0, max_nfe=stop.max_nfe + 1)
        super().__init__(solver, z, deeper)
        self.most = stop.max_nfe

    @abstractmethod
    def settled(self) -> Tensor:
        """Say which rows may end after the step that was just made, shape (b,), bool."""

    def advance(self, cell: Cell) -> tuple[Tensor, SolveResult]:
        """Evaluate every row once and step; see :meth:`SolveLoop.advance`."""
        lost, part = super().advance(cell)
        nfe = self.watch.progress[:, NFE].long()
        settled = self.settled()
        running = self.watch.progress[:, STATUS] < 0
        rows = torch.nonzero(running & (settled | (nfe >= self.most))).squeeze(1)
        if not rows.numel():
            return lost, part
        status = torch.where(settled[rows], int(Status.CONVERGED), int(Status.MAX_NFE))
        return torch.cat([lost, rows]), SolveResult(
            z=torch.cat([part.z, self.z[rows]]),
            # The cell was never evaluated at the state after the step.
            residual=torch.cat([part.residual, part.residual.new_full(rows.shape, torch.nan)]),
            status=torch.cat([part.status, status.to(part.status.dtype)]),
            nfe=torch.cat([part.nfe, nfe[rows]]),
        )


class ResidualLoop(EarlyLoop):
    """Rows that end by the residual that a step began at; see :class:`EarlyStop`.

    Args:
        solver: The method.
        z: Start states, shape (B, D); taken over and overwritten.
        stop: The fixed depth; its tolerance plays no part.
        early: The rule.
    """

    def __init__(self, solver: Solver[Any], z: Tensor, stop: StopRule, early: EarlyStop) -> None:
        super().__init__(solver, z, stop)
        self.early = early
        self._watched: WatchedCell | None = None

    def advance(self, cell: Cell) -> tuple[Tensor, SolveResult]:
        """Evaluate every row once and step; see :meth:`SolveLoop.advance`."""
        self._watched = WatchedCell(cell)
        return super().advance(self._watched)

    def settled(self) -> Tensor:
        """Say which rows began the step at a small residual."""
        assert self._watched is not None
        return self._watched.residual <= self.early.residual


class DecidedLoop(EarlyLoop):
    """Rows that end when their class stands out; see :class:`DecidedStop`.

    Args:
        solver: The method.
        z: Start states, shape (B, D); taken over and overwritten.
        stop: The fixed depth; its tolerance plays no part.
        early: The rule.
        readout: Maps states, shape (B, D), to logits, shape (B, K).
        logits: Logits of the start states, shape (B, K).

    Attributes:
        logits: Logits of the present state per row, shape (B, K).
    """

    def __init__(
        self,
        solver: Solver[Any],
        z: Tensor,
        stop: StopRule,
        early: DecidedStop,
        readout: Callable[[Tensor], Tensor],
        logits: Tensor,
    ) -> None:
        super().__init__(solver, z, stop)
        self.early, self.readout, self.logits = early, readout, logits

    def settled(self) -> Tensor:
        """Say which rows have a class that stands out."""
        before, self.logits = self.logits, self.readout(self.z)
        drift = (self.logits - before).abs().amax(dim=1)
        leading = self.logits.topk(min(2, self.logits.shape[1]), dim=1).values
        return leading[:, 0] - leading[:, -1] > self.early.margin * drift

    def select(self, rows: Tensor) -> None:
        """Keep only the rows with the given indices, shape (b,)."""
        super().select(rows)
        self.logits = keep_rows(self.logits, rows)

    def begin(self, rows: Tensor, logits: Tensor) -> None:
        """Take in the logits at the start of restarted rows.

        Args:
            rows: Indices of the rows, shape (b,).
            logits: Their logits, shape (b, K).
        """
        self.logits[rows] = logits


class WatchedCell:
    """A cell that remembers the relative residual of what it was last given.

    Attributes:
        residual: Relative residual per row, shape (b,), float64; NaN or infinite where a value is
            not finite.
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
