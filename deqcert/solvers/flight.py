"""Rows in flight: each is evaluated, judged and stepped on its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from deqcert import kernels
from deqcert.errors import SolverError
from deqcert.solvers.cells import Cell
from deqcert.solvers.result import SolveResult, Status, StopRule

if TYPE_CHECKING:
    from deqcert.solvers.base import Solver

DIVERGENCE = 1e6
"""A row diverges when its residual exceeds this many times the size of its first evaluation."""

PATIENCE = 20
"""A row stalls after this many evaluations in a row that did not lower its best residual."""


class Flight:
    """Rows that are being solved, each at its own evaluation.

    Rows may leave (:meth:`select`) or be replaced by new ones (:meth:`restart`) between two
    advances; what happens to one row does not depend on the others.

    Args:
        solver: The method.
        z: Start states, shape (B, D); taken over and overwritten.
        stop: When a row ends.
    """

    def __init__(self, solver: Solver[Any], z: Tensor, stop: StopRule) -> None:
        self.solver, self.stop = solver, stop
        # The state to evaluate next, and the one evaluated before it.
        self.z, self.before = z, torch.empty_like(z)
        self.state = solver.init(z)
        rows, device = z.shape[0], z.device
        self.nfe = torch.zeros(rows, dtype=torch.int64, device=device)
        self.status = torch.full((rows,), Status.MAX_NFE, dtype=torch.int8, device=device)
        self.residual = torch.full((rows,), torch.inf, dtype=torch.float64, device=device)
        self.scale = torch.zeros(rows, dtype=torch.float64, device=device)
        self.waited = torch.zeros(rows, dtype=torch.int64, device=device)
        # The best state of a row is the one evaluated last where ``fresh``, else it is in ``best``.
        self.fresh = torch.zeros(rows, dtype=torch.bool, device=device)
        self.best = z[:, :0] if stop.fixed_depth else torch.empty_like(z)

    def advance(self, cell: Cell) -> tuple[Tensor, SolveResult]:
        """Evaluate every row once and step.

        Returns:
            The indices of the rows that are done, shape (b,), and their results. They stay in
            place, their state meaningless, until :meth:`select` or :meth:`restart`.
        """
        fz = _evaluate(cell, self.z)
        square, image = kernels.residual_norms(self.z, fz)
        finite = torch.isfinite(square) & torch.isfinite(image)
        self.nfe += 1
        self.status[~finite] = Status.NONFINITE
        done = ~finite | (self.nfe >= self.stop.max_nfe)
        if self.stop.fixed_depth:
            self._step(fz)
            ended = torch.nonzero(done).squeeze(1)
            return ended, self._take_unchecked(ended)
        done |= self._judge(square.sqrt(), image.sqrt(), finite)
        ended = torch.nonzero(done).squeeze(1)
        part = self._take_best(ended)
        if ended.numel() < done.numel():
            self._step(fz)
        return ended, part

    def select(self, rows: Tensor) -> None:
        """Keep only the rows with the given indices, shape (b,)."""
        for name in ("z", "nfe", "status", "residual", "scale", "waited", "fresh", "best"):
            setattr(self, name, getattr(self, name)[rows])
        self.before = self.before[rows]
        self.state.select(rows)

    def restart(self, rows: Tensor, z: Tensor) -> None:
        """Begin anew in the rows with the given indices, shape (b,), from z, shape (b, D)."""
        self.z[rows] = z
        self.nfe[rows] = 0
        self.status[rows] = Status.MAX_NFE
        self.residual[rows] = torch.inf
        self.waited[rows] = 0
        self.fresh[rows] = False
        self.state.restart(rows)

    def _step(self, fz: Tensor) -> None:
        self.solver.step(self.z, fz, self.state, self.before)
        self.z, self.before = self.before, self.z

    def _judge(self, size: Tensor, image: Tensor, finite: Tensor) -> Tensor:
        """Bring best states and statuses up to date; return which rows have an ending."""
        residual = size / image.clamp_min(1e-300) if self.stop.mode == "rel" else size
        self.scale = torch.where(self.nfe == 1, torch.maximum(size, image), self.scale)
        better = finite & (residual < self.residual)
        # While a row improves nothing is copied; its best state is saved only when the next one is
        # worse, just before the step would overwrite it.
        lost = torch.nonzero(self.fresh & ~better).squeeze(1)
        self.best[lost] = self.before[lost]
        self.fresh = better
        self.residual = torch.where(better, residual, self.residual)
        self.waited = torch.where(better, 0, self.waited + 1)
        done = torch.zeros_like(finite)
        for status, ending in (
            (Status.STALLED, self.waited >= PATIENCE),
            (Status.DIVERGED, size > DIVERGENCE * self.scale),
            (Status.CONVERGED, residual <= self.stop.tol),
        ):
            ending &= finite
            self.status[ending] = status
            done |= ending
        return done

    def _take_best(self, rows: Tensor) -> SolveResult:
        """Return the best evaluated states; before the step."""
        # A row that was not finite at once has no best state; it keeps its start.
        here = self.fresh[rows] | torch.isinf(self.residual[rows])
        z = torch.where(here[:, None], self.z[rows], self.best[rows])
        return SolveResult(z, self.residual[rows], self.status[rows], self.nfe[rows])

    def _take_unchecked(self, rows: Tensor) -> SolveResult:
        """Return the states after the step; a row that was lost keeps the state that broke it."""
        lost = self.status[rows] == Status.NONFINITE
        z = torch.where(lost[:, None], self.before[rows], self.z[rows])
        residual = torch.where(lost, torch.inf, torch.nan).double()
        return SolveResult(z, residual, self.status[rows], self.nfe[rows])


def _evaluate(cell: Cell, z: Tensor) -> Tensor:
    fz = cell(z)
    if fz.shape != z.shape or fz.dtype != z.dtype:
        raise SolverError(
            f"the cell returned {tuple(fz.shape)} {fz.dtype} for a state of {tuple(z.shape)} "
            f"{z.dtype}, but it must return the same shape and type."
        )
    return fz.contiguous()
