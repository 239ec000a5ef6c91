"""Decoupled direction and norm: the smallest perturbation that changes the class, in few steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from deqcert.attacks.ball import ascent, check_ball, check_steps, column, project, unit
from deqcert.attacks.base import Attack, Climb, Task
from deqcert.attacks.views import Base, Smoothed
from deqcert.errors import ConfigError
from deqcert.options import number

LAST_STEP = 0.01
"""Step length that the cosine ends at; it begins at 1."""


def ddn(
    logits: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    *,
    radius: float | Tensor,
    steps: int,
    gamma: float = 0.05,
    norm: float = 1.0,
) -> Tensor:
    """Look for the nearest image of another class inside ball and box.

    A step moves the perturbation along the normalised gradient of the cross-entropy, then sets its
    norm: ``1 - gamma`` times the last one where the class has changed, ``1 + gamma`` times where it
    has not, never above the radius. A row whose gradient is zero or not finite keeps its direction.

    Args:
        logits: Maps images, shape (B, C, H, W), to logits or log-probabilities, shape (B, K), rows
            independent. It is differentiated ``steps`` times; keep its noise fixed between them.
        x: Images in [0, 1], shape (B, C, H, W).
        y: Class per row, shape (B,), int64.
        radius: Largest norm of a perturbation, at least 0, may be infinite; a number, or one per
            row, shape (B,).
        steps: Gradient steps, from 1.
        gamma: Relative change of the norm in a step, in (0, 1).
        norm: First norm, above 0; the radius where that is smaller.

    Returns:
        Shape (B, C, H, W), in the ball (in float64, rounding included) and in [0, 1]: per row the
        nearest point seen with another class than y, which is x where x has one; the last
        iterate, of largest norm, where none was seen.

    Raises:
        ConfigError: If a value is out of range.
        DataError: If the images are not of shape (B, C, H, W) with values in [0, 1].

    **Source:** Rony, Hafemann, Oliveira, Ben Ayed, Sabourin, Granger 2019, "Decoupling Direction
    and Norm for Efficient Gradient-Based L2 Adversarial Attacks and Defenses", algorithm 1. Salman
    et al. 2019 shrink the result to the largest norm at the end and give back x where nothing was
    found; here every iterate keeps to it, so that what was seen to fool is what is returned.
    """
    if not 0.0 < gamma < 1.0:
        raise ConfigError(f"gamma is {gamma}, but it must be above 0 and below 1.")
    if not 0.0 < norm < float("inf"):
        raise ConfigError(f"norm is {norm}, but it must be above 0.")
    x = x.detach()
    # The box is no wider than its diagonal: an infinite radius does not let norms run away.
    check_steps(steps)
    radii = check_ball(x, radius).clamp(max=x.shape[1:].numel() ** 0.5)
    length = radii.clamp(max=norm)
    here = nearest = x
    smallest = torch.full_like(radii, float("inf"))
    for step in range(steps):
        with torch.enable_grad():
            leaf = here.detach().requires_grad_()
            scores = logits(leaf)
            loss = F.cross_entropy(scores, y, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, leaf)
        way = here.double() - x
        distance = torch.linalg.vector_norm(way.flatten(1), dim=1)
        fooled = (scores.argmax(dim=1) != y) & torch.isfinite(scores).all(dim=1)
        better = fooled & (distance < smallest)
        nearest = torch.where(column(better), here, nearest)
        smallest = torch.where(better, distance, smallest)
        rate = LAST_STEP + 0.5 * (1.0 - LAST_STEP) * (1.0 + math.cos(math.pi * step / steps))
        way = way + rate * unit(gradient)
        length = torch.minimum(length * torch.where(fooled, 1.0 - gamma, 1.0 + gamma), radii)
        here = project(x + column(length) * unit(way), x, length)
    return torch.where(column(torch.isfinite(smallest)), nearest, here)


@dataclass(frozen=True)
class DDN(Climb):
    """Find the way to the nearest point of another class, and follow it as far as that helps.

    The nearest point is one for the scores, from few draws; a verdict needs a clear lead. Where it
    is x itself, the way is that of the gradient there.

    Args:
        steps: Gradient steps.
    """

    steps: int = number(20, low=1)

    def climb(self, task: Task) -> Tensor:
        """Return per row the nearest point, or where the way to it meets the edge."""
        near = ddn(task.scores, task.x, task.y, radius=task.radius, steps=self.steps)
        moved = (near != task.x).flatten(1).any(dim=1)
        way = torch.where(column(moved), unit(near - task.x), ascent(task.loss, task.x))
        whole = task.x[0].numel() ** 0.5  # no ball is wider than the box
        far = project(task.x + whole * way, task.x, task.radius)
        with torch.no_grad():
            further = task.margin(far) > task.margin(near)
        return torch.where(column(further), far, near)


DDN_IMPLICIT = Attack("ddn", DDN(), Base("implicit"))
SMOOTHADV_DDN = Attack("smoothadv-ddn", DDN(), Smoothed())
