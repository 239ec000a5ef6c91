"""Normalisation of pixels, as a layer inside the model: noise is added before it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from deqcert.errors import ConfigError
from deqcert.models.spectral import rounding_constant

CIFAR10_STATISTICS = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
"""Mean and deviation of each channel of CIFAR-10, in [0, 1] pixel units."""

MNIST_STATISTICS = ((0.1307,), (0.3081,))
"""The same of MNIST."""

IMAGENET_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""The same of ImageNet."""


class Normalize(nn.Module):
    """Subtract the mean of each channel and divide by its deviation.

    The statistics are not part of the state_dict: public checkpoints do not hold them.

    Args:
        mean: Mean of each channel, in [0, 1] pixel units.
        std: Standard deviation of each channel, in the same units, above 0.

    Raises:
        ConfigError: If the lengths differ or a deviation is not above 0.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std) or not mean:
            raise ConfigError(
                f"normalisation has {len(mean)} means and {len(std)} deviations, "
                "but it needs one of each for every channel."
            )
        if not all(0.0 < value < float("inf") for value in std):
            raise ConfigError(
                f"normalisation deviations are {tuple(std)}, but each must be above 0."
            )
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise images, shape (B, C, H, W)."""
        return (x - self.mean) / self.std

    def pixel_weight(self, weight: Tensor, shape: tuple[int, int, int]) -> Tensor:
        """Return the matrix that takes pixels where ``weight`` takes normalised ones.

        Args:
            weight: Shape (D, C*H*W).
            shape: (C, H, W) of an image.

        Returns:
            weight / std, shape (D, C*H*W), float64, on the CPU; each element rounded once.
        """
        std = self.std.detach().double().cpu().expand(*shape).reshape(-1)
        return weight.detach().double().cpu() / std

    def pixel_bias(
        self, weight: Tensor, bias: Tensor, shape: tuple[int, int, int]
    ) -> tuple[Tensor, float]:
        """Return the bias that belongs to :meth:`pixel_weight`, and how far rounding has moved it.

        Args:
            weight: Of normalised pixels, shape (D, C*H*W).
            bias: The bias there, shape (D,).
            shape: (C, H, W) of an image.

        Returns:
            bias - weight @ (mean / std), shape (D,), float64, on the CPU; and a bound of its l2
            distance to the exact one.
        """
        weight, bias = weight.detach().double().cpu(), bias.detach().double().cpu()
        shift = self.mean.double().cpu() / self.std.double().cpu()
        shift = shift.expand(*shape).reshape(-1)
        size = torch.linalg.matrix_norm(weight).item() * torch.linalg.vector_norm(shift).item()
        size += torch.linalg.vector_norm(bias).item()
        # The quotient, the products and their sum, the difference, and the norms themselves.
        gamma = rounding_constant(weight.shape[1] + 8) * (1.0 + 1e-9)
        return bias - weight @ shift, gamma * size
