"""Lines first and boxes later."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from torch import Tensor

from deqcert.errors import ConfigError
from deqcert.training.objectives.base import Prove, TrainingBatch
from deqcert.training.objectives.certified import Certified
from deqcert.training.proof import IntervalProof, WorstCase


@dataclass(frozen=True)
class CrownIbp(Certified):
    """The certified cross-entropy, every image at the largest radius of the moment, by two bounds.

    A margin is beta times its bound by lines and 1 - beta times that by intervals, both of which
    hold. Beta falls from 1 to 0 while the radius grows: lines are the better bound of a network
    that was not trained for boxes yet, and a network that was is certified by boxes. After the
    warm-up it is :class:`~deqcert.training.objectives.FixedRadius`.

    **Source:** H. Zhang et al., "Towards stable and efficient training of verifiably robust neural
    networks" (2020). How lines go through an equilibrium is ours; see
    :func:`deqcert.models.interval_relaxation.relaxed_margins`.
    """

    def check(self, norm: str | None) -> None:
        """Refuse a model that proves nothing by intervals; see :class:`Certified`.

        Raises:
            ConfigError: If it is one.
        """
        super().check(norm)
        if norm != IntervalProof.norm:
            raise ConfigError(
                "objective 'crown-ibp' trains models that prove by intervals, and this one proves "
                "by Lipschitz constants; use --architecture interval, or objective 'fixed-radius'."
            )

    def worst_case(
        self, batch: TrainingBatch, prove: Prove, x: Tensor, cap: float
    ) -> tuple[Tensor, WorstCase]:
        """Return logits and worst case; see :class:`Certified`."""
        proof = prove(x, batch.y)
        worst, missing = proof.worst_case(x.new_full((len(x),), cap)), 1.0 - cap / self.radius
        if missing > 0.0:
            margins = missing * proof.relaxed(worst) + (1.0 - missing) * worst.margins
            worst = dataclasses.replace(worst, margins=margins)
        return proof.logits, worst
