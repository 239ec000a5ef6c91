"""What is spread over processes, and what spreads it: the protocol that all executors share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable
from typing import Any, Generic, Protocol, TypeVar

T = TypeVar("T")
R = TypeVar("R")
T_contra = TypeVar("T_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)


class Work(Protocol[T_contra, R_co]):
    """What tasks have in common; it can be pickled, and is opened in each process that computes.

    A task's result is a function of work and task alone, wall times apart: not of the process, of
    what it did before, or of how often the task was begun.
    """

    @property
    def device(self) -> str:
        """Where it computes, as torch names it."""
        ...

    def open(self) -> Callable[[T_contra], R_co]:
        """Get ready, and return what computes a task's result."""
        ...

    def same(self, first: Any, second: Any, /) -> bool:
        """Whether two results of one task are equal, wall times apart."""
        ...


class Executor(ABC):
    """Computes tasks somewhere, and gives the results in order."""

    @abstractmethod
    def results(
        self,
        work: Work[T, R],
        tasks: Iterable[T],
        arrived: Callable[[R], None] = lambda result: None,
    ) -> Generator[R]:
        """Compute tasks.

        Args:
            work: What they have in common.
            tasks: Read as they are needed, a few ahead.
            arrived: Called with each result as it comes, in any order; before it is yielded.

        Yields:
            The results, in the order of the tasks.

        Raises:
            DeqcertError: What a task raised, in its turn, or why workers cannot work.
        """


class Serial(Executor):
    """This process, one task after the other."""

    def results(
        self,
        work: Work[T, R],
        tasks: Iterable[T],
        arrived: Callable[[R], None] = lambda result: None,
    ) -> Generator[R]:
        """Compute tasks; see :meth:`Executor.results`."""
        compute = work.open()
        for task in tasks:
            result = compute(task)
            arrived(result)
            yield result


class Failure(Generic[R]):
    """What a task raised, on its way to whoever asked for its result.

    Args:
        error: The exception.
    """

    def __init__(self, error: Exception) -> None:
        self.error = error
