"""Checks: a few depths at which rows are read out, and leave if their class is clear enough.

A readout can cost as much as half an evaluation, so rows that read out after every step pay much
for being asked whether they are done. Here all rows of a batch stand at the same depth: those that
a check lets go have paid for no readout but the one that casts their vote, and the others wait,
their solver's memory kept, until there is a full batch of them to go on to the next check.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deqcert.errors import ConfigError
from deqcert.kernels import STATUS
from deqcert.models.shaped import ShapedModel
from deqcert.solvers import Solver, SolveResult, Status, StopRule, bind
from deqcert.solvers.loop import SolveLoop


@dataclass(frozen=True, slots=True)
class CheckedStop:
    """End a row at the first of a few depths at which its two largest logits are far enough apart.

    What is far enough is learned: `deqcert train-start` fits, depth by depth, how often a class
    that leads by so much is still not the converged solve's.

    Args:
        depths: Cell evaluations after which a row is read out, increasing, at least 0; 0 reads out
            the start itself.
        gaps: For each of them the gap that a row must exceed to end there, at least 0.
        readout: Measured time of a readout in times of a cell evaluation, at least 0. Each counts
            but the one that casts the vote.

    Raises:
        ConfigError: If a value is out of range.
    """

    depths: tuple[int, ...]
    gaps: tuple[float, ...]
    readout: float

    def __post_init__(self) -> None:
        # A record of them holds lists.
        object.__setattr__(self, "depths", tuple(int(depth) for depth in self.depths))
        object.__setattr__(self, "gaps", tuple(float(gap) for gap in self.gaps))
        rising = all(a < b for a, b in zip((-1, *self.depths), self.depths, strict=False))
        if not self.depths or not rising:
            raise ConfigError(
                f"checks are at depths {list(self.depths)}, but they must increase from 0 or more."
            )
        if len(self.gaps) != len(self.depths) or not all(0 <= g < float("inf") for g in self.gaps):
            raise ConfigError(
                f"checks have the gaps {list(self.gaps)}, but there must be one for each depth, "
                "each at least 0."
            )
        if not 0.0 <= self.readout < float("inf"):
            raise ConfigError(
                f"the cost of a readout is {self.readout}, but it must be at least 0."
            )

    def readouts(self, nfe: NDArray[np.int64]) -> int:
        """Count the readouts that cast no vote, for rows of so many evaluations."""
        return sum(int((nfe > depth).sum()) for depth in self.depths)

    def describe(self) -> str:
        """Say in words which step is a row's last."""
        at = ", ".join(str(depth) for depth in self.depths)
        by = ", ".join(f"{gap:g}" for gap in self.gaps)
        return (
            f"the first of {at} after which the two largest logits are further apart than {by} "
            f"({self.readout:.2f} evaluations a readout)"
        )


Ended = tuple[NDArray[np.int64], Tensor, SolveResult, Tensor]
"""Rows that ended together: sample indices, injections, how they ended, and their logits."""


def solve_checked(
    model: ShapedModel,
    solver: Solver[Any],
    stop: StopRule,
    checks: CheckedStop,
    groups: Iterator[tuple[NDArray[np.int64], Tensor, Tensor]],
    slots: int,
) -> Iterator[Ended]:
    """Solve rows from check to check; what happens to one does not depend on the others.

    Args:
        model: The model in its declared shape.
        solver: The method.
        stop: The fixed depth at which every row ends that no check let go.
        checks: When a row ends before.
        groups: Sample indices, injections and start states, shapes (b,), (b, ...) and (b, D): b is
            ``slots``, in the last group it may be less.
        slots: Rows that are evaluated together, at least 1.

    Yields:
        Rows that ended together, in the order in which they did.
    """
    depths = [depth for depth in checks.depths if depth < stop.max_nfe] + [stop.max_nfe]
    gaps = [*checks.gaps[: len(depths) - 1], math.inf]
    # One evaluation more than any row makes: no row may end by the loop's own rule.
    deeper = StopRule(tol=0.0, max_nfe=stop.max_nfe + 1)
    rooms: list[_Room] = []

    def climb(number: int) -> Iterator[Ended]:
        """Take a room's rows to their check; yield who ends there and move the others up."""
        room = rooms[number]
        room.evaluate(model, depths[number] - (depths[number - 1] if number else 0))
        last = number == len(depths) - 1
        ended, stay = room.judge(model, gaps[number], depths[number], last)
        if ended is not None:
            yield ended
        while len(stay):
            stay = rooms[number + 1].take(room, stay)
            if rooms[number + 1].filled == slots:
                yield from climb(number + 1)
        room.filled = 0

    for samples, injection, start in groups:
        if not rooms:
            rooms += [_Room(solver, deeper, injection, start, slots) for _ in depths]
        rooms[0].begin(samples, injection, start)
        yield from climb(0)
    for number, room in enumerate(rooms):
        if room.filled:
            yield from climb(number)


