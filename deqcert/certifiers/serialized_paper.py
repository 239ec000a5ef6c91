"""The estimate of the serialized smoothing paper, kept for comparison with the literature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from deqcert.certifiers.audited import Audited, audit_subset
from deqcert.certifiers.bounds import beta_quantiles, lower_confidence_bound
from deqcert.certifiers.certificate import Certificate
from deqcert.smoothing.stage import Stage

if TYPE_CHECKING:
    from deqcert.smoothing import Input, SmoothingEngine


@dataclass(frozen=True, kw_only=True)
class SerializedPaper(Audited):
    """Certify as the paper states it: shrink the votes by the audited rate of wrong ones.

    With N2 audited samples that the predictor gives the class A and N1 of those that the reference
    gives A too, p_m = 1 - LCB(N1, N2, alpha/2), and p_lower is the alpha/2-quantile of the Beta
    distribution of (1 - p_m) N_A successes, not rounded, among n.

    **Guarantee:** the paper's, in the paper's words an estimate: the bound on the rate of wrong
    votes is applied to the realised votes as if it were exact. Prefer ``serialized``, which is
    proven for counts.

    **Source:** Gao, Hou, Xu, Liu (NeurIPS 2024), equations 9 to 14 as restated in their public
    review.
    """

    name: ClassVar[str] = "serialized-paper"

    def best_p_lower(self) -> float:
        """Return the bound of a unanimous vote without disagreements."""
        return self.bound(self.n, self.audit, self.audit)

    def bound(self, votes: int, voting: int, agreeing: int) -> float:
        """Return p_lower from the counts.

        Args:
            votes: Samples among n that voted for the class, N_A.
            voting: Audited samples that voted for it, N2.
            agreeing: Those of them that the reference gives it too, N1.
        """
        if voting == 0:
            return 0.0
        kept = lower_confidence_bound(agreeing, voting, self.alpha / 2) * votes
        if kept <= 0:
            return 0.0
        return float(beta_quantiles(self.alpha / 2, kept, self.n - kept + 1))

    def certify(self, engine: SmoothingEngine, input: Input) -> Certificate:
        """Certify one input; see :meth:`Certifier.certify`."""
        guess, selection = self.select(engine, input)
        if guess is None:
            return self.certificate(engine, None, 0.0, (selection,))
        estimate = engine.votes(self.predictor, input, Stage.ESTIMATE, self.n)
        chosen = self.audited_samples(engine, input)
        audit = engine.classify(self.reference, input, Stage.ESTIMATE, chosen)
        cast = estimate.predictions[chosen]
        rated = self.rated_class(guess, cast)
        voting = cast == rated
        agreeing = int(np.sum(voting & (audit.predictions == rated)))
        votes = int(estimate.counts[guess])
        return self.certificate(
            engine,
            guess,
            self.bound(votes, int(voting.sum()), agreeing),
            (selection, estimate, audit),
            votes=votes,
            audited=len(chosen),
            disagreements=int(voting.sum()) - agreeing,
        )

    def audited_samples(self, engine: SmoothingEngine, input: Input) -> NDArray[np.int64]:
        """Return which samples are audited, shape (audit,): a random part of all of them."""
        return audit_subset(np.arange(self.n), self.audit, engine, input.index)

    def rated_class(self, guess: int, cast: NDArray[np.int16]) -> int:
        """Return the class whose rate of wrong votes is taken: the one that is certified."""
        return guess
