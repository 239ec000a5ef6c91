"""Light and colour: brightness, contrast, saturation, fog."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deqcert.evaluation.corruptions.base import Corruption, Picture

Generator = np.random.Generator


def _in_hsv(x: Picture, channel: int, factor: float, shift: float) -> Picture:
    """Change saturation (1) or value (2) of a colour picture."""
    from matplotlib.colors import hsv_to_rgb, rgb_to_hsv

    hsv = rgb_to_hsv(np.moveaxis(x, 0, -1))
    hsv[..., channel] = np.clip(factor * hsv[..., channel] + shift, 0.0, 1.0)
    return np.asarray(np.moveaxis(hsv_to_rgb(hsv), -1, 0))


def _brightness(x: Picture, more: float, draw: Generator) -> Picture:
    return np.asarray(x + more) if len(x) == 1 else _in_hsv(x, 2, 1.0, more)


def _contrast(x: Picture, share: float, draw: Generator) -> Picture:
    mean = x.mean(axis=(1, 2), keepdims=True)
    return np.asarray((x - mean) * share + mean)


def _saturate(x: Picture, strength: tuple[float, float], draw: Generator) -> Picture:
    return _in_hsv(x, 1, *strength)


def plasma(size: int, decay: float, draw: Generator) -> NDArray[np.float64]:
    """Draw a cloud: the diamond-square fractal on a torus, between 0 and 1.

    Args:
        size: Height and width, a power of two.
        decay: What the random part is divided by from one scale to the next.
        draw: Where random numbers come from.

    **Source:** A. Fournier, D. Fussell, L. Carpenter (1982).
    """
    cloud, step, wobble = np.zeros((size, size)), size, 100.0

    def around(total: NDArray[np.float64]) -> NDArray[np.float64]:
        return total / 4.0 + wobble * draw.uniform(-1.0, 1.0, total.shape)

    while step >= 2:
        half = step // 2
        corners = cloud[::step, ::step]
        below = corners + np.roll(corners, -1, axis=0)
        cloud[half::step, half::step] = around(below + np.roll(below, -1, axis=1))
        centres = cloud[half::step, half::step]
        beside = corners + np.roll(corners, -1, axis=1) + centres + np.roll(centres, 1, axis=0)
        cloud[::step, half::step] = around(beside)
        above = corners + np.roll(corners, -1, axis=0) + centres + np.roll(centres, 1, axis=1)
        cloud[half::step, ::step] = around(above)
        step, wobble = half, wobble / decay
    cloud -= cloud.min()
    return np.asarray(cloud / max(cloud.max(), 1e-12))


def _fog(x: Picture, strength: tuple[float, float], draw: Generator) -> Picture:
    much, decay = strength
    height, width = x.shape[1:]
    size = 1 << (max(height, width, 2) - 1).bit_length()
    brightest = x.max()
    fogged = x + much * plasma(size, decay, draw)[:height, :width]
    return np.asarray(fogged * brightest / (brightest + much))


BRIGHTNESS = Corruption("too much light", (0.05, 0.1, 0.15, 0.2, 0.3), _brightness)
CONTRAST = Corruption("little contrast", (0.75, 0.5, 0.4, 0.3, 0.15), _contrast)
SATURATE = Corruption(
    "colours too pale or too strong",
    ((0.3, 0.0), (0.1, 0.0), (1.5, 0.0), (2.0, 0.1), (2.5, 0.2)),
    _saturate,
    colour=True,
)
FOG = Corruption("fog", ((0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75)), _fog)