class _Room:
    """Where rows wait until there are enough of them to be evaluated together.

    Args:
        solver: The method.
        stop: A depth that no row reaches.
        injection: Injections as rows will have them, shape (b, ...).
        z: States as rows will have them, shape (b, D).
        slots: Rows that fit.

    Attributes:
        filled: Rows that are there, at the front.
    """

    def __init__(
        self, solver: Solver[Any], stop: StopRule, injection: Tensor, z: Tensor, slots: int
    ) -> None:
        self.slots, self.filled = slots, 0
        self.samples = np.zeros(slots, dtype=np.int64)
        self.injection = injection.new_zeros((slots, *injection.shape[1:]))
        self.loop = SolveLoop(solver, z.new_zeros((slots, z.shape[1])), stop)

    def begin(self, samples: NDArray[np.int64], injection: Tensor, start: Tensor) -> None:
        """Put rows in that have not been evaluated."""
        count = self.filled = len(samples)
        self.samples[:count], self.injection[:count] = samples, injection
        self.loop.restart(torch.arange(count, device=start.device), start)

    def take(self, other: _Room, rows: Tensor) -> Tensor:
        """Take in rows of another room, by index, as many as fit; return those that did not."""
        count = min(len(rows), self.slots - self.filled)
        places, fit = slice(self.filled, self.filled + count), rows[:count]
        self.samples[places] = other.samples[fit.cpu().numpy()]
        self.injection[places] = other.injection[fit]
        self.loop.adopt(places, other.loop, fit)
        self.filled += count
        return rows[count:]

    def evaluate(self, model: ShapedModel, times: int) -> None:
        """Evaluate the cell and step so many times."""
        if self.filled < self.slots:  # only when nobody will come any more
            self.injection = self.injection[: self.filled]
            self.loop.select(torch.arange(self.filled, device=self.injection.device))
        for _ in range(times):
            self.loop.advance(bind(model.cell, self.injection))

    def judge(
        self, model: ShapedModel, gap: float, depth: int, last: bool
    ) -> tuple[Ended | None, Tensor]:
        """Read the rows out; return who ends, and the indices of who does not."""
        progress, z = self.loop.watch.progress, self.loop.z
        lost = progress[:, STATUS] >= 0
        if bool(lost.any()):
            z = torch.where(lost[:, None], self.loop.watch.best, z)
        logits = model.readout(z)
        leading = logits.topk(min(2, logits.shape[1]), dim=1).values
        ends = lost | (leading[:, 0] - leading[:, -1] > gap) | last
        rows, stay = (torch.nonzero(which).squeeze(1) for which in (ends, ~ends))
        if not len(rows):
            return None, stay
        usual = int(Status.MAX_NFE if last else Status.CONVERGED)
        status = torch.where(lost[rows], progress[rows, STATUS].long(), usual).to(torch.int8)
        result = SolveResult(
            z=z[rows],
            # The cell was never evaluated at the state that is read out.
            residual=torch.where(lost[rows], torch.inf, torch.nan).double(),
            status=status,
            nfe=torch.full_like(rows, depth),
        )
        return (self.samples[rows.cpu().numpy()], self.injection[rows], result, logits[rows]), stay
