"""What a classifier's confidences are worth: calibration errors, and how far noise can move them.

NumPy and SciPy only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.special
from numpy.typing import ArrayLike, NDArray

from deqcert.certifiers.bounds import beta_quantiles

Array = NDArray[np.float64]

BINS = 15
"""Bins of equal width that a calibration error is taken over, the field's usual number."""


@dataclass(frozen=True)
class Reliability:
    """How often a classifier is right where it is so sure; arrays have an entry per bin.

    Attributes:
        edges: Of the bins, shape (m + 1,), from 0 to 1.
        count: Inputs per bin.
        confidence: Mean confidence per bin; NaN where there is no input.
        accuracy: Share that is right per bin; NaN where there is no input.
    """

    edges: Array
    count: NDArray[np.int64]
    confidence: Array
    accuracy: Array

    @property
    def error(self) -> float:
        """The expected calibration error: mean distance of the two, weighted by inputs."""
        held = self.count > 0
        gaps = np.abs(self.accuracy[held] - self.confidence[held])
        return float(np.sum(gaps * self.count[held]) / self.count.sum())


def reliability(confidence: ArrayLike, correct: ArrayLike, bins: int = BINS) -> Reliability:
    """Sort inputs into bins by confidence, and see how often each bin is right.

    Args:
        confidence: In the class answered, shape (N,), in [0, 1].
        correct: Whether that class is the true one, shape (N,).
        bins: How many, of equal width; an input on an edge belongs to the lower bin.

    **Source:** C. Guo et al. (2017), equations 2 to 5.
    """
    sure, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=bool)
    edges = np.linspace(0.0, 1.0, bins + 1)
    place = np.clip(np.searchsorted(edges, sure, side="left") - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins).astype(np.int64)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(place, weights=sure, minlength=bins) / count
        share = np.bincount(place, weights=right.astype(np.float64), minlength=bins) / count
    return Reliability(edges, count, mean, share)


def brier(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Return the Brier score: mean over inputs of the summed squares of p_k - [k = y].

    Args:
        probabilities: Shape (N, K).
        labels: True classes, shape (N,).

    Returns:
        From 0 to 2.

    **Source:** G. W. Brier (1950).
    """
    p, y = np.asarray(probabilities, dtype=np.float64), np.asarray(labels, dtype=np.int64)
    truth = np.zeros_like(p)
    truth[np.arange(len(p)), y] = 1.0
    return float(np.square(p - truth).sum(axis=1).mean())


def log_loss(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Return the mean negative log-likelihood of the true classes, in nats.

    Args:
        probabilities: Shape (N, K).
        labels: True classes, shape (N,).

    Returns:
        Infinite where a true class has probability 0.
    """
    p, y = np.asarray(probabilities, dtype=np.float64), np.asarray(labels, dtype=np.int64)
    with np.errstate(divide="ignore"):
        return float(-np.log(p[np.arange(len(p)), y]).mean())


def share_bounds(votes: ArrayLike, n: ArrayLike, alpha: float) -> tuple[Array, Array]:
    """Bound the probabilities behind votes from both sides, each input with alpha in all.

    Args:
        votes: Votes for a class that was chosen without them, shape (N,).
        n: Votes cast, fixed beforehand, shape (N,).
        alpha: In (0, 1).

    Returns:
        Lower and upper bounds, shape (N,) each, rounded outwards.

    **Source:** C. J. Clopper and E. S. Pearson (1934).
    """
    k, total = np.asarray(votes, dtype=np.float64), np.asarray(n, dtype=np.float64)
    one = np.ones_like(k)
    low = np.where(k > 0, beta_quantiles(alpha / 2, np.where(k > 0, k, one), total - k + 1), 0.0)
    missed = total - k
    high = np.where(
        missed > 0, 1.0 - beta_quantiles(alpha / 2, np.where(missed > 0, missed, one), k + 1), 1.0
    )
    return low, high


def certified_brier(
    low: ArrayLike,
    high: ArrayLike,
    correct: ArrayLike,
    radius: float,
    sigma: float,
    known: ArrayLike = True,
) -> float:
    """Bound the Brier score of the smoothed classifier's confidence under any l2 perturbation.

    The confidence c is the probability, over the noise, of the class A that was answered without
    a perturbation; its score is (c - [A = y])^2. Within r it stays between Phi(Phi^-1(c) - r/sigma)
    and Phi(Phi^-1(c) + r/sigma); the worse end counts, for every input.

    Args:
        low: Lower bound of c per input, shape (N,).
        high: Upper bound of c per input, shape (N,).
        correct: Whether A is the true class, shape (N,).
        radius: l2 size of the perturbations, in [0, 1] pixels.
        sigma: Standard deviation of the noise.
        known: Whether it is known what A is, shape (N,); where it is not, the worse case counts.

    Returns:
        From 0 to 1.

    **Guarantee:** where the bounds hold, the mean score is at most this, whatever perturbation of
    at most ``radius`` each input gets. Where each input's fail with probability at most alpha, the
    expectation of the mean score is at most that of this plus alpha, because a score is at most 1.

    **Source:** J. Cohen et al. (2019) for how far c moves (Neyman and Pearson); the certified Brier
    score is C. Emde et al.'s (2025), here for the class answered without a perturbation.
    """
    shift, right = radius / sigma, np.asarray(correct, dtype=bool)
    ndtr, ndtri = scipy.special.ndtr, scipy.special.ndtri
    least = ndtr(ndtri(np.asarray(low, dtype=np.float64)) - shift)
    most = ndtr(ndtri(np.asarray(high, dtype=np.float64)) + shift)
    score = np.where(right, (1.0 - least) ** 2, most**2)
    worst = np.maximum((1.0 - least) ** 2, most**2)
    return float(np.where(np.asarray(known, dtype=bool), score, worst).mean())
