"""The square attack: random search without gradients, so that no masking can stop it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deqcert.attacks.ball import check_ball, check_steps, column, project
from deqcert.attacks.base import Attack, Climb, Task
from deqcert.attacks.views import Smoothed
from deqcert.errors import ConfigError
from deqcert.options import number

SHARE = 0.1
"""Share of an image's pixels that the first squares cover."""
HALVINGS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
"""Shares of all queries after which that share is halved."""


def square(
    loss: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    radius: float | Tensor,
    steps: int,
    generators: Sequence[np.random.Generator],
) -> Tensor:
    """Raise each row's loss inside ball and box by random moves of mass between two windows.

    It begins with a tiling of bumps, each half positive and half negative. A move clears a window
    and adds a bump in another, with what both held and whatever the ball still allows as its norm.
    A move is kept if it raises the loss.

    Args:
        loss: Maps images, shape (B, C, H, W), to one loss per independent row, shape (B,); never
            differentiated. Keep its noise fixed between the calls.
        x: Images in [0, 1], shape (B, C, H, W).
        radius: Of the l2 ball around each image, at least 0; a number, or one per row, shape (B,).
        steps: Moves tried, from 1; hundreds to thousands are usual.
        generators: One source of random numbers per row, used for nothing else.

    Returns:
        The point of largest loss seen per row, x included; shape (B, C, H, W), in the ball (in
        float64, rounding included) and in [0, 1].

    Raises:
        ConfigError: If the radius, the number of steps or that of the sources is out of range.
        DataError: If the images are not of shape (B, C, H, W) with values in [0, 1].

    **Source:** Andriushchenko, Croce, Flammarion, Hein 2020, "Square Attack: a query-efficient
    black-box adversarial attack via random search", algorithms 1 and 3, equation 2.
    """
    x = x.detach()
    check_steps(steps)
    radii = check_ball(x, radius)
    if len(generators) != len(x):
        raise ConfigError(
            f"there are {len(generators)} sources of random numbers for {len(x)} images."
        )
    centre, limits = x.double().cpu().numpy(), radii.cpu().numpy()

    def point(moved: NDArray[np.float64]) -> Tensor:
        return project(x + torch.from_numpy(moved).to(x), x, radii)

    with torch.no_grad():
        best, top = x, _finite(loss(x))
        # The search goes on from its tiling even where x is better: x has nothing to move.
        first = [
            _tiling(centre[row].shape, limits[row], generator)
            for row, generator in enumerate(generators)
        ]
        here = point(np.stack(first))
        value = _finite(loss(here))
        for step in range(steps):
            side = _side(x.shape[-2], x.shape[-1], step / steps)
            held = here.double().cpu().numpy() - centre
            moved = [
                _move(held[row], limits[row], side, generator)
                for row, generator in enumerate(generators)
            ]
            candidate = point(np.stack(moved))
            new = _finite(loss(candidate))
            better = new > value
            here = torch.where(column(better), candidate, here)
            value = torch.where(better, new, value)
        better = value > top
        return torch.where(column(better), here, best)


def _finite(values: Tensor) -> Tensor:
    return torch.where(torch.isfinite(values), values, -torch.inf)


def _side(height: int, width: int, done: float) -> int:
    """Return the side of the windows when that share of the queries is done: odd, from 1."""
    share = SHARE / 2 ** sum(done >= at for at in HALVINGS)
    side = max(round((share * height * width) ** 0.5), 3) // 2 * 2 + 1
    most = min(height, width)
    return min(side, most if most % 2 else most - 1) if most > 1 else 1


def _bump(height: int, width: int) -> NDArray[np.float64]:
    """Return a peak that falls off in every direction, of norm 1, shape (height, width)."""
    reach = max(height, width) // 2 + 1
    at = np.cumsum(1.0 / np.arange(reach + 1, 0, -1.0) ** 2)[::-1]  # highest at distance 0
    rows = np.abs(np.arange(height) - height // 2)[:, None]
    columns = np.abs(np.arange(width) - width // 2)[None, :]
    peak = at[np.maximum(rows, columns)]
    return np.asarray(peak / np.linalg.norm(peak), dtype=np.float64)


def _dipole(side: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """Return a peak beside a trough, upright or lying, of norm 1, shape (side, side)."""
    half = side // 2
    if not half:
        return np.ones((1, 1))
    pair = np.concatenate([_bump(half, side), -_bump(side - half, side)])
    pair = pair.T if generator.random() < 0.5 else pair
    return np.asarray(pair / np.linalg.norm(pair), dtype=np.float64)


def _tiling(
    shape: tuple[int, ...], radius: float, generator: np.random.Generator
) -> NDArray[np.float64]:
    """Return the perturbation that the search begins with, of norm radius, shape (C, H, W)."""
    channels, height, width = shape
    side = max(min(height, width) // 5, 1)
    whole = np.zeros(shape)
    for top in range(0, height, side):
        for left in range(0, width, side):
            signs = generator.choice([-1.0, 1.0], size=(channels, 1, 1))
            tile = (signs * _dipole(side, generator))[:, : height - top, : width - left]
            whole[:, top : top + side, left : left + side] = tile
    return radius * whole / np.linalg.norm(whole)


def _move(
    held: NDArray[np.float64], radius: float, side: int, generator: np.random.Generator
) -> NDArray[np.float64]:
    """Return a perturbation, shape (C, H, W), with the mass of two windows in one of them."""
    channels, height, width = held.shape

    def window() -> tuple[slice, slice, slice]:
        top, left = generator.integers(height - side + 1), generator.integers(width - side + 1)
        return slice(None), slice(top, top + side), slice(left, left + side)

    target, source = window(), window()
    both = np.zeros(held.shape[1:], dtype=bool)
    both[target[1:]] = both[source[1:]] = True
    unused = max(radius**2 - float(np.sum(held**2)), 0.0)
    room = np.sqrt(np.sum(held[:, both] ** 2, axis=1) + unused / channels)
    old = held[target]
    norms = np.linalg.norm(old, axis=(1, 2), keepdims=True)
    old = np.divide(old, norms, out=np.zeros_like(old), where=norms > 0)
    new = old + generator.choice([-1.0, 1.0], size=(channels, 1, 1)) * _dipole(side, generator)
    norms = np.linalg.norm(new, axis=(1, 2), keepdims=True)
    new = np.divide(new, norms, out=np.zeros_like(new), where=norms > 0)
    moved = held.copy()
    moved[source] = 0.0
    moved[target] = room[:, None, None] * new
    return moved


@dataclass(frozen=True)
class Square(Climb):
    """Search by random moves of bumps, without any gradient.

    Args:
        steps: Queries, one per move tried; thousands find more.
    """

    steps: int = number(100, low=1)

    def climb(self, task: Task) -> Tensor:
        """Return the point of largest margin seen per row."""
        return square(
            task.margin,
            task.x,
            radius=task.radius,
            steps=self.steps,
            generators=task.generators,
        )


SQUARE = Attack("square", Square(), Smoothed())
