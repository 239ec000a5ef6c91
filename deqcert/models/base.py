"""What every implicit classifier offers: four methods, and no solver among them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from deqcert.errors import ConfigError

CIFAR10_STATISTICS = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
IMAGENET_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@runtime_checkable
class ImplicitModel(Protocol):
    """A classifier whose features are a fixed point of its cell.

    Each method treats the rows of a batch independently, so that a certificate does not depend on
    batch-mates. A model may also carry ``input_shape`` (channels, height, width) and
    ``num_classes``; whoever finds them checks inputs and labels against them.
    """

    def inject(self, x: Tensor) -> Tensor:
        """Map images, shape (B, C, H, W) in [0, 1] units, to what enters every cell evaluation.

        Normalisation belongs here, so that noise is always added to pixels.
        """
        ...

    def initial_state(self, injection: Tensor) -> Tensor:
        """Return the cold start for an injection: zeros of shape (B, D)."""
        ...

    def cell(self, z: Tensor, injection: Tensor) -> Tensor:
        """Evaluate the cell once: states of shape (B, D) to states of shape (B, D)."""
        ...

    def readout(self, z: Tensor) -> Tensor:
        """Map states, shape (B, D), to logits, shape (B, K)."""
        ...


@runtime_checkable
class EnclosedModel(ImplicitModel, Protocol):
    """An implicit model whose residual proves how far away its equilibrium is.

    Whoever uses the bounds evaluates the model in float64: a torch module is copied and cast, any
    other model must compute in the type of what it is given. All three methods return upper bounds
    in float64 that hold for exact arithmetic on the stored weights; their own rounding included.
    """

    def rounding(self, z: Tensor, injection: Tensor) -> tuple[Tensor, Tensor]:
        """Bound what rounding changes when the model is evaluated in float64.

        Returns:
            For each row, of the computed ``cell(z, injection)`` the l2 distance to the exact one,
            shape (B,), and of ``readout(z)`` the error of any difference of two logits, shape (B,).
        """
        ...

    def error_bound(self, residual: Tensor) -> Tensor:
        """Bound ||z - z*|| where ||cell(z) - z|| is at most the residual; shapes (B,), float64."""
        ...

    def readout_lipschitz(self) -> Tensor:
        """Bound how fast logit i minus logit j changes with z in l2; shape (K, K), float64."""
        ...


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
