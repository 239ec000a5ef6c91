"""Batches over requests: rows of many requests are solved together, and no vote changes by it.

A row is a function of its own pixels and noise, and every evaluation has the declared shape, so who
else is in a batch cannot be seen in a result (:class:`deqcert.models.shaped.ShapedModel`).
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deqcert.serve.limits import Refused
from deqcert.smoothing import Copies, Input, Predictor, SmoothingEngine
from deqcert.smoothing.engine import VoteBatch
from deqcert.smoothing.many import Answers
from deqcert.smoothing.noise import check_counters, noisy_copies
from deqcert.smoothing.stream import SolvedRows, merge_rows, solve_stream


@dataclass(frozen=True, slots=True)
class Clean:
    """The model's own answer to an input, without noise.

    Attributes:
        prediction: The class; -1 for none.
        confidence: Largest softmax probability.
        nfe: Cell evaluations.
    """

    prediction: int
    confidence: float
    nfe: int


class Job:
    """Rows of one request, in the order of their samples.

    Args:
        copies: Makes the pixels of some samples, shape (b, C, H, W).
        samples: Indices of the samples, shape (n,).
    """

    def __init__(
        self, copies: Callable[[NDArray[np.int64]], Tensor], samples: NDArray[np.int64]
    ) -> None:
        self.copies, self.samples = copies, samples
        self.taken, self.solved = 0, 0
        self.cancelled = False
        self.ended: queue.SimpleQueue[VoteBatch | Exception] = queue.SimpleQueue()

    @property
    def left(self) -> int:
        """Rows that nobody has taken yet."""
        return len(self.samples) - self.taken

    def give(self, solved: VoteBatch, part: slice, samples: NDArray[np.int64]) -> None:
        """Take rows that were solved, a part of a batch; the rest of it is not kept."""
        if len(samples) == len(solved.samples):
            self.ended.put(dataclasses.replace(solved, samples=samples))
            return
        self.ended.put(
            VoteBatch(
                samples=samples,
                logits=solved.logits[part].clone(),
                predictions=solved.predictions[part],
                residual=solved.residual[part],
                nfe=solved.nfe[part],
                overhead=0,
                z=solved.z[part].clone(),
                injection=solved.injection[part].clone(),
            )
        )

    def fail(self, error: Exception) -> None:
        """Take note that the rest is not solved."""
        self.cancelled = True
        self.ended.put(error)

    def batches(self) -> Iterator[VoteBatch]:
        """Yield solved rows as they come.

        Raises:
            Refused: If the service stops before all of them are solved.
        """
        solved = 0
        try:
            while solved < len(self.samples):
                part = self.ended.get()
                if isinstance(part, Exception):
                    raise part
                solved += len(part.samples)
                yield part
        finally:
            self.cancelled = True  # of no effect once all rows are solved


class CleanJob(Job):
    """One row without noise, whose answer is handed on where it is solved: nobody waits for it.

    Args:
        pixels: The input, shape (C, H, W).
        then: Called with the answer, or with why there is none; it returns at once.
    """

    def __init__(self, pixels: Tensor, then: Callable[[Clean | Exception], None]) -> None:
        super().__init__(lambda samples: pixels[None], np.zeros(1, dtype=np.int64))
        self._then: Callable[[Clean | Exception], None] | None = then

    def give(self, solved: VoteBatch, part: slice, samples: NDArray[np.int64]) -> None:
        """Hand the answer on."""
        prediction = int(solved.predictions[part.start])
        logits = solved.logits[part.start].double()
        share = torch.softmax(logits, dim=0).max().item()
        self._tell(Clean(prediction, share, int(solved.nfe[part.start])))

    def fail(self, error: Exception) -> None:
        """Hand the reason on, unless the answer was."""
        self._tell(error)

    def _tell(self, found: Clean | Exception) -> None:
        if self._then is not None:
            then, self._then = self._then, None
            then(found)


class Batches:
    """One thread that solves rows of all requests, a full batch at a time where there are enough.

    Args:
        engine: The model in its declared shape, and the rows that run at once.
        predictor: How rows are solved; its start is independent.
        note: Called, each time that solved rows are handed on, with how many they are, the
            evaluations that they took, and how many were being solved or about to be.
    """

    def __init__(
        self,
        engine: SmoothingEngine,
        predictor: Predictor,
        note: Callable[[int, float, int], None] = lambda rows, nfe, running: None,
    ) -> None:
        self.engine, self.predictor, self._note = engine, predictor, note
        self._waiting: deque[Job] = deque()
        self._change = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="batches", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Give rows to be solved.

        Raises:
            Refused: If the service is stopping.
        """
        with self._change:
            if self._closed:
                raise Refused(503, "the service is stopping.", 1)
            self._waiting.append(job)
            self._change.notify()

    @property
    def waiting(self) -> bool:
        """Whether any rows wait."""
        return bool(self._waiting)

    @property
    def rows(self) -> int:
        """Rows that wait."""
        with self._change:
            return sum(job.left for job in self._waiting)

    @property
    def alive(self) -> bool:
        """Whether rows are being solved."""
        return self._thread.is_alive() and not self._closed

    def close(self) -> None:
        """End the thread; what still waits is refused."""
        with self._change:
            self._closed = True
            self._change.notify()
        self._thread.join()

    def take(self, most: int) -> list[tuple[Job, NDArray[np.int64]]]:
        """Take rows from those who wait, the same share for each, a short job before a long one.

        Returns:
            Jobs with the samples to solve now; at most ``most`` of them together.
        """
        taken: dict[int, tuple[Job, list[NDArray[np.int64]]]] = {}
        with self._change:
            while most and self._waiting:
                share = max(1, most // len(self._waiting))
                job = self._waiting.popleft()
                if job.cancelled:
                    continue
                count = min(share, job.left)
                part = job.samples[job.taken : job.taken + count]
                taken.setdefault(id(job), (job, []))[1].append(part)
                job.taken += count
                most -= count
                if job.left:
                    self._waiting.append(job)
        return [(job, np.concatenate(parts)) for job, parts in taken.values()]

    def _work(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    for job in self._waiting:
                        job.fail(Refused(503, "the service is stopping.", 1))
                    self._waiting.clear()
                    return
            stream = _Stream(self)
            try:
                self._solve(stream)
            except Exception as error:
                stream.fail(error)

    @torch.no_grad()
    def _solve(self, stream: _Stream) -> None:
        engine, predictor = self.engine, self.predictor
        ready: list[SolvedRows] = []
        solved = solve_stream(engine.model, predictor, stream, engine.batch, joining=True)
        for rows in itertools.chain(solved, [None]):
            if rows is not None:
                ready.append(rows)
            # A readout costs as much for a row as for a full batch of them.
            if ready and (rows is None or stream.due(rows.samples)):
                batch = engine.read(merge_rows(ready), predictor.stop)
                ready.clear()
                cells = int(batch.nfe.sum())
                spent = predictor.spent(cells, len(batch.samples), predictor.readouts(batch.nfe))
                self._note(len(batch.samples), float(spent), stream.running)
                stream.deliver(batch)


class _Stream:
    """Rows for one call of the solver, which join as they come, and whose they are."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self._rows: dict[int, tuple[Job, int]] = {}
        self._count = self._ready = 0

    @property
    def running(self) -> int:
        """Rows that were taken and are not handed on yet."""
        return len(self._rows)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> tuple[NDArray[np.int64], Tensor]:
        """Return rows that wait now; there may be some again after there were none."""
        engine = self._batches.engine
        parts = self._batches.take(engine.batch)
        if not parts:
            raise StopIteration
        first = self._count
        for job, samples in parts:
            for sample in samples.tolist():
                self._rows[self._count] = (job, sample)
                self._count += 1
        pixels = torch.cat([job.copies(samples) for job, samples in parts])
        return (
            np.arange(first, self._count, dtype=np.int64),
            engine.model.inject(pixels.to(engine.dtype)),
        )

    def due(self, ended: NDArray[np.int64]) -> bool:
        """Say whether what has ended is handed on now.

        That is so when it fills a batch, and when a request is done while no row waits: who has
        more rows ahead of it than places loses nothing by waiting for a full batch.
        """
        done = False
        for row in ended.tolist():
            job = self._rows[row][0]
            job.solved += 1
            done |= job.solved == len(job.samples)
        self._ready += len(ended)
        return self._ready >= self._batches.engine.batch or (done and not self._batches.waiting)

    def deliver(self, batch: VoteBatch) -> None:
        """Give solved rows to those who asked for them."""
        self._ready = 0
        batch = _in_order(batch)
        owned = [self._rows.pop(row) for row in batch.samples.tolist()]
        first = 0
        for _, group in itertools.groupby(owned, key=lambda one: id(one[0])):
            rows = list(group)
            samples = np.array([sample for _, sample in rows], dtype=np.int64)
            rows[0][0].give(batch, slice(first, first + len(rows)), samples)
            first += len(rows)

    def fail(self, error: Exception) -> None:
        """Tell everybody whose rows were under way."""
        for job in {id(job): job for job, _ in self._rows.values()}.values():
            job.fail(error)


def _in_order(batch: VoteBatch) -> VoteBatch:
    """Return the batch with its rows by sample, so that each owner's stand together."""
    order = np.argsort(batch.samples)
    rows = torch.from_numpy(order).to(batch.logits.device)
    return dataclasses.replace(
        batch,
        samples=batch.samples[order],
        logits=batch.logits[rows],
        predictions=batch.predictions[order],
        residual=batch.residual[order],
        nfe=batch.nfe[order],
        z=batch.z[rows],
        injection=batch.injection[rows],
    )


class SharedEngine(SmoothingEngine):
    """An engine that solves its rows with those of other requests, and gives the same votes.

    Args:
        engine: The engine whose votes it gives.
        batches: Where its rows are solved.
    """

    def __init__(self, engine: SmoothingEngine, batches: Batches) -> None:
        self.__dict__.update(copy.copy(engine).__dict__)
        self.shared = batches

    def of_request(self, seed: int) -> Self:
        """Return an engine that draws the noise of one request; nobody looks on yet."""
        twin = copy.copy(self)
        twin.seed, twin.callbacks = seed, []
        return twin

    def clean(self, input: Input, then: Callable[[Clean | Exception], None]) -> None:
        """Have the input itself solved, without noise: one row.

        Args:
            input: The input.
            then: Called with the answer where it is solved, or with why there is none.

        Raises:
            DataError: If the input does not fit the model.
            Refused: If the service is stopping.
        """
        self.shared.submit(CleanJob(self.prepare(input.x), then))

    def batches(
        self, predictor: Predictor, input: Input, stage: int, samples: NDArray[np.int64]
    ) -> Iterator[VoteBatch]:
        """Solve noisy copies; see :meth:`deqcert.smoothing.SmoothingEngine.batches`."""
        assert predictor is self.shared.predictor
        pixels = self.prepare(input.x)
        check_counters(seed=self.seed, index=input.index, stage=self.base_stage + stage)
        place: dict[str, Any] = {
            "sigma": self.sigma,
            "seed": self.seed,
            "index": input.index,
            "stage": self.base_stage + stage,
            "levels": self.levels,
        }
        job = Job(functools.partial(noisy_copies, pixels, **place), samples)
        self.shared.submit(job)
        for number, batch in enumerate(job.batches()):
            for callback in self.callbacks:
                callback(batch, predictor=predictor, stage=stage, number=number)
            yield batch


class WatchedCopies(Copies):
    """Noisy copies for prediction sets, solved as votes are, so that callbacks see them."""

    def answers(self, inputs: Sequence[Input], stage: int, n: int) -> Answers:
        """Solve the first n noisy copies of each input; see :class:`deqcert.smoothing.Copies`."""
        each = [self._of_one(input, stage, n) for input in inputs]
        logits, predictions, nfe = zip(*each, strict=True)
        return Answers(np.stack(logits), np.stack(predictions), np.array(nfe, dtype=np.float64))

    def _of_one(
        self, input: Input, stage: int, n: int
    ) -> tuple[NDArray[np.float64], NDArray[np.int16], float]:
        samples = np.arange(n, dtype=np.int64)
        parts = list(self.engine.batches(self.predictor, input, stage, samples))
        order = np.argsort(np.concatenate([part.samples for part in parts]))
        cells = np.concatenate([part.nfe for part in parts])
        logits = torch.cat([part.logits for part in parts]).double().cpu().numpy()
        predictions = np.concatenate([part.predictions for part in parts])
        spent = self.predictor.spent(int(cells.sum()), n, self.predictor.readouts(cells))
        return logits[order], predictions[order], float(spent)
