"""The law of Gaussian noise on a grid, to the last of 60 bits."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext

import numpy as np
from numpy.typing import NDArray

from deqcert.errors import ConfigError

BITS = 60
"""Bits of the draw that decides about one value."""
MOST_STEPS = 2**18
"""Largest noise that tables are made for, in steps of the grid."""

_SURE = Decimal(9)  # the normal law beyond it is less than half of 2^-60
_POINT = 192
_CONTEXT = Context(prec=50, rounding=ROUND_HALF_EVEN)
_SQRT_TWO_PI = Decimal("2.5066282746310005024157652848110452530069867406099383166299235763")


@dataclass(frozen=True)
class GridLaw:
    """Gaussian noise of an input on the grid 0, 1/L, ..., 1, rounded to the grid and clipped.

    Let g round a value to the nearest multiple of 1/L and clip it to [-k, k + 1], k = max(1,
    floor(6 sigma)). For x on the grid, g(x + sigma n) = clip(x + i / L) with an integer i of the
    probability Phi((2 i + 1) / (2 L sigma)) - Phi((2 i - 1) / (2 L sigma)). A uniform integer u
    below 2^60 decides about i: it is the number of thresholds ``t <= u``, plus ``lowest``, where
    the thresholds are the values of 2^60 Phi, rounded to integers.

    Attributes:
        levels: L, steps of the grid between 0 and 1.
        sigma: Standard deviation, in input units.
        low: Smallest grid point, -k L, in steps.
        high: Largest grid point, (k + 1) L, in steps.
        lowest: Noise of a draw that is below all thresholds, in steps.
        thresholds: Ascending, 0 < t < 2^60, shape (T,), int64.

    **Source:** Voracek and Hein (2023), "Sound Randomized Smoothing in Floating-Point Arithmetic".
    """

    levels: int
    sigma: float
    low: int
    high: int
    lowest: int
    thresholds: NDArray[np.int64]

    @property
    def cells(self) -> int:
        """Values of the noise that can be told apart after clipping, 2 L (k + 1) + 1."""
        return 2 * self.high + 1

    def charge(self, samples: int, values: int) -> float:
        """Bound how far the drawn noise is from the law, as a probability.

        Each of at most ``cells - 1`` thresholds is off by at most half of 2^-60 (and less than
        1e-30 for how it was computed), so one value's law is off by at most ``cells / 2^61`` in
        total variation, and all of them together by at most the sum.

        Args:
            samples: Noisy copies that a statement rests on.
            values: Values of an input.

        Returns:
            ``samples * values * cells / 2^61``, rounded up.
        """
        return math.nextafter(samples * values * self.cells / 2.0 ** (BITS + 1), math.inf)


@functools.lru_cache(maxsize=32)
def grid_law(levels: int, sigma: float) -> GridLaw:
    """Return the law of the noise for inputs on a grid.

    Args:
        levels: L, steps of the grid between 0 and 1, from 1: 255 for 8-bit images.
        sigma: Standard deviation, in input units, above 0; taken as the very number it is.

    Raises:
        ConfigError: If the grid is too fine, or sigma too large, for tables.
    """
    k = max(1, math.floor(6 * sigma))
    most = levels * (k + 1)
    if levels < 1 or most > MOST_STEPS:
        raise ConfigError(
            f"noise of sigma {sigma:g} on a grid of {levels} steps needs too large tables; give a "
            "smaller sigma, or noise float"
        )
    # Half of them: the law is symmetric, Phi(-z) = 1 - Phi(z).
    with localcontext(_CONTEXT):
        width = 2 * levels * Decimal(sigma)
        upper = [_threshold((2 * i + 1) / width) for i in range(most)]
    upper = [t for t in upper if t < 2**BITS]
    lower = [2**BITS - t for t in reversed(upper)]
    thresholds = np.array(lower + upper, dtype=np.int64)
    thresholds.setflags(write=False)
    return GridLaw(levels, sigma, -levels * k, most, -len(upper), thresholds)


def _threshold(z: Decimal) -> int:
    """Return 2^60 Phi(z), rounded to an integer, for z > 0.

    Phi(z) - 1/2 = exp(-z^2 / 2) / sqrt(2 pi) * (z + z^3 / 3 + z^5 / (3 * 5) + ...): all terms are
    positive, and summed in steps of 2^-192 until they are below 2^-152.

    **Source:** Abramowitz and Stegun (1964), 26.2.11.
    """
    if z > _SURE:
        return int(2**BITS)
    square, total = int(z * z * 2**_POINT), int(z * 2**_POINT)
    term, odd = total, 1
    while term >> 40:
        odd += 2
        term = (term * square // odd) >> _POINT
        total += term
    phi = Decimal("0.5") + (-z * z / 2).exp() / _SQRT_TWO_PI * total / 2**_POINT
    return int((phi * 2**BITS).to_integral_value())
