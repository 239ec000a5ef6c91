"""What an objective is: a loss on a batch, given the model as a plain function."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from deqcert.options import check_options
from deqcert.training.proof import Proof

Quick = Callable[[Tensor, int], Tensor]
"""Images, shape (B, C, H, W), and a number of cell evaluations, to the logits after each of them,
shape (evaluations, B, K), differentiable."""

Forward = Callable[[Tensor], Tensor]
"""Images, shape (B, C, H, W) in [0, 1] plus noise, to logits, shape (B, K), differentiable."""

Prove = Callable[[Tensor, Tensor], Proof]
"""Images, shape (B, C, H, W), and labels, shape (B,), to what the model proves of them."""


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
        quick: The model after a few plain evaluations from where its solves start. On the images
            of the latest pass of ``forward`` it sees the same injection and the same masks.
        latents: Images to what the model's last, linear layer takes, shape (B, m), differentiable;
            on the images of the latest pass of ``forward``, of that very pass.
        prove: What the model proves of images while it is trained, differentiable; None where it
            proves nothing.
        teacher: Another model's logits, without a gradient; None where there is none.
    """

    x: Tensor
    y: Tensor
    forward: Forward
    attacked: Forward
    generator: torch.Generator
    share: float
    quick: Quick
    latents: Forward
    prove: Prove | None = None
    teacher: Forward | None = None


@dataclass(frozen=True)
class Objective(ABC):
    """One published way to train for certified robustness.

    The fields of a subclass are its options, declared with :mod:`deqcert.options`; its docstring
    says what they mean.

    Args:
        sigma: Standard deviation of the noise, in [0, 1] pixel units.

    Attributes:
        needs_teacher: Whether it learns from another model: from ``TrainingBatch.teacher``.
    """

    needs_teacher: ClassVar[bool] = False

    sigma: float

    def __post_init__(self) -> None:
        check_options(self, f"{type(self).__name__} option ")

    @abstractmethod
    def loss(self, batch: TrainingBatch) -> Tensor:
        """Return the loss of a batch, a scalar."""

    def check(self, norm: str | None) -> None:
        """Refuse a model that the objective cannot train; called before a training begins.

        Args:
            norm: In which the model proves something while it is trained ("l2" or "linf"); None
                where it proves nothing.

        Raises:
            ConfigError: If it is one.
        """
        del norm

    def start_file(self) -> str | None:
        """Return the start network that ``TrainingBatch.quick`` begins at; None begins cold.

        It must belong to the checkpoint that the training begins with. It is not changed, and saved
        once more for the model that the training leaves.
        """
        return None

    def noise(self, batch: TrainingBatch, draws: int) -> Tensor:
        """Draw noise for each image; it comes last, after every augmentation.

        Returns:
            Shape (draws, B, C, H, W).
        """
        x = batch.x
        draw = torch.randn((draws, *x.shape), generator=batch.generator, dtype=x.dtype)
        return self.sigma * draw.to(x.device)


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
