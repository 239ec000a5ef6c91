"""Keep a batch full: rows that are done leave, and the next noisy samples take their place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deqcert.smoothing.early import EarlyFlight
from deqcert.smoothing.predictor import Predictor
from deqcert.smoothing.shaped import ShapedModel
from deqcert.solvers import SolveResult, bind
from deqcert.solvers.flight import Flight


@dataclass(frozen=True, slots=True)
class Solved:
    """Rows that were solved, in the order in which they ended.

    Attributes:
        samples: Index of each row's sample, shape (b,).
        injection: What entered the cell, shape (b, ...).
        result: How the rows ended.
    """

    samples: NDArray[np.int64]
    injection: Tensor
    result: SolveResult


@dataclass(slots=True)
class _Rows:
    """Rows of a batch, split off from the front or joined at the back."""

    samples: NDArray[np.int64]
    injection: Tensor
    start: Tensor

    def split(self, count: int) -> tuple[_Rows, _Rows]:
        return (
            _Rows(self.samples[:count], self.injection[:count], self.start[:count]),
            _Rows(self.samples[count:], self.injection[count:], self.start[count:]),
        )


def solve_stream(
    model: ShapedModel,
    predictor: Predictor,
    blocks: Iterator[tuple[NDArray[np.int64], Tensor]],
    slots: int,
) -> Iterator[Solved]:
    """Solve rows as they come, keeping ``slots`` of them in flight.

    With a stop rule on each row's own residual the cost is then the mean of the rows' evaluations
    rather than the largest of every batch. A row's result is the one it would have alone.

    Args:
        model: The model in its declared shape.
        predictor: How they are solved; its start is independent.
        blocks: Sample indices and their injections, shapes (b,) and (b, ...).
        slots: Rows in flight, at least 1.

    Yields:
        ``slots`` solved rows at a time, at the end fewer.
    """
    waiting: _Rows | None = None

    def more(count: int) -> _Rows | None:
        nonlocal waiting
        while waiting is None or len(waiting.samples) < count:
            block = next(blocks, None)
            if block is None:
                break
            samples, injection = block
            start = predictor.start.initial(model, injection)
            waiting = _join(waiting, _Rows(samples, injection, start))
        if waiting is None or not len(waiting.samples):
            return None
        new, waiting = waiting.split(count)
        return new

    rows = more(slots)
    if rows is None:
        return
    samples, injection = rows.samples.copy(), rows.injection.clone()
    flight = _flight(predictor, rows.start.clone())
    ready: list[Solved] = []
    while len(samples):
        ended, part = flight.advance(bind(model.cell, injection))
        if not len(ended):
            continue
        index = ended.cpu().numpy()
        ready.append(Solved(samples[index], injection[ended], part))
        new = more(len(index))
        filled = 0 if new is None else len(new.samples)
        if new is not None:
            samples[index[:filled]] = new.samples
            injection[ended[:filled]] = new.injection
            flight.restart(ended[:filled], new.start)
        if filled < len(index):
            keep = np.setdiff1d(np.arange(len(samples)), index[filled:])
            samples = samples[keep]
            if len(keep):
                kept = torch.from_numpy(keep).to(injection.device)
                injection = injection[kept]
                flight.select(kept)
        yield from _full(ready, slots)
    if ready:
        yield _merge(ready)


def _flight(predictor: Predictor, z: Tensor) -> Flight:
    if predictor.early is None:
        return Flight(predictor.solver, z, predictor.stop)
    return EarlyFlight(predictor.solver, z, predictor.stop, predictor.early)


def _join(front: _Rows | None, back: _Rows) -> _Rows:
    if front is None or not len(front.samples):
        return back
    return _Rows(
        np.concatenate([front.samples, back.samples]),
        torch.cat([front.injection, back.injection]),
        torch.cat([front.start, back.start]),
    )


def _full(ready: list[Solved], slots: int) -> Iterator[Solved]:
    """Yield from the solved rows as many whole batches as there are; leave the rest."""
    while sum(len(part.samples) for part in ready) >= slots:
        merged = _merge(ready)
        ready[:] = [_slice(merged, slots, None)] if len(merged.samples) > slots else []
        yield _slice(merged, 0, slots)


def _merge(parts: list[Solved]) -> Solved:
    results = [part.result for part in parts]
    return Solved(
        np.concatenate([part.samples for part in parts]),
        torch.cat([part.injection for part in parts]),
        SolveResult(
            torch.cat([result.z for result in results]),
            torch.cat([result.residual for result in results]),
            torch.cat([result.status for result in results]),
            torch.cat([result.nfe for result in results]),
        ),
    )


def _slice(solved: Solved, first: int, last: int | None) -> Solved:
    part, result = slice(first, last), solved.result
    return Solved(
        solved.samples[part],
        solved.injection[part],
        SolveResult(result.z[part], result.residual[part], result.status[part], result.nfe[part]),
    )
