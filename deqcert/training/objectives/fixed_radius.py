"""One radius for all images."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from deqcert.training.objectives.base import Prove, TrainingBatch
from deqcert.training.objectives.certified import Certified
from deqcert.training.proof import WorstCase


@dataclass(frozen=True)
class FixedRadius(Certified):
    """The certified cross-entropy, every image at the largest radius of the moment.

    Args:
        sigma: Standard deviation of the noise; 0 for none.
        kappa: Weight of the cross-entropy of the image itself, which trades proven radii (0) for
            accuracy (1).
        radius: Largest radius that is trained for, in pixel units and in the norm of the model's
            proof; at most 1 for l-infinity.
        warmup: Share of the training in which it grows from 0.
        regulariser: Weight of what keeps intervals trainable in that time; nothing where the model
            proves by other means.

    **Source:** with interval bounds, S. Gowal et al., "On the Effectiveness of Interval Bound
    Propagation for Training Verifiably Robust Models" (2018).
    """

    def worst_case(
        self, batch: TrainingBatch, prove: Prove, x: Tensor, cap: float
    ) -> tuple[Tensor, WorstCase]:
        """Return logits and worst case; see :class:`Certified`."""
        proof = prove(x, batch.y)
        return proof.logits, proof.worst_case(batch.x.new_full((len(x),), cap))
