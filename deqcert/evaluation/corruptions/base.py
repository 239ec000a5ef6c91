"""What a corruption is: a function of a picture, its strength and random numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.float64]
"""Shape (C, H, W), in [0, 1]."""

SEVERITIES = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class Corruption:
    """A way in which pictures get worse.

    Attributes:
        about: What it does, in a few words.
        strengths: One per severity, what the function takes.
        change: Is called with a picture, a strength and a generator; what leaves [0, 1] is cut.
        colour: Whether it means nothing for a grey picture.
    """

    about: str
    strengths: Sequence[Any]
    change: Callable[[Picture, Any, np.random.Generator], Picture]
    colour: bool = False
