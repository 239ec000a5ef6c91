"""A small ball around the worst point of a larger one."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from deqcert.attacks.pgd import pgd
from deqcert.options import number
from deqcert.training.objectives.base import Prove, TrainingBatch
from deqcert.training.objectives.certified import Certified
from deqcert.training.proof import WorstCase


@dataclass(frozen=True)
class SmallBox(Certified):
    """The certified cross-entropy over a small ball whose centre an attack has found.

    With R the largest radius of the moment, the attack looks within (1 - part) R of the image, and
    the worst case is that within part * R of what it finds: inside the ball of radius R, and bounds
    of small balls are tight, but what is trained is no bound for the whole ball.

    Args:
        part: Share of the radius that the small ball has, lambda in the paper.
        steps: Steps of the attack, each a pass.

    **Source:** M. Müller, F. Eckert, M. Fischer, M. Vechev, "Certified training: small boxes are
    all you need" (2023).
    """

    part: float = number(0.4, above=0.0, high=1.0)
    steps: int = number(8, low=1, high=1000)

    def worst_case(
        self, batch: TrainingBatch, prove: Prove, x: Tensor, cap: float
    ) -> tuple[Tensor, WorstCase]:
        """Return logits and worst case; see :class:`Certified`."""
        proof = prove(x, batch.y)

        def loss(images: Tensor) -> Tensor:
            return F.cross_entropy(batch.attacked(images), batch.y, reduction="none")

        reach = (1.0 - self.part) * cap
        centre = pgd(loss, batch.x, radius=reach, steps=self.steps, norm=proof.norm)
        small = x.new_full((len(x),), self.part * cap)
        return proof.logits, prove(centre + (x - batch.x), batch.y).worst_case(small)
