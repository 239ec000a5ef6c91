"""The cross-entropy of the worst case in a ball, as the model proves it."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from deqcert.errors import ConfigError
from deqcert.models import TrainableModel
from deqcert.options import number
from deqcert.training.objectives.balance import imbalance
from deqcert.training.objectives.base import Objective, Prove, TrainingBatch
from deqcert.training.proof import WorstCase, prove

LEAST = 1e-6
"""Smallest radius that is trained for: of images that the model gets wrong, and at the start."""

SEARCH = 6
"""Most evaluations of a bound where the training measures itself."""


@dataclass(frozen=True)
class Certified(Objective):
    """What objectives share whose model proves something while it is trained.

    With m_j(r) what the model proves of how much the label leads over class j anywhere within r:
    ``(1 - kappa) * log(1 + sum over j of exp(-m_j(r))) - kappa * log p(y | x)``. A subclass says
    which r. No noise is needed; where there is some (sigma above 0), x is the noisy image.

    Args:
        sigma: Standard deviation of the noise; 0 for none.
        kappa: Weight of the cross-entropy of the image itself, which trades proven radii (0) for
            accuracy (1).
        radius: Largest radius that is trained for, in pixel units and in the norm of the model's
            proof; at most 1 for l-infinity.
        warmup: Share of the training in which it grows from 0.
        regulariser: Weight of what keeps intervals trainable in that time; nothing where the model
            proves by other means.
    """

    kappa: float = number(0.5, low=0.0, high=1.0)
    radius: float = number(0.4, above=0.0, high=1000.0)
    warmup: float = number(0.3, low=0.0, high=1.0)
    regulariser: float = number(0.5, low=0.0, high=1000.0)

    def check(self, norm: str | None) -> None:
        """Refuse a model that proves nothing, and a radius that its norm does not know.

        Raises:
            ConfigError: If it is one.
        """
        if norm is None:
            raise ConfigError(
                "this objective trains what a model proves while it is trained, and this one "
                "proves nothing; use --architecture lipschitz-bounded, monotone or interval."
            )
        if norm == "linf" and self.radius > 1.0:
            raise ConfigError(
                f"radius is {self.radius:g}, but pixels are in [0, 1]: in l-infinity it must be "
                "above 0 and at most 1."
            )

    def loss(self, batch: TrainingBatch) -> Tensor:
        """Return the loss of a batch, a scalar."""
        assert batch.prove is not None  # the training has checked it
        x, cap = batch.x + self.noise(batch, 1)[0], self.cap(batch.share)
        logits, worst = self.worst_case(batch, batch.prove, x, max(cap, LEAST))
        # The label's own entry is 0, and every other one an upper bound of logit j minus logit y.
        certified = F.cross_entropy(-worst.margins, batch.y)
        loss = (1.0 - self.kappa) * certified + self.kappa * F.cross_entropy(logits, batch.y)
        missing = self.regulariser * (1.0 - cap / self.radius)
        return loss + missing * imbalance(worst.layers) if missing and worst.layers else loss

    def radii(self, model: TrainableModel, x: Tensor, y: Tensor, logits: Tensor) -> Tensor:
        """Return radii up to the largest that is trained for, by the bound that is trained.

        Args:
            model: In evaluation mode.
            x: Images, shape (B, C, H, W).
            y: Labels, shape (B,).
            logits: At their equilibria, shape (B, K).

        Returns:
            Shape (B,). The training measures itself by them; they are no certificates.
        """
        return prove(model, lambda _: logits, x, y).radii(self.radius, SEARCH)

    def cap(self, share: float) -> float:
        """Return the largest radius at a share of the training."""
        return self.radius * min(1.0, share / self.warmup) if self.warmup else self.radius

    @abstractmethod
    def worst_case(
        self, batch: TrainingBatch, prove: Prove, x: Tensor, cap: float
    ) -> tuple[Tensor, WorstCase]:
        """Return the images' own logits, shape (B, K), and the worst case that is trained.

        Args:
            batch: The batch.
            prove: Its ``prove``.
            x: Its images, with their noise.
            cap: The largest radius now.
        """
