"""What a certificate will cost, told before a run: samples, audits, and what no number does.

Nothing here makes a certificate; forecasts may be wrong without harm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from deqcert.certifiers.bounds import (
    certified_radius,
    disagreements_upper_bound,
    lower_confidence_bound,
)
from deqcert.certifiers.goals import Goal
from deqcert.certifiers.sampling import Sampling, looks, radii

POWER = 0.9
"""Probability with which a forecast number of samples is to certify what it is forecast for."""

LIMIT = 10**9
"""Samples beyond which a plan says that there is no number."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What simulated runs of sequential sampling needed and found, one entry per run.

    Attributes:
        drawn: Samples until the goal was settled, shape (R,).
        p_lower: The bound then, shape (R,).
        votes: Votes for the class among all n samples, had the run gone on, shape (R,).
    """

    drawn: NDArray[np.int64]
    p_lower: NDArray[np.float64]
    votes: NDArray[np.int64]


def probability_needed(radius: float, sigma: float) -> float:
    """Return Phi(radius / sigma): the class must be more probable than this under the noise."""
    return float(scipy.stats.norm.cdf(radius / sigma))


def samples_needed(radius: float, sigma: float, alpha: float, p: float = 1.0) -> int | None:
    """Return how many samples certify a radius in nine of ten runs; None if no number does.

    Args:
        radius: In input units, at least 0.
        sigma: Standard deviation of the noise, in input units, above 0.
        alpha: Failure probability, in (0, 1).
        p: Probability of the class under the noise; 1 asks for the least that could ever do.
    """
    asked = probability_needed(radius, sigma)
    if not asked < p:
        return None

    def enough(n: int) -> bool:
        # LCB(k, n, alpha) >= asked where P[Binomial(n, asked) >= k] <= alpha.
        least = scipy.stats.binom.isf(alpha, n, asked) + 1
        return bool(scipy.stats.binom.sf(least - 1, n, p) >= POWER)

    most = 1
    while not enough(most):
        most *= 2
        if most > LIMIT:
            return None
    return _smallest(most // 2, most, enough)


def audits_needed(
    radius: float, sigma: float, alpha: float, n: int, p: float = 1.0, wrong: float = 0.0
) -> int | None:
    """Return how many of n votes `serialized` must audit to certify a radius; None if all are few.

    Args:
        radius: In input units, at least 0.
        sigma: Standard deviation of the noise, in input units, above 0.
        alpha: Failure probability, in (0, 1).
        n: Samples that vote.
        p: Share of the samples that vote for the class.
        wrong: Share of those votes that the reference does not give.
    """
    votes = round(n * p)

    def enough(size: int) -> bool:
        found = min(size, round(wrong * size))
        more = disagreements_upper_bound(found, size, votes, alpha / 2)
        bound = lower_confidence_bound(votes - more, n, alpha / 2)
        return bound > 0.5 and certified_radius(bound, sigma) >= radius

    if votes < 1 or not enough(votes):
        return None
    return _smallest(0, votes, enough)


def forecast(
    p: ArrayLike,
    goal: Goal,
    *,
    n: int,
    alpha: float,
    sigma: float,
    batch: int,
    rng: np.random.Generator,
) -> Forecast:
    """Simulate sequential sampling by `independent`.

    Args:
        p: Probability of the class under the noise, for each run, shape (R,).
        goal: When a run stops.
        n: Most samples.
        alpha: Failure probability, in (0, 1).
        sigma: Standard deviation of the noise, in input units, above 0.
        batch: Samples that are solved together.
        rng: Where the votes come from.
    """
    probability, sampling = np.asarray(p, dtype=np.float64), Sampling(n, alpha)
    votes = np.zeros(len(probability), dtype=np.int64)
    drawn = np.full(len(probability), n, dtype=np.int64)
    p_lower, running, before = np.zeros(len(probability)), np.full(len(probability), True), 0
    for look in looks(n, batch):
        votes, before = votes + rng.binomial(look - before, probability), look
        if not running.any():
            continue
        k, held = votes[running], p_lower[running]
        held = np.maximum(held, sampling.p_lower(k, look))
        best = np.maximum(held, sampling.reachable(k, look))
        p_lower[running] = held
        ends = np.flatnonzero(running)[goal.settled(radii(held, sigma), radii(best, sigma))]
        drawn[ends], running[ends] = look, False
    return Forecast(drawn, p_lower, votes)


def _smallest(low: int, high: int, enough: Callable[[int], bool]) -> int:
    """Return the smallest number above ``low`` that is enough, where ``high`` is."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
