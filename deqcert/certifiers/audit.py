"""How an audit is spent: doubtful votes first, then a random part until a goal is settled."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from deqcert.certifiers.bounds import disagreements_upper_bound, lower_confidence_bound
from deqcert.certifiers.goals import Goal
from deqcert.certifiers.sampling import Sampling, looks, radii
from deqcert.certifiers.sequences import disagreements_upper_sequence

BLOCK = 1 / 20
"""Doubtful votes that are audited at a time, as a share of the audit."""

DOUBTFUL = 1 / 4
"""Most of the audit that goes to doubtful votes; the rest is random."""

WORTHWHILE = 1 / 4
"""Share of wrong votes in a block from which on the next one is audited whole, too."""


class Order(Protocol):
    """What draws a random order, such as a NumPy generator."""

    def permutation(self, count: int, /) -> NDArray[np.int64]:
        """Return the numbers below ``count`` in a uniformly random order."""
        ...


class Aside(Protocol):
    """Another lower bound of the same probability, with a failure probability of its own."""

    def now(self) -> float:
        """Return what it says after all that was judged."""
        ...

    def best(self) -> float:
        """Return what it would say in the end if nothing wrong were found any more."""
        ...


def first_block(size: int) -> int:
    """Return how many doubtful votes an audit of that size looks at first."""
    return max(1, int(BLOCK * size))


@dataclass(frozen=True, slots=True)
class Findings:
    """What an audit found.

    Attributes:
        p_lower: Lower bound of the probability of the class under the noise.
        audited: Votes that were solved again.
        disagreements: Those of them to which the reference gave another class, or none.
    """

    p_lower: float
    audited: int
    disagreements: int


@dataclass(frozen=True)
class Audit:
    """An audit of at most ``size`` of the votes for a class.

    Args:
        n: Samples that voted.
        size: Most votes that are audited, 1 to n.
        alpha: Failure probability of audit and estimate together, in (0, 1).
        goal: When to stop; None audits all of ``size``.
        most: Samples that there could have been, where what was voted decided after how many to
            stop; None where n was fixed beforehand.
        gained: Samples that did not vote for the class and are known to be the reference's for it.
    """

    n: int
    size: int
    alpha: float
    goal: Goal | None = None
    most: int | None = None
    gained: int = 0

    def bound(self, votes: int, whole: int, wrong: int, drawn: int, found: int) -> float:
        """Return p_lower from the counts alone.

        Args:
            votes: Samples among n that voted for the class, N_A.
            whole: Doubtful ones among them, audited whole.
            wrong: Those of the doubtful ones to which the reference gave another class, or none.
            drawn: Random ones among the others that were audited.
            found: Those of the random ones to which the reference gave another class, or none.
        """
        share = best_share(self.n if self.most is None else self.most, self.size, self.alpha)
        others, alpha = votes - whole, share * self.alpha
        if self.goal is None:
            more = disagreements_upper_bound(found, drawn, others, alpha)
        else:
            more = disagreements_upper_sequence(found, drawn, others, alpha / 2)
            if drawn == self.random_part(votes, whole):
                more = min(more, disagreements_upper_bound(found, drawn, others, alpha / 2))
        kept, alpha = votes - wrong - more + self.gained, (1.0 - share) * self.alpha
        if self.most is None:
            return lower_confidence_bound(kept, self.n, alpha)
        return float(Sampling(self.most, alpha).p_lower(kept, self.n))

    def random_part(self, votes: int, whole: int) -> int:
        """Return how many random votes are audited at most, after the doubtful ones."""
        return min(self.size, votes) - whole

    def best(self, votes: int, whole: int = 0, wrong: int = 0, found: int = 0) -> float:
        """Return the bound after the whole audit if nothing more were found."""
        return self.bound(votes, whole, wrong, self.random_part(votes, whole), found)

    def run(
        self,
        votes: int,
        judge: Callable[[NDArray[np.int64]], int],
        generator: Order,
        *,
        sigma: float,
        batch: int,
        aside: Aside | None = None,
    ) -> Findings:
        """Audit.

        Args:
            votes: Samples that voted for the class, N_A; they are numbered from 0 in the order of
                their own margins, the most doubtful first.
            judge: Solves the votes of these numbers again and counts the disagreements.
            generator: The random stream that chooses, used for nothing else.
            sigma: Standard deviation of the noise, in input units.
            batch: Votes that are solved together.
            aside: Another bound that sees what is judged; the larger of the two counts.
        """
        other = _NONE if aside is None else aside
        whole = wrong = drawn = found = 0
        p_lower = 0.0
        if self._settled(p_lower, max(self.best(votes), other.best()), sigma):
            return Findings(p_lower, 0, 0)
        block = first_block(self.size)
        while whole + block <= DOUBTFUL * min(self.size, votes):
            more = judge(np.arange(whole, whole + block))
            whole, wrong = whole + block, wrong + more
            if more < WORTHWHILE * block:
                break
        # Everything so far only says which votes are left; the order of these is drawn now.
        order = whole + generator.permutation(votes - whole)
        size = self.random_part(votes, whole)
        for look in looks(size, batch if self.goal is not None else size):
            best = max(self.best(votes, whole, wrong, found), other.best())
            if self._settled(p_lower, best, sigma):
                break
            found, drawn = found + judge(order[drawn:look]), look
            p_lower = max(p_lower, self.bound(votes, whole, wrong, drawn, found), other.now())
        return Findings(p_lower, whole + drawn, wrong + found)

    def _settled(self, now: float, best: float, sigma: float) -> bool:
        """Whether auditing on is pointless: always where no class could be certified any more."""
        if self.goal is None:
            return not best > 0.5
        return bool(self.goal.settled(radii(now, sigma), radii(max(now, best), sigma)))


class _NoOther:
    """In place of another bound: it says nothing."""

    def now(self) -> float:
        return 0.0

    best = now


_NONE = _NoOther()


@functools.cache
def best_share(n: int, size: int, alpha: float) -> float:
    """Return the share of alpha that the audit gets; the estimate gets the rest.

    It is the best one, among a few, for a unanimous vote without disagreements. It must not depend
    on data, and does not: only on what is asked for.

    Args:
        n: Samples that vote.
        size: Votes that are audited, 1 to n.
        alpha: Failure probability in all, in (0, 1).
    """

    def bound(share: float) -> float:
        wrong = disagreements_upper_bound(0, size, n, share * alpha)
        return lower_confidence_bound(n - wrong, n, (1.0 - share) * alpha)

    shares = [0.01, 0.02, 0.05, *(i / 10 for i in range(1, 10)), 0.95]
    return max(shares, key=bound)
