"""Prediction sets from how many noisy copies reach a fixed score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from deqcert.certifiers.bounds import beta_quantiles, lower_confidence_bound
from deqcert.conformal.base import Evidence, SetMethod
from deqcert.conformal.scores import scores_of
from deqcert.conformal.shift import shifted
from deqcert.conformal.split import covering_rank, smallest
from deqcert.errors import ConfigError
from deqcert.options import number
from deqcert.smoothing.input import Input

if TYPE_CHECKING:
    from deqcert.smoothing import Answers, Copies

NOMINAL = 0.1
"""The alpha that a threshold is chosen for; another one only costs size."""

TRIED = 30
"""Thresholds that are tried."""

SHARE = 5
"""One image of so many chooses the threshold, where none is given."""


@dataclass(frozen=True)
class Binarised(SetMethod):
    """Count, for each class, the noisy copies whose score reaches a fixed threshold.

    With margin and threshold 0 these are the votes for the class, so that the votes of a run of
    ``deqcert certify`` serve again. The bar is the smallest count with
    U(count) >= Phi(Phi^-1(L(c)) - r/sigma), where c is the k-th smallest count of the calibration
    images for their true class, k = floor((1 - eta) alpha (n + 1)), and L and U are the bounds of
    Clopper and Pearson at level eta alpha / (k + 1).

    Args:
        score: How well a copy conforms to a class; see method one-draw.
        n: Noisy copies per image.
        threshold: Score that counts. If not given, 0 for margin (a vote), and else chosen on the
            first images, which are then not calibrated on.
        eta: Share of alpha that pays for counts being no probabilities.

    **Guarantee:** for exchangeable calibration and test images, P[y in C] >= 1 - alpha for every
    perturbation of l2 norm at most r that does not depend on the test copies' noise. The
    probability is over images and noise, of calibration and test together.

    **Source:** S. H. Zargarbashi, A. Bojchevski, "Robust Conformal Prediction with a Single Binary
    Certificate" (ICLR 2025); with k + 1 in place of n + K derived in docs/conformal.md.
    """

    name: ClassVar[str] = "binarised"

    n: int = number(100, low=1, metavar="N")
    threshold: float | None = number(None, whole=False, metavar="T")
    eta: float = number(0.1, above=0, below=1, metavar="E")

    @property
    def copies(self) -> int:
        """Return n."""
        return self.n

    @property
    def of_votes(self) -> bool:
        """Whether what is counted are votes for a class."""
        return self.score == "margin" and self.threshold in (None, 0.0)

    def evidence(
        self, source: Copies, inputs: Sequence[Input], *, stage: int, radius: float
    ) -> list[Evidence]:
        """Return the counts; a copy that was not solved may have reached it, or not."""
        found = source.answers(inputs, stage, self.n)
        if self.of_votes:  # of equal logits one alone is voted for
            classes = np.arange(found.logits.shape[2])
            reached = found.predictions[:, :, None] == classes
        else:
            scores = scores_of(self.score, _finite(found))
            reached = (scores >= self._threshold) & found.solved[:, :, None]
        counts = reached.sum(axis=1).astype(np.float64)
        silent = (~found.solved).sum(axis=1)
        return [
            Evidence(counts[i], counts[i] + silent[i], float(found.nfe[i]), int(silent[i]))
            for i in range(len(inputs))
        ]

    def level(self, alpha: float, radius: float, sigma: float) -> float:
        """Return what is left of alpha for calibration; the radius is paid for by the bar."""
        return alpha * (1.0 - self.eta)

    def bar(
        self, values: ArrayLike, *, alpha: float, radius: float, sigma: float, charge: float = 0.0
    ) -> float:
        """Return the smallest count that is enough; see :meth:`SetMethod.bar`."""
        counts = np.asarray(values)
        self.enough(len(counts), alpha, radius, sigma)
        paid = alpha * self.eta - charge
        if paid <= 0.0:
            raise ConfigError(
                f"exact noise takes {charge:.1e} of alpha, more than the share {self.eta:g} that "
                f"eta leaves of {alpha:g}; raise eta, or calibrate with fewer copies"
            )
        k = covering_rank(self.level(alpha, radius, sigma), len(counts))
        each = paid / (k + 1)
        worst = lower_confidence_bound(int(smallest(counts, k)), self.n, each)
        needed = shifted(worst, radius, sigma)
        return float(least_count(self.n, each, needed))

    def tuned(
        self, source: Copies, inputs: Sequence[Input], labels: Sequence[int], stage: int
    ) -> Self:
        """Return this method with a threshold chosen by images that are not calibrated on.

        Of the scores that these images have it takes the one that gives them the smallest sets, at
        a radius of sigma and half of :data:`NOMINAL` alpha: at all of it the luck of few images
        often ends at a bar of 0 for others. Whatever it takes, the guarantee holds.

        Args:
            source: The noisy copies.
            inputs: The images, one or more.
            labels: Their classes.
            stage: What noise is drawn for.
        """
        found = source.answers(inputs, stage, self.n)
        scores = scores_of(self.score, _finite(found))  # (m, n, K)
        scores[~found.solved] = -np.inf
        own = scores[np.arange(len(inputs)), :, list(labels)]
        each = self.eta * NOMINAL / (NOMINAL * len(inputs) * SHARE + 1)
        k = max(1, covering_rank(NOMINAL / 2, len(inputs)))
        best, fewest = 0.0, np.inf
        for least in np.unique(np.quantile(own, np.linspace(0.01, 0.5, TRIED), method="lower")):
            if not np.isfinite(least):
                continue
            worst = int(smallest((own >= least).sum(axis=1), k))
            needed = shifted(lower_confidence_bound(worst, self.n, each), 1.0, 1.0)
            bar = least_count(self.n, each, needed)
            size = float(((scores >= least).sum(axis=1) >= bar).sum(axis=1).mean())
            if size < fewest:
                best, fewest = float(least), size
        return replace(self, threshold=best)

    @property
    def _threshold(self) -> float:
        if self.threshold is None:
            raise ConfigError(f"score {self.score} has no threshold yet; give one, or tune it.")
        return self.threshold


def parted(images: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Part images at random into those that choose a threshold and those to calibrate on.

    Files are often in the order of their classes: cut off at an end, a part would take classes
    away, and what is left would not be exchangeable with test images. The same images are parted in
    the same way each time.

    Returns:
        One image of :data:`SHARE`, rounded down, and the rest, both in the order given.
    """
    order = np.random.default_rng(SHARE).permutation(len(images))
    chosen = set(order[: len(images) // SHARE].tolist())
    rest = [image for place, image in enumerate(images) if place not in chosen]
    return tuple(images[place] for place in sorted(chosen)), tuple(rest)


def _finite(found: Answers) -> NDArray[np.float64]:
    return np.where(found.solved[:, :, None], found.logits, 0.0)


def least_count(n: int, alpha: float, needed: float) -> int:
    """Return the smallest count whose upper bound reaches a probability.

    Args:
        n: Trials, from 1.
        alpha: Failure probability of the bound, in (0, 1).
        needed: What is to be reached, at most 1.
    """
    # U(m) >= p says that m or fewer are not too unlikely under p: a quantile, up to rounding.
    found = int(np.clip(np.nan_to_num(stats.binom.ppf(alpha, n, min(needed, 1.0))), 0, n))
    while True:
        before, here = upper_bounds(np.array([max(found - 1, 0), found]), n, alpha)
        if here < needed:
            found += 1
        elif found > 0 and before >= needed:
            found -= 1
        else:
            return found


def upper_bounds(counts: NDArray[np.int64], n: int, alpha: float) -> NDArray[np.float64]:
    """Return the upper bounds of Clopper and Pearson, rounded up.

    Args:
        counts: Successes, 0 to n.
        n: Trials, from 1.
        alpha: Failure probability of each, in (0, 1).
    """
    failures = n - counts
    found = 1.0 - beta_quantiles(alpha, np.maximum(failures, 1), counts + 1)
    return np.where(failures > 0, found, 1.0)


def votes_evidence(predict: int, votes: int, n: int, classes: int) -> Evidence:
    """Return what a certificate's line says of the votes for each class.

    Only the chosen class's votes are kept. Every other class has from 0 to all the rest; where the
    certificate abstained, nobody knows which class was chosen.

    Args:
        predict: The certified class, -1 for an abstention.
        votes: Votes for the chosen class.
        n: Samples.
        classes: Number of classes.
    """
    low, high = np.zeros(classes), np.full(classes, float(n - votes))
    if predict >= 0:
        low[predict] = high[predict] = votes
    else:
        high[:] = max(votes, n - votes)
    return Evidence(low, high, 0.0)
