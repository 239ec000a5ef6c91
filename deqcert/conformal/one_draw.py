"""Prediction sets from a single noisy copy of each image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from deqcert.conformal.base import Evidence, SetMethod
from deqcert.conformal.scores import scores_of
from deqcert.conformal.shift import clean_level
from deqcert.conformal.split import covering_rank, smallest
from deqcert.errors import ConfigError
from deqcert.smoothing.input import Input

if TYPE_CHECKING:
    from deqcert.smoothing import Copies


@dataclass(frozen=True)
class OneDraw(SetMethod):
    """Solve one noisy copy of each image, and calibrate at a level that pays for the radius.

    Evidence for a class is the score of the noisy copy; the bar is the k-th smallest of the
    calibration images, k = floor(alpha' (n + 1)), alpha' = Phi(Phi^-1(alpha) - r/sigma).

    Args:
        score: How well a copy conforms to a class: its probability (softmax), the lead of its
            logit (margin), or 1 minus the probability of likelier classes (aps).

    **Guarantee:** for exchangeable calibration and test images, P[y in C] >= 1 - alpha for every
    perturbation of l2 norm at most r that does not depend on the test copy's noise. The
    probability is over images and noise, of calibration and test together.

    **Source:** S. H. Zargarbashi, M. S. Akhondzadeh, A. Bojchevski, "One Sample is Enough to Make
    Conformal Prediction Robust" (NeurIPS 2025); derived in docs/conformal.md.
    """

    name: ClassVar[str] = "one-draw"

    @property
    def copies(self) -> int:
        """One."""
        return 1

    def evidence(
        self, source: Copies, inputs: Sequence[Input], *, stage: int, radius: float
    ) -> list[Evidence]:
        """Return the scores of the copies; one that was not solved speaks for every class."""
        found = source.answers(inputs, stage, 1)
        scores = scores_of(self.score, np.where(found.solved[:, :, None], found.logits, 0.0))[:, 0]
        solved = found.solved[:, :1]
        low, high = np.where(solved, scores, -np.inf), np.where(solved, scores, np.inf)
        return [
            Evidence(low[i], high[i], float(found.nfe[i]), int(~solved[i, 0]))
            for i in range(len(inputs))
        ]

    def level(self, alpha: float, radius: float, sigma: float) -> float:
        """Return alpha'."""
        return clean_level(alpha, radius, sigma)

    def bar(
        self, values: ArrayLike, *, alpha: float, radius: float, sigma: float, charge: float = 0.0
    ) -> float:
        """Return the k-th smallest calibration score; see :meth:`SetMethod.bar`."""
        n = len(np.asarray(values))
        paid = alpha if radius == 0.0 else alpha - charge  # without a shift no law is needed
        if paid <= 0.0:
            raise ConfigError(
                f"exact noise takes {charge:.1e} of alpha, which is only {alpha:g}; raise --alpha"
            )
        self.enough(n, paid, radius, sigma)
        return smallest(values, covering_rank(self.level(paid, radius, sigma), n))
