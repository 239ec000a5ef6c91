"""Each image at its own proven boundary."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from deqcert.training.objectives.base import Prove, TrainingBatch
from deqcert.training.objectives.certified import LEAST, Certified
from deqcert.training.proof import WorstCase


@dataclass(frozen=True)
class Adaptive(Certified):
    """The certified cross-entropy, each image at its own proven radius.

    The radius of an image is the largest that the model proves now, where its worst margin is 0,
    from 1e-6 (images that are wrong) to the largest radius; no gradient goes through it. So no
    accuracy is paid for radii that are out of reach, and no image that is easy counts as done.

    Args:
        sigma: Standard deviation of the noise; 0 for none.
        kappa: Weight of the cross-entropy of the image itself, which trades proven radii (0) for
            accuracy (1).
        radius: Largest radius that is trained for, in pixel units and in the norm of the model's
            proof; at most 1 for l-infinity.
        warmup: Share of the training in which it grows from 0.
        regulariser: Weight of what keeps intervals trainable in that time; nothing where the model
            proves by other means.

    **Source:** Z. Nurlanov, F. R. Schmidt, F. Bernard, "Adaptive Certified Training" (2024), for
    interval bounds. With Lipschitz constants, where the radius is in closed form, it is ours.
    """

    def worst_case(
        self, batch: TrainingBatch, prove: Prove, x: Tensor, cap: float
    ) -> tuple[Tensor, WorstCase]:
        """Return logits and worst case; see :class:`Certified`."""
        proof = prove(x, batch.y)
        return proof.logits, proof.worst_case(proof.radii(cap).clamp_min(LEAST))
