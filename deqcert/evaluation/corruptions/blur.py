"""Blur: Gaussian, of a lens out of focus or zooming, and as through frosted glass."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from deqcert.evaluation.corruptions.base import Corruption, Picture

REACH = 8
"""Pixels that the kernel of a lens reaches to each side."""


def _smooth(x: Picture, deviation: float) -> Picture:
    return np.asarray(ndimage.gaussian_filter(x, sigma=(0.0, deviation, deviation), mode="nearest"))


def _gaussian(x: Picture, deviation: float, draw: np.random.Generator) -> Picture:
    return _smooth(x, deviation)


def disc(radius: float, softness: float) -> NDArray[np.float64]:
    """Return the kernel of a lens out of focus: a disc, its edge softened; its sum is 1.

    Args:
        radius: Of the disc, in pixels.
        softness: Standard deviation of the 3x3 Gaussian that softens it, in pixels.
    """
    at = np.arange(-REACH, REACH + 1)
    inside = (at[:, None] ** 2 + at**2 <= radius**2).astype(np.float64)
    bell = np.exp(-(np.arange(-1, 2) ** 2) / (2.0 * softness**2))
    soft = np.outer(bell, bell)
    kernel = ndimage.convolve(inside / inside.sum(), soft / soft.sum(), mode="constant")
    return np.asarray(kernel / kernel.sum())


def _defocus(x: Picture, strength: tuple[float, float], draw: np.random.Generator) -> Picture:
    kernel = disc(*strength)
    return np.stack([ndimage.convolve(channel, kernel, mode="mirror") for channel in x])


def _zoom(x: Picture, largest: float, draw: np.random.Generator) -> Picture:
    """Average the picture and its magnifications about the middle, from 1 on by hundredths."""
    factors = 1.0 + 0.01 * np.arange(round(100 * (largest - 1.0)) + 1)
    middle = (np.array(x.shape[1:]) - 1.0) / 2.0
    total = x.copy()
    for factor in factors:
        offset = middle - middle / factor
        for channel, out in zip(x, total, strict=True):
            out += ndimage.affine_transform(
                channel, [1.0 / factor, 1.0 / factor], offset, order=1, mode="nearest"
            )
    return total / (len(factors) + 1)


def _glass(x: Picture, strength: tuple[float, int, int], draw: np.random.Generator) -> Picture:
    """Blur, let every pixel change places with a near one, and blur again."""
    deviation, reach, rounds = strength
    found = _smooth(x, deviation)
    height, width = found.shape[1:]
    rows, columns = (
        range(height - reach - 1, reach - 1, -1),
        range(width - reach - 1, reach - 1, -1),
    )
    for _ in range(rounds):
        # One pixel after the other: what was moved may be moved again.
        steps = draw.integers(-reach, reach + 1, size=(height, width, 2))
        for i in rows:
            for j in columns:
                a, b = i + steps[i, j, 0], j + steps[i, j, 1]
                kept = found[:, i, j].copy()
                found[:, i, j] = found[:, a, b]
                found[:, a, b] = kept
    return _smooth(found, deviation)


GAUSSIAN = Corruption("Gaussian blur", (0.4, 0.6, 0.7, 0.8, 1.0), _gaussian)
DEFOCUS = Corruption(
    "a lens out of focus", ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1)), _defocus
)
GLASS = Corruption(
    "frosted glass",
    ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
    _glass,
)
ZOOM = Corruption("a lens that zooms", (1.05, 1.10, 1.15, 1.20, 1.25), _zoom)
