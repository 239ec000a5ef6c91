"""Adversarial training of the smoothed classifier."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from deqcert.attacks.ddn import ddn
from deqcert.attacks.pgd import pgd
from deqcert.options import choice, flag, number
from deqcert.training.objectives.base import Objective, TrainingBatch, each, log_average

LEAST = 1e-6
"""Smallest radius of an attack where each image has its own."""


@dataclass(frozen=True)
class SmoothAdv(Objective):
    """The cross-entropy of noisy copies of images that fool the smoothed classifier.

    With m draws e_i ~ N(0, sigma^2 I) an attack looks for the x' in the ball that maximises
    ``-log (1/m) sum_i p(y | x' + e_i)``, the loss of the averaged prediction; then
    ``(1/m) sum_i -log p(y | x' + e_i)`` is minimised, with the same draws. The radius of the ball
    grows linearly over the first ``warmup`` of the training.

    Args:
        sigma: Standard deviation of the noise.
        draws: Noisy copies of each image, m.
        radius: Of the l2 ball that is attacked in, in pixel units. More costs accuracy on clean
            images and gains it at large radii; the paper uses 0.25 to 2.
        steps: Steps of the attack, each a pass over all copies; the paper uses 2 to 10.
        attack: "pgd", or "ddn" for the nearest image that fools, which is often inside the ball.
        warmup: Share of the training in which the radius grows.
        adaptive: Whether each image is attacked within its own certified radius, as far as the
            draws know it: sigma / 2 * (Phi^-1(p_y) - Phi^-1(p_next)) of the averaged prediction p,
            from 1e-6 to the radius. One more pass over all copies.

    **Source:** Salman, Yang, Li, Zhang, Zhang, Razenshteyn, Bubeck 2019, "Provably Robust Deep
    Learning via Adversarially Trained Smoothed Classifiers", section 2.2 and pseudocode 1; that the
    model is attacked in evaluation mode, and the warm-up, as in the code that accompanies it.
    ``adaptive`` is ours, after Nurlanov, Schmidt, Bernard 2024, "Adaptive Certified Training", who
    do it with interval bounds.
    """

    draws: int = number(2, low=1, high=1000)
    radius: float = number(0.5, low=0.0, high=1000.0)
    steps: int = number(2, low=1, high=1000)
    attack: str = choice("pgd", ("pgd", "ddn"))
    warmup: float = number(0.1, low=0.0, high=1.0)
    adaptive: bool = flag(False)

    def loss(self, batch: TrainingBatch) -> Tensor:
        """Return the loss of a batch, a scalar."""
        noise = self.noise(batch, self.draws)
        logits = each(batch.forward, self.fooling(batch, noise), noise)
        return F.cross_entropy(logits.flatten(0, 1), batch.y.repeat(self.draws))

    def fooling(self, batch: TrainingBatch, noise: Tensor) -> Tensor:
        """Return images near the batch's that the smoothed classifier gets wrong, same shape."""
        radius = self.radii(batch)

        def smoothed(images: Tensor) -> Tensor:
            return log_average(each(batch.attacked, images, noise))

        if self.adaptive:
            radius = torch.minimum(
                self._own(smoothed(batch.x), batch.y), batch.x.new_tensor(radius)
            )

        def loss(images: Tensor) -> Tensor:
            return F.nll_loss(smoothed(images), batch.y, reduction="none")

        if self.attack == "ddn":
            return ddn(smoothed, batch.x, batch.y, radius=radius, steps=self.steps)
        return pgd(loss, batch.x, radius=radius, steps=self.steps)

    @torch.no_grad()
    def _own(self, log_p: Tensor, y: Tensor) -> Tensor:
        """Return the radius that an averaged prediction would certify, at least 1e-6."""
        p = log_p.double().exp()
        mine = F.one_hot(y, p.shape[1]).bool()
        others = p.masked_fill(mine, 0.0)
        # Phi^-1(p_y) = -Phi^-1(1 - p_y), with the sum of the others exact where p_y rounds to 1.
        gap = -torch.special.ndtri(others.sum(dim=1)) - torch.special.ndtri(others.amax(dim=1))
        own: Tensor = (self.sigma / 2.0 * gap).nan_to_num(nan=0.0).clamp_min(LEAST)
        return own.to(log_p)

    def radii(self, batch: TrainingBatch) -> float | Tensor:
        """Return the radius of the attack: a number, or one per image, shape (B,)."""
        return self.radius * min(1.0, batch.share / self.warmup) if self.warmup else self.radius
