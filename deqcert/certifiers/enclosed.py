"""Votes of any predictor, counted where the exact equilibrium is proven to give them."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from deqcert.certifiers.bounds import lower_confidence_bound
from deqcert.certifiers.certificate import Certificate
from deqcert.certifiers.smoothed import INDEPENDENCE, SmoothingCertifier
from deqcert.options import number
from deqcert.smoothing.naming import EXACT
from deqcert.smoothing.stage import Stage

if TYPE_CHECKING:
    from deqcert.smoothing import Input, SmoothingEngine


@dataclass(frozen=True)
class Enclosed(SmoothingCertifier):
    """Certify the model with infinitely many iterations, from states of any predictor whatever.

    For every noisy copy the residual of the predictor's state bounds its distance to the exact
    equilibrium. A copy counts for A only if no state within that distance has another class; one
    that is not proven is solved on, and if it never is, it counts as not A. There is no audit.

    Args:
        predictor: Where proofs begin; any start, chained ones too.
        depth: Most cell evaluations for the proof of one sample, in float64 and with the
            predictor's solver. More prove samples nearer to a decision boundary.

    Raises:
        ConfigError: If a number is out of range or n is too small for alpha.

    **Guarantee:** let f(v) be the class of the exact equilibrium for the noisy input v: of the
    limit of infinitely many iterations in exact arithmetic on the stored weights, from the
    injection that the model computes from v in its own precision. With probability at least
    1 - alpha over the noise, the certificate abstains or the classifier smoothed from f answers
    ``prediction`` at every point within ``radius`` of the input. Nothing is assumed of
    ``predictor``. Assumed of the model: that its bounds
    (:class:`deqcert.models.EnclosedModel`) hold.

    **Source:** docs/bounds.md.
    """

    name: ClassVar[str] = "enclosed"

    depth: int = number(30, low=1)

    @property
    def classifier(self) -> None:
        """No solve: votes are proven to be the exact equilibrium's."""
        return

    def about(self) -> str:
        """Name the classifier that the certificates are about; see :meth:`Certifier.about`."""
        return EXACT

    def best_p_lower(self) -> float:
        """Return the bound of a unanimous vote that is proven to the last sample."""
        return lower_confidence_bound(self.n, self.n, self.alpha)

    def check(self, engine: SmoothingEngine) -> None:
        """Refuse a model that offers no bounds, or whose bounds do not hold for its weights.

        Raises:
            ConfigError: If it is such a model.
        """
        from deqcert.proofs.enclosure import Enclosure

        Enclosure(engine.raw)

    def certify(self, engine: SmoothingEngine, input: Input) -> Certificate:
        """Certify one input; see :meth:`Certifier.certify`.

        Raises:
            ConfigError: If the model offers no bounds, or is not proven to have an equilibrium.
            DataError: If the input does not fit the model.
        """
        from deqcert.proofs.enclosure import Enclosure
        from deqcert.smoothing.proven import proven_votes

        vote = functools.partial(
            proven_votes, engine, Enclosure(engine.raw), self.predictor, input, depth=self.depth
        )
        selection = vote(Stage.SELECT, self.n0)
        if not selection.counts.sum():
            return self.certificate(engine, None, 0.0, (selection,))
        guess = int(selection.counts.argmax())
        estimate = vote(Stage.ESTIMATE, self.n)
        votes = int(estimate.counts[guess])
        p_lower = lower_confidence_bound(votes, self.n, self.alpha)
        return self.certificate(engine, guess, p_lower, (selection, estimate), votes=votes)

    def assumptions(self) -> str:
        """Say what the certificate is about."""
        return (
            f"holds for {self.about()} (infinitely many iterations in exact arithmetic on the "
            "stored weights), smoothed; proofs begin at: "
            f"{self.predictor.describe()}, and take at most {self.depth} evaluations{INDEPENDENCE}"
        )
