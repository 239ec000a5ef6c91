"""What an objective is: a loss on a batch, given the model as a plain function."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from deqcert.errors import ConfigError

Forward = Callable[[Tensor], Tensor]
"""Images, shape (B, C, H, W) in [0, 1] plus noise, to logits, shape (B, K), differentiable."""


@dataclass(frozen=True)
class TrainingBatch:
    """What an objective sees of a training step.

    Attributes:
        x: Clean images, shape (B, C, H, W), in [0, 1].
        y: Labels, shape (B,).
        forward: The model in training; how its equilibrium is found and differentiated is not seen
            here.
        attacked: The model as it stands, as it will be certified: in evaluation mode, so rows are
            independent, nothing is dropped and no statistic moves; differentiable in the images
            only. Made for attacks.
        generator: Source of all noise.
        share: How much of the training is done, 0 to 1.
    """

    x: Tensor
    y: Tensor
    forward: Forward
    attacked: Forward
    generator: torch.Generator
    share: float


@dataclass(frozen=True)
class Objective(ABC):
    """One published way to train for certified robustness.

    The fields of a subclass are its options: each is declared with :func:`number` or
    :func:`choice`, which hold its default and its range.

    Args:
        sigma: Standard deviation of the noise, in [0, 1] pixel units.
    """

    name: ClassVar[str]
    sigma: float

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if field.metadata:
                field.metadata["check"](f"{self.name}: {field.name}", getattr(self, field.name))

    @abstractmethod
    def loss(self, batch: TrainingBatch) -> Tensor:
        """Return the loss of a batch, a scalar."""

    def noise(self, batch: TrainingBatch, draws: int) -> Tensor:
        """Draw noise for each image; it comes last, after every augmentation.

        Returns:
            Shape (draws, B, C, H, W).
        """
        x = batch.x
        draw = torch.randn((draws, *x.shape), generator=batch.generator, dtype=x.dtype)
        return self.sigma * draw.to(x.device)


def number(default: float, low: float, high: float) -> Any:
    """Declare an option that is a number of the default's type, from low to high."""

    def check(name: str, value: Any) -> None:
        kinds = int if isinstance(default, int) else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
            what = "a whole number" if isinstance(default, int) else "a number"
            raise ConfigError(f"{name} is {value}, but it must be {what} from {low:g} to {high:g}.")

    return dataclasses.field(default=default, metadata={"check": check})


def choice(default: str, *others: str) -> Any:
    """Declare an option that is one of a few words."""

    def check(name: str, value: Any) -> None:
        if value not in (default, *others):
            words = ", ".join((default, *others))
            raise ConfigError(f"{name} is {value}, but it must be one of {words}.")

    return dataclasses.field(default=default, metadata={"check": check})


def each(forward: Forward, x: Tensor, noise: Tensor) -> Tensor:
    """Return the logits of every noisy copy: of x, (B, C, H, W), with m noises, shape (m, B, K)."""
    logits = forward((x + noise).flatten(0, 1))
    return logits.view(len(noise), len(x), -1)


def log_average(logits: Tensor) -> Tensor:
    """Return the logarithm of the mean over m of the softmax: (m, B, K) to (B, K).

    In logarithms throughout: a class that no draw believes in still has a gradient.
    """
    return logits.log_softmax(dim=2).logsumexp(dim=0) - torch.log(
        torch.tensor(float(len(logits)), dtype=logits.dtype, device=logits.device)
    )
