"""Prediction sets from proven Lipschitz constants: no noise at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from deqcert.conformal.base import Evidence, SetMethod
from deqcert.conformal.scores import SCORES
from deqcert.conformal.split import covering_rank, smallest
from deqcert.options import choice, number
from deqcert.proofs.lipschitz import RULES
from deqcert.smoothing.input import Input

if TYPE_CHECKING:
    from deqcert.models import ImplicitModel
    from deqcert.proofs.margins import Margins

WIDER = 1e-9
"""How much wider bounds of scores are made than float64 computes them, far more than it errs."""


@dataclass(frozen=True)
class Proven(SetMethod):
    """Keep every class that a clean input within the radius could have had in its set.

    A gap of two logits moves by at most L_yj r, and scores only rise with gaps: evidence for a
    class is the score of the gaps D_yj + L_yj r. The bar is the k-th smallest score of the
    calibration images, k = floor(alpha (n + 1)).

    Args:
        score: How well an image conforms to a class; see method one-draw.
        bound: How the constants are proven; see certifier lipschitz.
        tol: Relative residual that ends a solve, in float64. What is left of the error is bounded
            and charged to the gaps.
        max_nfe: Most cell evaluations of a solve.

    **Guarantee:** for exchangeable calibration and test images, P[y in C] >= 1 - alpha over the
    images alone, for every perturbation of l2 norm at most r, whatever its author knows; about the
    exact equilibrium of the stored weights.

    **Source:** docs/conformal.md; the idea of widening by a Lipschitz constant is that of
    T. Massena et al., "Efficient Robust Conformal Prediction via Lipschitz-Bounded Networks"
    (2025).
    """

    name: ClassVar[str] = "proven"
    noise: ClassVar[bool] = False

    bound: str = choice("multiplier", RULES)
    tol: float = number(1e-10, above=0, high=1, whole=False)
    max_nfe: int = number(1000, low=1)

    def check(self, source: ImplicitModel) -> None:
        """Refuse a model without proven constants; they are computed once.

        Raises:
            ConfigError: If it offers none, or they do not hold for its weights.
        """
        self._margins(source)

    def evidence(
        self, source: ImplicitModel, inputs: Sequence[Input], *, stage: int, radius: float
    ) -> list[Evidence]:
        """Return bounds of the scores that a clean input within the radius can have."""
        margins, score = self._margins(source), SCORES.get(self.score)
        reach = margins.constants.numpy() * radius * (1.0 + WIDER)
        found = []
        for input in inputs:
            gaps, error, nfe = margins.differences(input.x, tol=self.tol, depth=self.max_nfe)
            open_ends = ~np.isfinite(gaps) | ~np.isfinite(error)  # nothing is known there
            low = np.where(open_ends, -np.inf, gaps - error)
            high = np.where(open_ends, np.inf, gaps + error + reach)
            np.fill_diagonal(low, 0.0)
            np.fill_diagonal(high, 0.0)
            least, most = score(low), score(high)
            found.append(
                Evidence(
                    least - WIDER * (1.0 + np.abs(least)),
                    most + WIDER * (1.0 + np.abs(most)),
                    nfe,
                )
            )
        return found

    def level(self, alpha: float, radius: float, sigma: float) -> float:
        """Return alpha: the evidence pays for the radius."""
        return alpha

    def bar(
        self, values: ArrayLike, *, alpha: float, radius: float, sigma: float, charge: float = 0.0
    ) -> float:
        """Return the k-th smallest calibration score; see :meth:`SetMethod.bar`."""
        n = len(np.asarray(values))
        self.enough(n, alpha, radius, sigma)
        return smallest(values, covering_rank(alpha, n))

    def _margins(self, model: ImplicitModel) -> Margins:
        from deqcert.proofs.margins import margins_of

        return margins_of(model, self.bound)
