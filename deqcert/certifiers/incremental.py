"""A changed model, certified by the published incremental method."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from deqcert.certifiers.audited import audit_generator
from deqcert.certifiers.bounds import lower_confidence_bound
from deqcert.certifiers.kept_votes import KeptVotes
from deqcert.certifiers.recertified import FromVotes
from deqcert.errors import ConfigError
from deqcert.smoothing.stage import Stage

if TYPE_CHECKING:
    from deqcert.certifiers.certificate import Certificate
    from deqcert.smoothing import Input, SmoothingEngine


@dataclass(frozen=True, kw_only=True)
class Incremental(FromVotes):
    """Certify a changed model by how often its answers differ at all: the published method.

    Of all n samples of the earlier run, ``audit`` random ones are cast again; with d different
    answers, zeta is the Clopper-Pearson upper bound at alpha/2 of the probability that the two
    models differ. p_lower is the earlier model's bound at alpha/2, less zeta. It is here to
    compare with.

    Raises:
        ConfigError: As for ``recertified``; also where the earlier votes are no independent draws
            of a number fixed beforehand.

    **Guarantee:** with probability at least 1 - alpha over the noise and the draw of the audit, the
    certificate abstains or the classifier smoothed from ``predictor`` answers ``prediction`` at
    every point within ``radius`` of the input. Assumed is that the earlier run's votes are those of
    a base classifier, and that the change does not depend on that run's noise.

    **Source:** S. Ugare, T. Suresh, D. Banerjee, G. Singh, S. Misailovic, "Incremental Randomized
    Smoothing Certification" (ICLR 2024), whose alpha and alpha_zeta are alpha/2 each here.
    """

    name: ClassVar[str] = "incremental"

    def best_p_lower(self) -> float:
        """Return the bound of a unanimous vote without differences."""
        return self.bound(self.n, 0)

    def bound(self, votes: int, differing: int) -> float:
        """Return p_lower from the counts alone.

        Args:
            votes: Samples among n that voted for the class.
            differing: Samples among ``audit`` to which the two models give different answers.
        """
        same = lower_confidence_bound(self.audit - differing, self.audit, self.alpha / 2)
        kept = lower_confidence_bound(votes, self.n, self.alpha / 2)
        return max(0.0, math.nextafter(kept - (1.0 - same), -1.0))

    def check(self, engine: SmoothingEngine) -> None:
        """Refuse votes that are no independent draws, and other classes."""
        super().check(engine)
        if self.parent.stopped or not self.parent.independent:
            raise ConfigError(
                "method 'incremental' needs n independent votes of a number fixed beforehand, "
                f"which those of {self.parent.voted_by} are not; give --method recertified"
            )

    def audited(self, engine: SmoothingEngine, input: Input, kept: KeptVotes) -> Certificate:
        """Certify one input whose class was selected; see :meth:`FromVotes.audited`."""
        random = audit_generator(engine, input.index, Stage.RECERTIFY)
        chosen = np.sort(random.choice(self.n, size=self.audit, replace=False))
        again = engine.classify(self.predictor, input, Stage.ESTIMATE, chosen)
        differing = int(np.sum(again.predictions != kept.predictions[chosen]))
        return self.certificate(
            engine,
            kept.selected,
            self.bound(kept.votes, differing),
            (again,),
            votes=kept.votes,
            audited=self.audit,
            disagreements=differing,
        )
