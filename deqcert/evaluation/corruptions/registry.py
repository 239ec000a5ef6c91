"""The corruptions by name: those of Hendrycks and Dietterich that need no picture from elsewhere.

**Source:** D. Hendrycks, T. Dietterich, "Benchmarking Neural Network Robustness to Common
Corruptions and Perturbations" (2019), with the strengths of their 32x32 set. These are fourteen of
their nineteen, written anew: our subset, whose figures are not the benchmark's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from deqcert.evaluation.corruptions.base import SEVERITIES
from deqcert.registry import Registry

if TYPE_CHECKING:
    from deqcert.evaluation.corruptions.base import Corruption

_ROOM = "deqcert.evaluation.corruptions"
CORRUPTIONS: Registry[Corruption] = Registry(
    "corruption",
    {
        "gaussian-noise": f"{_ROOM}.noise:GAUSSIAN",
        "shot-noise": f"{_ROOM}.noise:SHOT",
        "impulse-noise": f"{_ROOM}.noise:IMPULSE",
        "speckle-noise": f"{_ROOM}.noise:SPECKLE",
        "gaussian-blur": f"{_ROOM}.blur:GAUSSIAN",
        "defocus-blur": f"{_ROOM}.blur:DEFOCUS",
        "glass-blur": f"{_ROOM}.blur:GLASS",
        "zoom-blur": f"{_ROOM}.blur:ZOOM",
        "brightness": f"{_ROOM}.light:BRIGHTNESS",
        "contrast": f"{_ROOM}.light:CONTRAST",
        "saturate": f"{_ROOM}.light:SATURATE",
        "fog": f"{_ROOM}.light:FOG",
        "jpeg": f"{_ROOM}.digital:JPEG",
        "pixelate": f"{_ROOM}.digital:PIXELATE",
    },
)
"""Every corruption, imported when it is first asked for; add yours with ``CORRUPTIONS.register``.
"""


def is_picture(shape: Sequence[int]) -> bool:
    """Whether inputs of a shape are grey or colour pictures: (1 or 3, H, W), H and W at least 4."""
    return len(shape) == 3 and shape[0] in (1, 3) and min(shape[1:]) >= 4


def fitting(shape: Sequence[int]) -> tuple[str, ...]:
    """Return the corruptions that mean something for pictures of a shape."""
    return tuple(n for n in CORRUPTIONS.names() if shape[0] == 3 or not CORRUPTIONS.get(n).colour)


def corrupt(
    picture: NDArray[np.float32], name: str, severity: int, *, index: int, seed: int = 0
) -> NDArray[np.float32]:
    """Corrupt a picture; the same arguments give the same one.

    Args:
        picture: Shape (C, H, W), in [0, 1], one channel or three.
        name: One of :data:`CORRUPTIONS`.
        severity: From 1 to 5.
        index: Of the picture in its data set; with name, severity and seed it decides what is
            drawn.
        seed: Any number from 0.

    Returns:
        The same shape, in [0, 1].

    Raises:
        ConfigError: If there is no such corruption.
    """
    corruption = CORRUPTIONS.get(name)
    draw = np.random.default_rng([seed, index, severity, *name.encode()])
    strength = corruption.strengths[SEVERITIES.index(severity)]
    found = corruption.change(picture.astype(np.float64), strength, draw)
    return np.clip(found, 0.0, 1.0).astype(np.float32)
