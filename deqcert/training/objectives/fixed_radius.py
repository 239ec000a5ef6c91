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

    For interval models it is fast IBP: interval bound propagation with a schedule, and with what
    keeps the bounds trainable meanwhile.

    **Source:** S. Gowal et al., "On the Effectiveness of Interval Bound Propagation for Training
    Verifiably Robust Models" (2018); Z. Shi, Y. Wang, H. Zhang, J. Yi, C.-J. Hsieh, "Fast certified
    robust training with short warmup" (2021).
    """

    def worst_case(
        self, batch: TrainingBatch, prove: Prove, x: Tensor, cap: float
    ) -> tuple[Tensor, WorstCase]:
        """Return logits and worst case; see :class:`Certified`."""
        proof = prove(x, batch.y)
        return proof.logits, proof.worst_case(x.new_full((len(x),), cap))
