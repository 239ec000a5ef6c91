"""Who computes what next: results in order from workers that may be lost at any moment."""

from __future__ import annotations

import pickle
import time
import traceback
from abc import ABC, abstractmethod
from bisect import insort
from collections import Counter, deque
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from deqcert.errors import ConfigError, DeqcertError, RunError
from deqcert.scale.base import Executor, Failure, Work
from deqcert.scale.facts import check_facts, facts

T = TypeVar("T")
R = TypeVar("R")

TRIES = 3
"""Workers that one task may cost before it is given up, and that may end before they have begun."""

AHEAD = 4
"""Tasks for each worker that may be done or begun before the oldest is done: what is lost, at most,
when the process that writes the run is killed."""

LATE = 2.0
"""A task that takes this many times the median of those before it is late, and may be repeated."""


@dataclass(frozen=True)
class Event:
    """Something that a worker did.

    Attributes:
        worker: Which one.
        kind: "ready" when it is open, with its facts; "done" with a result; "lost" when it has
            ended, with what is known of why. Either of the first two may bring a Failure instead.
        value: What it brought.
    """

    worker: Hashable
    kind: Literal["ready", "done", "lost"]
    value: Any


class Pool(ABC):
    """Workers, each a process with the work opened; one that is lost is replaced by a new one.

    Attributes:
        size: How many workers there are meant to be.
        advice: What may help where workers are lost again and again, in words.
        repeats: Whether a worker that would have nothing to do repeats what is late with another:
            the machines are not equally fast.
    """

    size: int
    advice: str
    repeats: bool = False

    @abstractmethod
    def start(self, work: bytes) -> None:
        """Start the workers, each of which says that it is ready.

        Args:
            work: What each opens, pickled.
        """

    @abstractmethod
    def give(self, worker: Hashable, task: Any) -> None:
        """Give a worker that has none a task."""

    @abstractmethod
    def wait(self, seconds: float | None = None) -> list[Event]:
        """Wait until something has happened.

        Args:
            seconds: How long at most; None for as long as it takes.

        Returns:
            What has happened; nothing only if the time is over.
        """

    @abstractmethod
    def close(self) -> None:
        """End all workers, at work or not."""


class Pooled(Executor):
    """Computes tasks in a pool.

    Args:
        make: Makes the pool.
    """

    def __init__(self, make: Callable[[], Pool]) -> None:
        self._make = make

    def results(
        self,
        work: Work[T, R],
        tasks: Iterable[T],
        arrived: Callable[[R], None] = lambda result: None,
    ) -> Generator[R]:
        """Compute tasks; see :meth:`deqcert.scale.base.Executor.results`."""
        packed = pack(work)
        pool = self._make()
        try:
            pool.start(packed)
            yield from _Schedule(pool, work, tasks, arrived).run()
        finally:
            pool.close()


