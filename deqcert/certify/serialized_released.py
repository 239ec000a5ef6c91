"""The count of the released serialized smoothing code: NOT SOUND, for reproducing tables only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from scipy import stats

from deqcert.certify.base import Stage
from deqcert.certify.bounds import lower_confidence_bound
from deqcert.certify.certificate import Certificate
from deqcert.certify.serialized import Audited

if TYPE_CHECKING:
    from deqcert.smoothing import SmoothingEngine


class SerializedReleased(Audited):
    """Count as the released code does: wrong votes as if they had never been drawn.

    Both N_A and n are multiplied by 1 - p_m, the audit takes the first samples of the chain, and
    its rate is that of the audit's own favourite class.

    **Guarantee:** none. With 2% of all votes wrong it reports a radius of about 1.58 where 1.03 is
    true (sigma 0.5), every time. It exists to reproduce published tables and is never a default.

    **Source:** the code released with Gao, Hou, Xu, Liu (NeurIPS 2024).
    """

    name: ClassVar[str] = "serialized-released"
    sound: ClassVar[bool] = False

    def best_p_lower(self) -> float:
        """Return the count's value for a unanimous vote without disagreements."""
        return self.bound(self.n, self.audit, self.audit)

    def bound(self, votes: int, voting: int, agreeing: int) -> float:
        """Return the count's p_lower, which bounds nothing.

        Args:
            votes: Samples among n that voted for the class.
            voting: Audited samples that voted for the audit's favourite class.
            agreeing: Those of them to which the reference gives it too.
        """
        if voting == 0 or votes == 0:
            return 0.0
        kept = lower_confidence_bound(agreeing, voting, self.alpha / 2)
        if kept == 0:
            return 0.0
        counted, drawn = kept * votes, kept * self.n
        return float(stats.beta.ppf(self.alpha / 2, counted, drawn - counted + 1))

    def certify(self, engine: SmoothingEngine, x: Any, image: int) -> Certificate:
        """Certify one input; see :meth:`Certifier.certify`."""
        guess, selection = self.select(engine, x, image)
        if guess is None:
            return self.certificate(engine, None, 0.0, (selection,))
        estimate = engine.votes(self.predictor, x, image, Stage.ESTIMATE, self.n)
        first = np.arange(self.audit)
        audit = engine.classify(self.reference, x, image, Stage.ESTIMATE, first)
        cast = estimate.predictions[first]
        favourite = int(np.bincount(cast[cast >= 0], minlength=1).argmax())
        voting = cast == favourite
        agreeing = int(np.sum(voting & (audit.predictions == favourite)))
        votes = int(estimate.counts[guess])
        return self.certificate(
            engine,
            guess,
            self.bound(votes, int(voting.sum()), agreeing),
            (selection, estimate, audit),
            votes=votes,
            audited=len(first),
            disagreements=int(voting.sum()) - agreeing,
        )

    def assumptions(self) -> str:
        """Warn."""
        return "UNSOUND: the released count, kept to reproduce published tables; " + (
            super().assumptions()
        )
