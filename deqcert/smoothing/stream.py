"""Keep a batch full: rows that are done leave, and the next noisy samples take their place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deqcert.models.shaped import ShapedModel
from deqcert.smoothing.checked import CheckedStop, solve_checked
from deqcert.smoothing.early import DecidedLoop, DecidedStop, EarlyStop, ResidualLoop
from deqcert.smoothing.predictor import Predictor
from deqcert.solvers import SolveResult, bind
from deqcert.solvers.loop import SolveLoop

NOBODY = -1
"""In place of a sample's index: the place is empty."""


@dataclass(frozen=True, slots=True)
class SolvedRows:
    """Rows that were solved, in the order in which they ended.

    Attributes:
        samples: Index of the sample per row, shape (b,).
        injection: What entered the cell per row, shape (b, ...).
        result: How the rows ended.
        logits: Logits per row, shape (b, K), where they are known already; else None.
    """

    samples: NDArray[np.int64]
    injection: Tensor
    result: SolveResult
    logits: Tensor | None


@dataclass(slots=True)
class _Rows:
    """Rows of a batch, split off from the front or joined at the back."""

    samples: NDArray[np.int64]
    injection: Tensor
    start: Tensor
    logits: Tensor

    def split(self, count: int) -> tuple[_Rows, _Rows]:
        return self._part(slice(count)), self._part(slice(count, None))

    def join(self, back: _Rows) -> _Rows:
        return _Rows(
            np.concatenate([self.samples, back.samples]),
            torch.cat([self.injection, back.injection]),
            torch.cat([self.start, back.start]),
            torch.cat([self.logits, back.logits]),
        )

    def padded(self, count: int) -> _Rows:
        """Return as many rows as asked for; those that are added are nobody's."""
        which = torch.arange(count, device=self.injection.device)
        which[len(self.samples) :] = 0
        samples = np.full(count, NOBODY, dtype=np.int64)
        samples[: len(self.samples)] = self.samples
        return _Rows(samples, self.injection[which], self.start[which], self.logits[which])

    def _part(self, part: slice) -> _Rows:
        return _Rows(self.samples[part], self.injection[part], self.start[part], self.logits[part])


def solve_stream(
    model: ShapedModel,
    predictor: Predictor,
    blocks: Iterator[tuple[NDArray[np.int64], Tensor]],
    slots: int,
    *,
    joining: bool = False,
) -> Iterator[SolvedRows]:
    """Solve rows as they come, keeping ``slots`` of them running.

    Where rows end by themselves the cost is then the mean of the rows' evaluations rather than the
    largest of every batch. A row's result is the one it would have alone.

    Args:
        model: The model in its declared shape.
        predictor: How they are solved; its start is independent.
        blocks: Sample indices and their injections, shapes (b,) and (b, ...).
        slots: Rows that run at once, at least 1.
        joining: Whether rows may join while others are solved: ``blocks`` may then have nothing now
            and something later, and is asked at every evaluation that leaves a place empty.

    Yields:
        ``slots`` solved rows at a time, at the end fewer; with ``joining`` rows as they end, where
        stops are not checked at a few depths only.
    """
    if isinstance(predictor.early, CheckedStop):
        # Its rooms have the size of the first block: one that is not full is the last.
        whole = _until_short(blocks, slots) if joining else blocks
        yield from _checked(model, predictor, predictor.early, whole, slots)
        return
    waiting: _Rows | None = None
    decided = isinstance(predictor.early, DecidedStop)

    def more(count: int) -> _Rows | None:
        nonlocal waiting
        while waiting is None or len(waiting.samples) < count:
            block = next(blocks, None)
            if block is None:
                break
            samples, injection = block
            start = predictor.start.initial(model, injection)
            # Only a decided stop looks at what a start reads out.
            logits = model.readout(start) if decided else start[:, :0]
            rows = _Rows(samples, injection, start, logits)
            waiting = rows if waiting is None else waiting.join(rows)
        if waiting is None or not len(waiting.samples):
            return None
        new, waiting = waiting.split(count)
        return new

    rows = more(slots)
    if rows is None:
        return
    if joining:
        rows = rows.padded(slots)
    samples, injection = rows.samples.copy(), rows.injection.clone()
    loop = _loop_for(model, predictor, rows)
    if joining:
        yield from _join(model, loop, samples, injection, more)
        return
    ready: list[SolvedRows] = []
    while len(samples):
        ended, part = loop.advance(bind(model.cell, injection))
        if not len(ended):
            continue
        index = ended.cpu().numpy()
        logits = loop.logits[ended] if isinstance(loop, DecidedLoop) else None
        ready.append(SolvedRows(samples[index], injection[ended], part, logits))
        new = more(len(index))
        filled = 0 if new is None else len(new.samples)
        if new is not None:
            samples[index[:filled]] = new.samples
            injection[ended[:filled]] = new.injection
            loop.restart(ended[:filled], new.start)
            if isinstance(loop, DecidedLoop):
                loop.begin(ended[:filled], new.logits)
        if filled < len(index):
            keep = np.setdiff1d(np.arange(len(samples)), index[filled:])
            samples = samples[keep]
            if len(keep):
                kept = torch.from_numpy(keep).to(injection.device)
                injection = injection[kept]
                loop.select(kept)
        yield from _full(ready, slots)
    if ready:
        yield merge_rows(ready)


