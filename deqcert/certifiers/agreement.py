"""How often the classifier that is certified answers as the converged model: a small random audit.

It only looks. It begins when an image's certificate is made and safe, chooses among the samples by
a random stream of its own, and nothing that it finds goes back: neither into that certificate nor
into what is done next.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from deqcert.certifiers.audited import audit_generator
from deqcert.certifiers.bounds import confidence_interval
from deqcert.smoothing.stage import Stage

if TYPE_CHECKING:
    from deqcert.smoothing import Input, Predictor, SmoothingEngine

ERROR = 0.05
"""Failure probability of every interval of an agreement: of the overall one, and of all images'
intervals together."""

FAITHFUL = 0.95
"""Agreement below which whoever reads the certificates is warned."""


@dataclass(frozen=True, slots=True)
class Looked:
    """What an audit of one image saw.

    Attributes:
        audited: Samples that were solved by both.
        agreed: Those of them to which both give the same class.
        unsolved: Those of them to which the converged solve gives none: it did not converge. They
            have not agreed.
        nfe: Cell evaluations, counted as those of votes.
        seconds: Wall time, in seconds.
    """

    audited: int
    agreed: int
    unsolved: int
    nfe: float
    seconds: float


@dataclass(frozen=True)
class AgreementAudit:
    """Solve a few of the samples that bound a certificate again, until they converge.

    Args:
        engine: The engine that cast the votes, or one beside it.
        classifier: The classifier that is certified; its start is independent.
        converging: An engine with the same noise for the converged solves; see
            :meth:`deqcert.smoothing.SmoothingEngine.beside`.
        converged: How they are solved: cold, to a tolerance.
        budget: Share of the evaluations of the votes that the audit may cost, above 0. The number
            of samples is fixed by it beforehand, from the least that a vote and the most that an
            audited sample can cost, because a number that depended on what is found would bias it.
    """

    engine: SmoothingEngine
    classifier: Predictor
    converging: SmoothingEngine
    converged: Predictor
    budget: float

    @property
    def share(self) -> float:
        """Expected share of the samples that is audited, 0 to 1."""
        least = self.classifier.spent(self.classifier.fewest, 1, readouts=0)
        twice = self.classifier.spent(self.classifier.stop.max_nfe, 1)
        return min(1.0, self.budget * least / (twice + self.converged.stop.max_nfe))

    def draw_by(self, seed: int) -> None:
        """Take the seed of the run that is audited, which a secret one has only once it is open."""
        self.engine.seed = self.converging.seed = seed

    def samples(self, index: int, drawn: int) -> NDArray[np.int64]:
        """Choose the samples of an image: a function of the seed, the index and ``drawn`` alone.

        Args:
            index: Index of the image.
            drawn: Samples that its certificate has drawn; one is among them from ``share`` on 1.

        Returns:
            Different numbers below ``drawn`` in increasing order; as many as ``share`` of them,
            rounded up or down at random so that it is right on average.
        """
        random = audit_generator(self.engine, index, Stage.AGREEMENT)
        size = min(drawn, math.floor(self.share * drawn + random.random()))
        return np.sort(random.choice(drawn, size=size, replace=False))

    def look(self, input: Input, drawn: int) -> Looked:
        """Audit one image.

        Args:
            input: The input, and the index that its noise was drawn by.
            drawn: Samples that its certificate has drawn.
        """
        began = time.perf_counter()
        chosen = self.samples(input.index, drawn)
        if not len(chosen):
            return Looked(0, 0, 0, 0.0, time.perf_counter() - began)
        cast = self.engine.classify(self.classifier, input, Stage.ESTIMATE, chosen)
        truth = self.converging.classify(self.converged, input, Stage.ESTIMATE, chosen)
        solved = truth.predictions >= 0
        return Looked(
            audited=len(chosen),
            agreed=int(np.sum(solved & (cast.predictions == truth.predictions))),
            unsolved=int(np.sum(~solved)),
            nfe=cast.nfe + truth.nfe,
            seconds=time.perf_counter() - began,
        )


@dataclass(frozen=True)
class Agreement:
    """How often two classifiers agreed over the images of a run; arrays have shape (N,).

    Args:
        idx: Index of the image in its data set.
        audited: Samples that were solved by both.
        agreed: Those of them to which both give the same class.
        unsolved: Those of them to which the converged solve gives none, which have not agreed.
        nfe: Cell evaluations of the audit.
        seconds: Its wall time, in seconds.
    """

    idx: NDArray[np.int64]
    audited: NDArray[np.int64]
    agreed: NDArray[np.int64]
    unsolved: NDArray[np.int64]
    nfe: NDArray[np.float64]
    seconds: NDArray[np.float64] = field(repr=False)

    @property
    def share(self) -> float:
        """Share of the audited samples that agreed; NaN where none was audited."""
        total = int(self.audited.sum())
        return int(self.agreed.sum()) / total if total else math.nan

    def interval(self) -> tuple[float, float]:
        """Bound the share of all samples of the run that agree; 0 and 1 where none was audited.

        **Guarantee:** wrong with probability at most 5%, over the choice of the audited samples.
        The bounds are those of independent draws with one probability; draws without replacement,
        and from images that differ, spread less.

        **Source:** Clopper, Pearson 1934; W. Hoeffding 1956, "On the Distribution of the Number of
        Successes in Independent Trials", theorem 4.
        """
        total = int(self.audited.sum())
        return confidence_interval(int(self.agreed.sum()), total, ERROR) if total else (0.0, 1.0)

    def least(self, most: int = 3) -> list[tuple[int, int, int, tuple[float, float]]]:
        """Return the images with the smallest share of agreement, the smallest first.

        Args:
            most: How many at most; images on which nothing disagreed are left out.

        Returns:
            Index, samples that agreed, audited samples, and an interval for the share of all of
            the image's samples that agree.

        **Guarantee:** with probability at least 95% the intervals of *all* images hold, so those of
        the images that were picked for what was found do (Bonferroni).
        """
        seen = np.flatnonzero(self.agreed < self.audited)
        shares = self.agreed[seen] / self.audited[seen]
        error = ERROR / max(int(np.sum(self.audited > 0)), 1)
        found = []
        for i in seen[np.argsort(shares, kind="stable")[:most]]:
            agreed, audited = int(self.agreed[i]), int(self.audited[i])
            bounds = confidence_interval(agreed, audited, error)
            found.append((int(self.idx[i]), agreed, audited, bounds))
        return found

    def warning(self, about: str, other: str) -> str | None:
        """Return a sentence for whoever reads the certificates; None from an agreement of 95% on.

        Args:
            about: Name of the classifier that is certified.
            other: Name of the converged model.
        """
        if not self.share < FAITHFUL:
            return None
        agreed, audited = int(self.agreed.sum()), int(self.audited.sum())
        return (
            f"these are certificates of {about}, which agrees with {other} on only {agreed} of "
            f"{audited} audited votes ({100 * self.share:.1f}%): read them as certificates of "
            "another classifier than that model"
        )
