"""What the votes that were cast again say by themselves, as samples of the changed model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from deqcert.certifiers.audit import BLOCK, DOUBTFUL, WORTHWHILE, Audit, Findings, first_block
from deqcert.certifiers.bounds import lower_confidence_bound
from deqcert.certifiers.goals import Goal
from deqcert.certifiers.sampling import Sampling

UNKNOWN, WRONG, RIGHT = -1, 0, 1

LOOKS = 1 / 2
"""Share of alpha that goes to the votes that were cast again by themselves."""


@dataclass(frozen=True)
class VotesAudit:
    """An audit of votes for a class that also counts what it looked at by itself.

    Args:
        n: Samples that voted.
        size: Most votes for the class that are cast again, 1 to n; of others it may be a quarter
            of that, as long as many of them have changed to the class.
        alpha: Failure probability in all, in (0, 1).
        goal: When to stop; None casts all of ``size`` again.
        most: Samples that there could have been, where what was voted decided after how many to
            stop; None where n was fixed beforehand. Only then are looks counted by themselves:
            samples that were stopped at are no random ones.
    """

    n: int
    size: int
    alpha: float
    goal: Goal | None = None
    most: int | None = None

    def best(self) -> float:
        """Return the bound of a unanimous vote without disagreements."""
        best = self._audit.best(self.n)
        if self.most is not None:
            return best
        size = counted(self.n, self.size)
        return max(best, best_look(size, size, LOOKS * self.alpha, early=self.goal is not None))

    def run(
        self,
        voters: NDArray[np.int64],
        others: NDArray[np.int64],
        judge: Callable[[NDArray[np.int64]], NDArray[np.bool_]],
        generator: np.random.Generator,
        *,
        sigma: float,
        batch: int,
    ) -> Findings:
        """Audit.

        Args:
            voters: Samples that voted for the class, the most doubtful first.
            others: All other samples, the most doubtful first.
            judge: Casts the votes of some samples again; says which are for the class.
            generator: The random stream that chooses, used for nothing else.
            sigma: Standard deviation of the noise, in input units.
            batch: Votes that are cast together.
        """
        looks = None
        if self.most is None:
            size, alpha = counted(self.n, self.size), LOOKS * self.alpha
            looks = Looks(self.n, voters, size, alpha, self.goal is not None, generator)

        def right(samples: NDArray[np.int64]) -> int:
            found = judge(samples)
            if looks is not None:
                looks.record(samples, found)
            return int(np.sum(found))

        def count(numbers: NDArray[np.int64]) -> int:
            return len(numbers) - right(voters[numbers])

        order = generator if looks is None else looks
        looked = gained = 0
        if self._audit.best(len(voters)) > 0.5:
            looked, gained = self._gains(others, right)
        audit = replace(self._audit, gained=gained)
        found = audit.run(len(voters), count, order, sigma=sigma, batch=batch, aside=looks)
        return Findings(found.p_lower, found.audited + looked, found.disagreements + gained)

    def _gains(
        self, others: NDArray[np.int64], right: Callable[[NDArray[np.int64]], int]
    ) -> tuple[int, int]:
        """Cast the most doubtful other votes again, as long as many are for the class now.

        Returns:
            How many were cast again, and how many of these are for the class.
        """
        block = max(1, int(BLOCK * min(self.size, len(others))))
        looked = gained = 0
        while looked < len(others) and looked + block <= DOUBTFUL * self.size:
            part = others[looked : looked + block]
            more = right(part)
            looked, gained = looked + len(part), gained + more
            if more < WORTHWHILE * len(part):
                break
        return looked, gained

    @property
    def _audit(self) -> Audit:
        alpha = self.alpha if self.most is not None else (1.0 - LOOKS) * self.alpha
        return Audit(self.n, self.size, alpha, self.goal, self.most)


def counted(n: int, audit: int) -> int:
    """Return of how many samples an audit knows what they say, whatever it finds at first.

    All but those of its first block, which is chosen by doubt and not at random.

    Args:
        n: Samples that voted.
        audit: Votes that are cast again at most, 1 to n.
    """
    return max(1, min(n, audit) - first_block(audit))


@dataclass
class Looks:
    """The samples in a random order, each with what is known of the changed model's class for it.

    An audit takes the votes in this order. So whatever it has found out, the first samples of the
    order are independent draws of the changed model, and of those that had no vote for the class it
    is enough to count the ones that are known to have it now.

    Args:
        n: Samples that voted.
        voters: Those that voted for the class, in the order in which an audit numbers them.
        size: Samples of the order that count, fixed beforehand; see :func:`counted`.
        alpha: Failure probability of the bounds of :meth:`now` together, in (0, 1).
        early: Whether :meth:`now` is asked more than once; half of alpha then pays for that.
        generator: The random stream that chooses, used for nothing else.

    **Guarantee:** with independent samples of probability p, the probability that any :meth:`now`
    exceeds p is at most alpha, over the noise and the order, whatever was recorded in between.
    """

    n: int
    voters: NDArray[np.int64]
    size: int
    alpha: float
    early: bool
    generator: np.random.Generator
    _order: NDArray[np.int64] = field(init=False)
    _known: NDArray[np.int8] = field(init=False)

    def __post_init__(self) -> None:
        self._order = self.generator.permutation(self.n)
        self._known = np.full(self.n, WRONG, dtype=np.int8)
        self._known[self.voters] = UNKNOWN

    def permutation(self, count: int, /) -> NDArray[np.int64]:
        """Return the order of the last ``count`` voters, as numbers from 0."""
        place = np.empty(self.n, dtype=np.int64)
        place[self._order] = np.arange(self.n)
        return np.argsort(place[self.voters[len(self.voters) - count :]])

    def record(self, samples: NDArray[np.int64], right: NDArray[np.bool_]) -> None:
        """Take note of which samples the changed model gives the class."""
        self._known[samples] = np.where(right, RIGHT, WRONG)

    def now(self) -> float:
        """Bound the probability of the class from below by what is known."""
        known = self._known[self._order[: self.size]]
        if not self.early:
            return lower_confidence_bound(int(np.sum(known == RIGHT)), self.size, self.alpha)
        gaps = np.flatnonzero(known == UNKNOWN)
        drawn = int(gaps[0]) if gaps.size else self.size
        if not drawn:
            return 0.0
        right = int(np.sum(known[:drawn] == RIGHT))
        return float(Sampling(self.size, self.alpha).p_lower(right, drawn))

    def best(self) -> float:
        """Return the bound if all that is not known were right."""
        right = int(np.sum(self._known[self._order[: self.size]] != WRONG))
        return best_look(right, self.size, self.alpha, early=self.early)


def best_look(right: int, size: int, alpha: float, *, early: bool) -> float:
    """Return the last bound of :class:`Looks` from the counts alone."""
    if early:
        return float(Sampling(size, alpha).p_lower(right, size))
    return lower_confidence_bound(right, size, alpha)