def _join(
    model: ShapedModel,
    loop: SolveLoop,
    samples: NDArray[np.int64],
    injection: Tensor,
    more: Callable[[int], _Rows | None],
) -> Iterator[SolvedRows]:
    """Solve rows that join where a place is empty; each is yielded when it ends."""
    device = injection.device
    loop.retire(torch.from_numpy(np.flatnonzero(samples == NOBODY)).to(device))
    while (samples != NOBODY).any():
        ended, part = loop.advance(bind(model.cell, injection))
        index = ended.cpu().numpy()
        which = np.flatnonzero(samples[index] != NOBODY)
        if len(which):
            if len(which) < len(index):  # places that were empty before have not ended now
                at = torch.from_numpy(which).to(device)
                index, ended = index[which], ended[at]
                part = SolveResult(part.z[at], part.residual[at], part.status[at], part.nfe[at])
            logits = loop.logits[ended] if isinstance(loop, DecidedLoop) else None
            yield SolvedRows(samples[index], injection[ended], part, logits)
            samples[index] = NOBODY
        empty = np.flatnonzero(samples == NOBODY)
        new = more(len(empty)) if len(empty) else None
        left = empty[0 if new is None else len(new.samples) :]
        if len(left):
            loop.retire(torch.from_numpy(left).to(device))
        if new is not None:
            filled = empty[: len(new.samples)]
            places = torch.from_numpy(filled).to(device)
            samples[filled] = new.samples
            injection[places] = new.injection
            loop.restart(places, new.start)
            if isinstance(loop, DecidedLoop):
                loop.begin(places, new.logits)


def _until_short(
    blocks: Iterator[tuple[NDArray[np.int64], Tensor]], slots: int
) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
    for block in blocks:
        yield block
        if len(block[0]) < slots:
            return


def _checked(
    model: ShapedModel,
    predictor: Predictor,
    checks: CheckedStop,
    blocks: Iterator[tuple[NDArray[np.int64], Tensor]],
    slots: int,
) -> Iterator[SolvedRows]:
    """Solve rows from check to check; see :func:`deqcert.smoothing.checked.solve_checked`."""
    groups = (
        (samples, injection, predictor.start.initial(model, injection))
        for samples, injection in blocks
    )
    ready: list[SolvedRows] = []
    for ended in solve_checked(model, predictor.solver, predictor.stop, checks, groups, slots):
        ready.append(SolvedRows(*ended))
        yield from _full(ready, slots)
    if ready:
        yield merge_rows(ready)


def _loop_for(model: ShapedModel, predictor: Predictor, rows: _Rows) -> SolveLoop:
    solver, stop, early, z = predictor.solver, predictor.stop, predictor.early, rows.start.clone()
    if early is None:
        return SolveLoop(solver, z, stop)
    if isinstance(early, DecidedStop):
        return DecidedLoop(solver, z, stop, early, model.readout, rows.logits.clone())
    assert isinstance(early, EarlyStop)
    return ResidualLoop(solver, z, stop, early)


def _full(ready: list[SolvedRows], slots: int) -> Iterator[SolvedRows]:
    """Yield from the solved rows as many whole batches as there are; leave the rest."""
    while sum(len(part.samples) for part in ready) >= slots:
        merged = merge_rows(ready)
        ready[:] = [_slice(merged, slots, None)] if len(merged.samples) > slots else []
        yield _slice(merged, 0, slots)


def merge_rows(parts: list[SolvedRows]) -> SolvedRows:
    """Return the rows of several parts as one, in their order."""
    results = [part.result for part in parts]
    logits = [part.logits for part in parts if part.logits is not None]
    return SolvedRows(
        np.concatenate([part.samples for part in parts]),
        torch.cat([part.injection for part in parts]),
        SolveResult(
            torch.cat([result.z for result in results]),
            torch.cat([result.residual for result in results]),
            torch.cat([result.status for result in results]),
            torch.cat([result.nfe for result in results]),
        ),
        torch.cat(logits) if logits else None,
    )


def _slice(solved: SolvedRows, first: int, last: int | None) -> SolvedRows:
    part, result = slice(first, last), solved.result
    return SolvedRows(
        solved.samples[part],
        solved.injection[part],
        SolveResult(result.z[part], result.residual[part], result.status[part], result.nfe[part]),
        None if solved.logits is None else solved.logits[part],
    )
