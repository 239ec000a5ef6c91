"""Warm-started smoothing made sound by the exact audit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from deqcert.certifiers.audited import Audited, audit_subset
from deqcert.certifiers.bounds import disagreements_upper_bound, lower_confidence_bound
from deqcert.certifiers.certificate import Certificate
from deqcert.smoothing.stage import Stage

if TYPE_CHECKING:
    from deqcert.smoothing import Input, SmoothingEngine


@dataclass(frozen=True, kw_only=True)
class Serialized(Audited):
    """Certify from votes of any predictor whatever, after auditing a random part of them.

    All votes are cast first. Of the N_A samples voting for the class A, a uniformly random subset
    is solved again by the reference, and d of them do not give A. With D_up the hypergeometric
    upper bound at alpha/2 of all such samples, p_lower is the Clopper-Pearson bound at alpha/2 of
    N_A - D_up successes among n.

    **Guarantee:** with probability at least 1 - alpha over the noise and the draw of the audit, the
    certificate abstains or the classifier smoothed from ``reference`` answers ``prediction`` at
    every point within ``radius`` of the input. Nothing is assumed of ``predictor``: not
    convergence, not precision, not independence. A poor one can only cost radius.

    **Source:** docs/bounds.md; the serialized votes are those of Gao, Hou, Xu, Liu (NeurIPS 2024),
    the audit replaces their estimate.
    """

    name: ClassVar[str] = "serialized"

    def best_p_lower(self) -> float:
        """Return the bound of a unanimous vote without disagreements."""
        return self.bound(self.n, self.audit, 0)

    def bound(self, votes: int, audited: int, disagreements: int) -> float:
        """Return p_lower from the counts alone.

        Args:
            votes: Samples among n that voted for the class, N_A.
            audited: Random ones among them that were audited.
            disagreements: Audited ones to which the reference gave another class, or none.
        """
        wrong = disagreements_upper_bound(disagreements, audited, votes, self.alpha / 2)
        return lower_confidence_bound(votes - wrong, self.n, self.alpha / 2)

    def certify(self, engine: SmoothingEngine, input: Input) -> Certificate:
        """Certify one input; see :meth:`Certifier.certify`."""
        guess, selection = self.select(engine, input)
        if guess is None:
            return self.certificate(engine, None, 0.0, (selection,))
        estimate = engine.votes(self.predictor, input, Stage.ESTIMATE, self.n)
        voters = np.flatnonzero(estimate.predictions == guess)
        votes = len(voters)
        # A class that could not be certified without a single disagreement needs no audit.
        if votes == 0 or not self.bound(votes, min(self.audit, votes), 0) > 0.5:
            p_lower = lower_confidence_bound(0, self.n, self.alpha)
            return self.certificate(engine, guess, p_lower, (selection, estimate), votes=votes)
        chosen = audit_subset(voters, self.audit, engine, input.index)
        audit = engine.classify(self.reference, input, Stage.ESTIMATE, chosen)
        disagreements = int(np.sum(audit.predictions != guess))
        return self.certificate(
            engine,
            guess,
            self.bound(votes, len(chosen), disagreements),
            (selection, estimate, audit),
            votes=votes,
            audited=len(chosen),
            disagreements=disagreements,
        )
