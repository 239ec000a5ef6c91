"""Auto-PGD: projected ascent with momentum that chooses its own step lengths."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from deqcert.attacks.ball import Ball, check_steps, column, steepest
from deqcert.attacks.base import Attack, Climb, Task
from deqcert.attacks.views import Base, Intermediate, Smoothed, Unrolled
from deqcert.certifiers.certificate import Norm
from deqcert.options import number

MOMENTUM = 0.75
"""Share of the newest step in a move; the rest repeats the move before."""
RISING = 0.75
"""Share of steps between two looks that must raise the loss for the step length to stay."""


def apgd(
    loss: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    radius: float | Tensor,
    steps: int,
    norm: Norm = "l2",
) -> Tensor:
    """Raise each row's loss inside ball and box, halving a row's steps when they stop helping.

    The first step is as long as the ball is wide. At a few looks, closer and closer together, a row
    whose loss rose too seldom, or whose best loss did not improve though its step was not halved at
    the last look, goes back to its best point with half the step.

    Args:
        loss: Maps images, shape (B, C, H, W), to one loss per independent row, shape (B,). It is
            differentiated ``steps + 1`` times; keep its noise fixed between the calls.
        x: Images in [0, 1], shape (B, C, H, W).
        radius: Of the ball around each image, at least 0; a number, or one per row, shape (B,).
        steps: Gradient steps, from 1; 20 to 100 are usual.
        norm: Of ball and steps: "l2" or "linf".

    Returns:
        The point of largest loss seen per row, x included; shape (B, C, H, W), in the ball (in
        float64, rounding included) and in [0, 1].

    Raises:
        ConfigError: If the radius or the number of steps is out of range, or there is no such norm.
        DataError: If the images are not of shape (B, C, H, W) with values in [0, 1].

    **Source:** Croce, Hein 2020, "Reliable Evaluation of Adversarial Robustness with an Ensemble of
    Diverse Parameter-free Attacks", algorithm 1 and section 3.
    """
    x = x.detach()
    check_steps(steps)
    ball = Ball(x, radius, norm)
    radii = ball.radii
    length, looks = 2.0 * radii, _looks(steps)
    here = before = best = x
    value, way = _slope(loss, here, norm)
    top, top_way = value, way
    at_look, halved = top, torch.zeros_like(radii, dtype=torch.bool)
    rises, last = torch.zeros_like(radii), 0
    for step in range(1, steps + 1):
        aim = ball.project(here + column(length) * way)
        move = aim - here
        if step > 1:
            move = MOMENTUM * move + (1.0 - MOMENTUM) * (here - before)
        before, here = here, ball.project(here + move)
        new, way = _slope(loss, here, norm)
        rises = rises + (new > value)
        value = new
        better = value > top
        best, top_way = (
            torch.where(column(better), now, held) for now, held in ((here, best), (way, top_way))
        )
        top = torch.where(better, value, top)
        if step in looks:
            back = (rises < RISING * (step - last)) | (~halved & (top <= at_look))
            length = torch.where(back, 0.5 * length, length)
            here, way = (
                torch.where(column(back), held, now) for held, now in ((best, here), (top_way, way))
            )
            value = torch.where(back, top, value)
            halved, at_look, last = back, top, step
            rises = torch.zeros_like(radii)
    return best


def _looks(steps: int) -> set[int]:
    """Return the steps after which rows are judged: shares 0, 0.22, then ever shorter gaps."""
    shares = [0.0, 0.22]
    while shares[-1] < 1.0:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    return {math.ceil(share * steps) for share in shares[1:]}


def _slope(loss: Callable[[Tensor], Tensor], x: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
    """Return the loss per row, minus infinity where it is not finite, and its way up, of size 1."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        values = loss(leaf)
        (gradient,) = torch.autograd.grad(values.sum(), leaf)
    values = values.detach()
    return torch.where(torch.isfinite(values), values, -torch.inf), steepest(gradient, norm)


@dataclass(frozen=True)
class APGD(Climb):
    """Climb the loss by Auto-PGD.

    Args:
        steps: Gradient steps.
    """

    norms: ClassVar[tuple[Norm, ...]] = ("l2", "linf")

    steps: int = number(40, low=1)

    def climb(self, task: Task) -> Tensor:
        """Return the point of largest loss seen per row."""
        return apgd(task.loss, task.x, radius=task.radius, steps=self.steps, norm=task.norm)


_CROCE, _SALMAN = "Croce, Hein 2020", "Salman et al. 2019"
APGD_IMPLICIT = Attack("apgd-implicit", APGD(), Base("implicit"))
APGD_PHANTOM = Attack("apgd-phantom", APGD(), Base("phantom"))
APGD_UNROLL = Attack("apgd-unroll", APGD(), Unrolled())
INTERMEDIATE = Attack("intermediate", APGD(steps=20), Intermediate())
SMOOTHADV_APGD = Attack("smoothadv-apgd", APGD(steps=20), Smoothed())