class _Schedule:
    """One evaluation: what waits, what runs where, and what is done and not yet its turn."""

    def __init__(
        self,
        pool: Pool,
        work: Work[Any, Any],
        tasks: Iterable[Any],
        arrived: Callable[[Any], None],
    ) -> None:
        self._pool, self._work, self._arrived = pool, work, arrived
        self._source: Iterator[tuple[int, Any]] = iter(enumerate(tasks))
        self._again: deque[tuple[int, Any]] = deque()
        self._running: dict[Hashable, tuple[int, Any]] = {}
        self._began: dict[Hashable, float] = {}
        self._took: list[float] = []
        self._idle: list[Hashable] = []
        self._results: dict[int, Any] = {}
        self._turn, self._ended = 0, False
        self._tries: Counter[int] = Counter()
        self._twice: dict[int, Any] = {}
        self._stillborn = 0
        self._facts: Mapping[str, str] = facts(work.device)

    def run(self) -> Iterator[Any]:
        self._fill()
        while True:
            while self._turn in self._results:
                result = self._results.pop(self._turn)
                if isinstance(result, Failure):
                    raise result.error
                yield result
                self._turn += 1
            self._fill()
            unfinished = [number for number, _ in self._running.values() if number >= self._turn]
            if self._ended and not self._again and not unfinished:
                return
            for event in self._pool.wait(self._until_late()):
                getattr(self, f"_{event.kind}")(event.worker, event.value)

    def _fill(self) -> None:
        """Give idle workers what is next."""
        while self._idle and (entry := self._next()) is not None:
            worker = self._idle.pop(0)
            self._running[worker] = entry
            self._began[worker] = time.monotonic()
            self._pool.give(worker, entry[1])

    def _next(self) -> tuple[int, Any] | None:
        """Return what is to be done next: what was lost comes first, what is repeated last."""
        if self._again:
            return self._again.popleft()
        ahead = len(self._results) + len(self._running)
        if not self._ended and ahead < AHEAD * self._pool.size:
            entry = next(self._source, None)
            if entry is not None:
                return entry
            self._ended = True
        for worker, entry in self._unrepeated():
            if self._late_at(worker) <= time.monotonic():
                self._twice[entry[0]] = None
                return entry
        return None

    def _unrepeated(self) -> list[tuple[Hashable, tuple[int, Any]]]:
        """Return what runs, has no result yet, and could be repeated were it late."""
        if not self._pool.repeats or not self._took:
            return []
        return [
            (worker, entry)
            for worker, entry in self._running.items()
            if entry[0] not in self._twice and self._missing(entry[0])
        ]

    def _late_at(self, worker: Hashable) -> float:
        """Return when a worker's task is late, by this process's clock."""
        return self._began[worker] + LATE * self._took[len(self._took) // 2]

    def _until_late(self) -> float | None:
        """Return for how long an idle worker waits for the next late task, None if for none."""
        if not self._idle or not (there := self._unrepeated()):
            return None
        return max(0.0, min(self._late_at(worker) for worker, _ in there) - time.monotonic())

    def _missing(self, number: int) -> bool:
        """Whether a task has no result yet."""
        return number >= self._turn and number not in self._results

    def _ready(self, worker: Hashable, value: Any) -> None:
        if isinstance(value, Failure):
            raise value.error
        check_facts(self._facts, value, f"worker {worker}")
        self._stillborn = 0
        self._idle.append(worker)

    def _done(self, worker: Hashable, value: Any) -> None:
        number, _ = self._running.pop(worker)
        insort(self._took, time.monotonic() - self._began.pop(worker))
        self._idle.append(worker)
        if self._missing(number):
            if not isinstance(value, Failure):
                self._arrived(value)
            self._results[number] = value
            if number in self._twice:
                self._twice[number] = value
            return
        first = self._twice[number]
        failed = isinstance(first, Failure) or isinstance(value, Failure)
        if not failed and not self._work.same(first, value):
            raise RunError(
                "two workers gave different results for one image; use machines that are alike, or "
                "give each kind its own run with --shard"
            )

    def _lost(self, worker: Hashable, value: Any) -> None:
        entry = self._running.pop(worker, None)
        self._began.pop(worker, None)
        if worker in self._idle:
            self._idle.remove(worker)
        elif entry is None:
            self._stillborn += 1
            if self._stillborn >= TRIES:
                raise RunError(f"workers end before they have begun ({value}); {self._pool.advice}")
        if entry is None or not self._missing(entry[0]) or entry in self._running.values():
            return
        self._tries[entry[0]] += 1
        if self._tries[entry[0]] < TRIES:
            self._again.append(entry)
        else:
            told = f"one image has ended {TRIES} workers ({value}); {self._pool.advice}"
            self._results[entry[0]] = Failure(RunError(told))


def pack(work: Work[Any, Any]) -> bytes:
    """Pickle work for other processes.

    Raises:
        ConfigError: If it cannot be.
    """
    try:
        return pickle.dumps(work)
    except Exception as error:
        raise ConfigError(
            f"the model or method cannot be sent to another process ({error}); define its class at "
            "the top of a module, or leave --workers and --ray out"
        ) from None


def attempt(compute: Callable[[], Any]) -> Any:
    """Return what a call returns, or what it raised as a :class:`Failure` that can be pickled."""
    try:
        return compute()
    except DeqcertError as error:
        return Failure(error)
    except Exception:
        return Failure(RuntimeError(f"in a worker:\n{traceback.format_exc()}"))


def open_work(packed: bytes) -> tuple[Callable[[Any], Any] | None, Any]:
    """Open packed work in this process.

    Returns:
        What computes, None where it could not be opened; and this process's facts, or a Failure.
    """

    def opened() -> tuple[Callable[[Any], Any], dict[str, str]]:
        work = pickle.loads(packed)
        compute = work.open()
        return compute, facts(work.device)

    found = attempt(opened)
    return (None, found) if isinstance(found, Failure) else found
