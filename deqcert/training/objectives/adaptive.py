"""Each image at its own proven boundary."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from deqcert.options import number
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
        search: Most evaluations per image of the search for its radius, where that has no closed
            form; the paper takes 10, in 6 the radius is known to 1% on average.

    **Source:** Z. Nurlanov, F. R. Schmidt, F. Bernard, "Adaptive Certified Training: Towards Better
    Accuracy-Robustness Tradeoffs" (2024), for interval bounds. With Lipschitz constants, where the
    radius has a closed form, it is ours.
    """

    search: int = number(6, low=1, high=100)

    def worst_case(
        self, batch: TrainingBatch, prove: Prove, x: Tensor, cap: float
    ) -> tuple[Tensor, WorstCase]:
        """Return logits and worst case; see :class:`Certified`."""
        proof = prove(x, batch.y)
        return proof.logits, proof.worst_case(proof.radii(cap, self.search).clamp_min(LEAST))
