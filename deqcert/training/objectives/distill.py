"""A student learns what a teacher says of noisy images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from deqcert.options import number
from deqcert.training.objectives.base import Objective, TrainingBatch


@dataclass(frozen=True)
class Distill(Objective):
    """The divergence from a teacher's noisy predictions, and the cross-entropy.

    With q_T and p_T the softmax of the teacher's and the model's logits over T, both for the same
    noisy copy x + e: ``weight * T^2 * KL(q_T || p_T) - (1 - weight) * log p_1(y)``. The teacher is
    solved at its equilibrium, in evaluation mode; no gradient goes through it.

    Args:
        sigma: Standard deviation of the noise.
        weight: Of the divergence; 1 uses no labels.
        temperature: T. Larger lets classes that the teacher hardly believes in count more.

    **Source:** G. Hinton, O. Vinyals, J. Dean 2015, "Distilling the Knowledge in a Neural Network",
    section 2, on noisy copies as randomized smoothing sees them.
    """

    needs_teacher: ClassVar[bool] = True

    weight: float = number(0.9, low=0.0, high=1.0)
    temperature: float = number(2.0, above=0.0, high=1000.0)

    def loss(self, batch: TrainingBatch) -> Tensor:
        """Return the loss of a batch, a scalar."""
        assert batch.teacher is not None  # the training has loaded it
        noisy = batch.x + self.noise(batch, 1)[0]
        logits = batch.forward(noisy)
        told = (batch.teacher(noisy) / self.temperature).log_softmax(dim=1)
        own = (logits / self.temperature).log_softmax(dim=1)
        divergence = F.kl_div(own, told, reduction="batchmean", log_target=True)
        known = F.cross_entropy(logits, batch.y)
        return self.weight * self.temperature**2 * divergence + (1.0 - self.weight) * known
