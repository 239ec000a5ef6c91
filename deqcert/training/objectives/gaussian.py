"""Gaussian noise augmentation."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from deqcert.training.objectives.base import Objective, TrainingBatch


@dataclass(frozen=True)
class Gaussian(Objective):
    """The cross-entropy of one noisy copy of each image.

    ``E[-log p(y | x + e)]`` with ``e ~ N(0, sigma^2 I)``.

    **Source:** Cohen, Rosenfeld, Kolter 2019, "Certified Adversarial Robustness via Randomized
    Smoothing", section 3.3.
    """

    def loss(self, batch: TrainingBatch) -> Tensor:
        """Return the loss of a batch, a scalar."""
        return F.cross_entropy(batch.forward(batch.x + self.noise(batch, 1)[0]), batch.y)
