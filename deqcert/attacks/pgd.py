"""Projected gradient ascent in a ball."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from deqcert.attacks.ball import Ball, check_steps, column
from deqcert.attacks.base import Attack, Climb, Task, margin
from deqcert.attacks.views import Base, Smoothed, Unrolled
from deqcert.certifiers.certificate import Norm
from deqcert.options import number


def pgd(
    loss: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    radius: float | Tensor,
    steps: int,
    step_size: float | None = None,
    start: Tensor | None = None,
    norm: Norm = "l2",
) -> Tensor:
    """Raise each row's loss by normalised gradient steps inside ball and box.

    ``x' <- project(x' + step_size * g / ||g||)`` with g the gradient of the row's loss; in linf its
    signs in place of g / ||g||. A row whose gradient is zero or not finite stays where it is.
    Nothing is random, and only gradients of the images are computed: those of parameters are left
    alone.

    Args:
        loss: Maps images, shape (B, C, H, W), to one loss per independent row, shape (B,). It is
            differentiated ``steps`` times; keep its noise fixed between the calls.
        x: Images in [0, 1], shape (B, C, H, W).
        radius: Of the ball around each image, at least 0; a number, or one per row, shape (B,).
        steps: Gradient steps, from 1.
        step_size: Size of a step, in pixel units; ``2 * radius / steps`` if not given, so that
            the whole ball can be crossed.
        start: Where to start, shape (B, C, H, W), brought into the set first; ``x`` if not given.
        norm: Of ball and steps: "l2" or "linf".

    Returns:
        The last iterate, shape (B, C, H, W), in the ball (in float64, rounding included) and in
        [0, 1].

    Raises:
        ConfigError: If the radius or the number of steps is out of range, or there is no such norm.
        DataError: If the images are not of shape (B, C, H, W) with values in [0, 1].

    **Source:** Madry, Makelov, Schmidt, Tsipras, Vladu 2018, "Towards Deep Learning Models
    Resistant to Adversarial Attacks", section 2; step size as in the code that accompanies Salman
    et al. 2019, "Provably Robust Deep Learning via Adversarially Trained Smoothed Classifiers".
    """
    x = x.detach()
    check_steps(steps)
    ball = Ball(x, radius, norm)
    radii = ball.radii
    length = 2.0 * radii / steps if step_size is None else radii.new_full(radii.shape, step_size)
    here = x if start is None else ball.project(start)
    for _ in range(steps):
        here = ball.project(here + column(length) * ball.ascent(loss, here))
    return here


@dataclass(frozen=True)
class PGD(Climb):
    """Climb by projected gradients, and keep the best point per row: the last need not be it.

    Args:
        steps: Gradient steps.
    """

    norms: ClassVar[tuple[Norm, ...]] = ("l2", "linf")

    steps: int = number(20, low=1)

    def climb(self, task: Task) -> Tensor:
        """Return the point of largest margin seen per row."""
        best, top = task.x, torch.full_like(task.radius, -torch.inf)

        def look(points: Tensor) -> Tensor:
            nonlocal best, top
            scores = task.scores(points)
            gap = margin(scores.detach(), task.y).to(top)
            better = gap > top
            best = torch.where(column(better), points.detach(), best)
            top = torch.where(better, gap, top)
            return task.loss_of(scores)

        last = pgd(look, task.x, radius=task.radius, steps=self.steps, norm=task.norm)
        with torch.no_grad():
            look(last)
        return best


_MADRY, _SALMAN = "Madry et al. 2018", "Salman et al. 2019"
PGD_IMPLICIT = Attack("pgd-implicit", PGD(), Base("implicit"))
PGD_PHANTOM = Attack("pgd-phantom", PGD(), Base("phantom"))
PGD_UNROLL = Attack("pgd-unroll", PGD(), Unrolled())
SMOOTHADV_PGD = Attack("smoothadv-pgd", PGD(), Smoothed())
