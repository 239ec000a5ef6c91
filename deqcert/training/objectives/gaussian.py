"""Gaussian noise augmentation."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from deqcert.training.objectives.base import Forward, Objective


class Gaussian(Objective):
    """The cross-entropy of one noisy copy of each image.

    ``E[-log p(y | x + e)]`` with ``e ~ N(0, sigma^2 I)``.

    Source: Cohen, Rosenfeld, Kolter 2019, "Certified Adversarial Robustness via Randomized
    Smoothing", section 3.3.
    """

    name: ClassVar[str] = "gaussian"

    def loss(self, forward: Forward, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        """Return the loss of a batch, a scalar."""
        return F.cross_entropy(forward(self.noise(x, generator)), y)
