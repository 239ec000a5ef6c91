"""What an objective is: a loss on a batch, given the model as a plain function."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

Forward = Callable[[Tensor], Tensor]
"""Images, shape (B, C, H, W) in [0, 1] plus noise, to logits, shape (B, K), differentiable."""


class Objective(ABC):
    """One published way to train for certified robustness.

    Args:
        sigma: Standard deviation of the noise, in [0, 1] pixel units.
    """

    name: ClassVar[str]

    def __init__(self, sigma: float) -> None:
        self.sigma = sigma

    @abstractmethod
    def loss(self, forward: Forward, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        """Return the loss of a batch, a scalar.

        Args:
            forward: The model; how its equilibrium is found and differentiated is not seen here.
            x: Clean images, shape (B, C, H, W), in [0, 1].
            y: Labels, shape (B,).
            generator: Source of all noise.
        """

    def noise(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Add noise to images; it comes last, after every augmentation."""
        draw = torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)
        return x + self.sigma * draw
