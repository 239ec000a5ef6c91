"""The loop that every method shares: each row is evaluated, judged and stepped on its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from deqcert.errors import SolverError
from deqcert.kernels import NFE, RESIDUAL, START, STATUS, Watch, empty_states
from deqcert.solvers.cells import Cell, check_value, share_memory
from deqcert.solvers.result import SolveResult, Status, StopRule

if TYPE_CHECKING:
    from deqcert.solvers.base import Solver

DIVERGENCE = 1e6
"""A row diverges when its residual exceeds this many times the size of its first evaluation."""

PATIENCE = 20
"""A row stalls after this many evaluations in a row that did not lower its best residual."""

LOOK_ON_GPU = 4
"""Evaluations between two looks at the statuses on a GPU, where each look waits for the device."""


class SolveLoop:
    """Rows that are being solved, each at its own evaluation.

    Rows may leave (:meth:`select`) or be replaced by new ones (:meth:`restart`) between two
    advances; what happens to one row does not depend on the others. All memory is allocated here:
    an advance judges, keeps best states and steps within it.

    Args:
        solver: The method.
        z: Start states, shape (B, D).
        stop: When a row ends.
    """

    def __init__(self, solver: Solver[Any], z: Tensor, stop: StopRule) -> None:
        self.solver, self.stop = solver, stop
        # The state to evaluate next, and the one evaluated before it.
        shape = (z.shape[0], z.shape[1])
        self.z, self.before = empty_states(z, shape, 0).copy_(z), empty_states(z, shape, 0)
        self.state = solver.init(z)
        self.start = torch.tensor(START, dtype=torch.float64, device=z.device)
        self.watch = Watch(
            progress=self.start.repeat(z.shape[0], 1),
            best=empty_states(z, shape, 0),
            tol=0.0 if stop.fixed_depth else stop.tol,
            relative=stop.mode == "rel",
            max_nfe=stop.max_nfe,
            divergence=DIVERGENCE,
            patience=PATIENCE,
        )
        # Advances until a look at the statuses can find somebody. A row that has ended is left
        # alone by every step, so that a late look changes no result.
        self.look = LOOK_ON_GPU if z.device.type == "cuda" else 1
        self.due = stop.max_nfe if stop.fixed_depth else self.look
        none = self.start[:0]
        self.no_rows = none.long()
        self.nothing = SolveResult(z[:0], none, none.to(torch.int8), none.long())

    def advance(self, cell: Cell) -> tuple[Tensor, SolveResult]:
        """Evaluate every row once and step.

        Returns:
            The indices of the rows that are done, shape (b,), and their results. They stay in
            place, their state meaningless, until :meth:`select` or :meth:`restart`.
        """
        fz = _evaluate(cell, self.z)
        self.solver.step(self.z, fz, self.state, self.before, self.watch)
        self.z, self.before = self.before, self.z
        self.due -= 1
        if self.due > 0:
            return self.no_rows, self.nothing
        ended = torch.nonzero(self.watch.progress[:, STATUS] >= 0).squeeze(1)
        self.due = self._next_look()
        return ended, self._take(ended)

    def select(self, rows: Tensor) -> None:
        """Keep only the rows with the given indices, shape (b,).

        Rows that keep their index are not moved, so it is cheapest to fill the places of the rows
        that left with the last ones.
        """
        watch = self.watch
        self.z, self.before = keep_rows(self.z, rows), keep_rows(self.before, rows)
        watch.progress, watch.best = keep_rows(watch.progress, rows), keep_rows(watch.best, rows)
        self.state.select(rows)

    def restart(self, rows: Tensor, z: Tensor) -> None:
        """Begin anew in the rows with the given indices, shape (b,), from z, shape (b, D)."""
        if self.stop.fixed_depth:
            self.due = min(self.due, self.stop.max_nfe)
        self.z[rows] = z
        self.watch.progress[rows] = self.start
        self.state.restart(rows)

    def retire(self, rows: Tensor) -> None:
        """End the rows with the given indices, shape (b,), whatever they are at.

        Steps leave them alone, and every look finds them, until :meth:`restart`.
        """
        self.watch.progress[rows, STATUS] = float(Status.MAX_NFE)

    def adopt(self, places: slice, other: SolveLoop, rows: Tensor) -> None:
        """Go on, in some places, with rows of another loop of the same solver and stop rule.

        Args:
            places: Where the rows go; what was there is forgotten.
            other: The loop that they come from; it is left as it is.
            rows: Indices of those of its rows that go there, shape (b,).
        """
        self.z[places], self.before[places] = other.z[rows], other.before[rows]
        self.watch.progress[places] = other.watch.progress[rows]
        self.watch.best[places] = other.watch.best[rows]
        self.state.adopt(places, other.state, rows)
        self.due = min(self.due, other.due)

    def _next_look(self) -> int:
        if self.stop.fixed_depth:
            running = self.watch.progress[:, STATUS] < 0
            if bool(running.any()):
                return self.stop.max_nfe - int(self.watch.progress[running, NFE].max())
        return self.look

    def _take(self, rows: Tensor) -> SolveResult:
        if not rows.numel():
            return self.nothing
        if rows.numel() == len(self.z):
            progress, z = self.watch.progress.clone(), self.watch.best.clone()
        else:
            progress, z = self.watch.progress[rows], self.watch.best[rows]
        status = progress[:, STATUS].to(torch.int8)
        residual = progress[:, RESIDUAL]
        if self.stop.fixed_depth:
            # The cell was not evaluated there; a row that was lost kept the state that broke it.
            residual = torch.where(status == Status.NONFINITE, torch.inf, torch.nan).double()
        return SolveResult(z, residual, status, progress[:, NFE].long())


def keep_rows(tensor: Tensor, rows: Tensor) -> Tensor:
    """Move the given rows of a tensor to its front, those in their place untouched.

    Args:
        tensor: Shape (B, ...); overwritten.
        rows: Indices without repetition, shape (b,), int64.

    Returns:
        A view of shape (b, ...).
    """
    to = torch.nonzero(rows != torch.arange(len(rows), device=rows.device)).squeeze(1)
    if to.numel():
        tensor[to] = tensor[rows[to]]
    return tensor[: len(rows)]


def _evaluate(cell: Cell, z: Tensor) -> Tensor:
    version = None if z.is_inference() else z._version
    fz = cell(z)
    check_value(fz, z)
    fz = fz.contiguous()
    if share_memory(z, fz) or (version is not None and z._version != version):
        raise SolverError(
            "the cell works in place on the state that it is given, which the solver still needs; "
            "return a new tensor, or clone the state first."
        )
    return fz
