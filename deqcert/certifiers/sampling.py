"""Sequential sampling: what a look shows, and what the samples still allowed could show."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from deqcert.certifiers.bounds import beta_quantiles, certified_radii
from deqcert.certifiers.sequences import lower_sequences

GROWTH = 1 / 8
"""Samples between two looks, as a share of those drawn: what is overshot at most, nearly."""


def looks(most: int, batch: int) -> Iterator[int]:
    """Yield the sample sizes after which to look: whole batches, then the most there may be.

    Args:
        most: Largest sample size; nothing is yielded for 0.
        batch: Samples that are solved together, at least 1.
    """
    drawn = 0
    while drawn < most:
        drawn = min(most, drawn + batch * max(1, math.ceil(GROWTH * drawn / batch)))
        yield drawn


@dataclass(frozen=True)
class Sampling:
    """Bounds for a vote of at most n samples that is looked at while it grows.

    Half of alpha pays for a confidence sequence, which holds at every look, and half for the
    Clopper-Pearson bound of all n samples, so that a vote that goes on to the end loses next to
    nothing against a vote that was never looked at.

    Args:
        n: Most samples, at least 1.
        alpha: Failure probability of all bounds together, in (0, 1).
    """

    n: int
    alpha: float

    def p_lower(self, votes: ArrayLike, drawn: int) -> NDArray[np.float64]:
        """Bound the probability of the class from below after a number of samples.

        Args:
            votes: Votes for the class, integers of any shape.
            drawn: Samples drawn, 1 to n.

        **Guarantee:** for independent votes of probability p, the probability that the bound
        exceeds p after any number of samples up to n is at most alpha.
        """
        bound = lower_sequences(votes, drawn, self.alpha / 2)
        return np.maximum(bound, self._last(np.asarray(votes))) if drawn == self.n else bound

    def reachable(self, votes: ArrayLike, drawn: int) -> NDArray[np.float64]:
        """Return the bound that all n samples would be reckoned to give at most.

        Args:
            votes: Votes for the class, integers of any shape.
            drawn: Samples drawn, 1 to n.

        **Guarantee:** if sampling stops at the first look at which this is below some value, the
        probability that the bound of all n samples would have reached that value is at most alpha.
        It is about effort: a certificate never rests on it.
        """
        k = np.asarray(votes)
        likely = 1.0 - lower_sequences(drawn - k, drawn, self.alpha / 2)
        left = self.n - drawn
        more = scipy.stats.binom.isf(self.alpha / 2, left, likely) if left else 0
        return self._last(np.minimum(k + more, self.n))

    def _last(self, votes: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the Clopper-Pearson bound of n samples; 0 without votes."""
        bound = beta_quantiles(self.alpha / 2, np.maximum(votes, 1), self.n - votes + 1)
        return np.where(votes > 0, bound, 0.0)


def radii(p_lower: ArrayLike, sigma: float) -> NDArray[np.float64]:
    """Return the radii of certificates as goals see them: -inf where nothing is certified.

    Args:
        p_lower: Lower bounds of the probability of the class, in [0, 1].
        sigma: Standard deviation of the noise, in input units, above 0.
    """
    p = np.asarray(p_lower, dtype=np.float64)
    return np.where(p > 0.5, certified_radii(p, sigma), -np.inf)
