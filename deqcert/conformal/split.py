"""Split conformal prediction: which calibration value a new one seldom falls below."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike

from deqcert.certifiers.bounds import check_count, check_probability


def covering_rank(alpha: float, n: int) -> int:
    """Return k = floor(alpha (n + 1)): the k-th smallest of n values is the bar.

    Args:
        alpha: How often a new value may fall below the bar, in (0, 1); read as the decimal that it
            is written as, so that 0.1 of 100 is 10.
        n: Calibration values, from 1.

    Returns:
        0 where n is too small for any bar.

    **Guarantee:** if the n values and a new one are exchangeable, the new one is below the k-th
    smallest with probability at most k / (n + 1) <= alpha, ties included.

    **Source:** V. Vovk, A. Gammerman, G. Shafer, "Algorithmic Learning in a Random World" (2005);
    H. Papadopoulos et al. (2002) for the split.
    """
    check_probability("alpha", alpha)
    return math.floor(Fraction(repr(float(alpha))) * (check_count("n", n) + 1))


def least_values(alpha: float) -> int:
    """Return the fewest calibration values that have a bar at this level."""
    check_probability("alpha", alpha)
    return max(1, math.ceil(1 / Fraction(repr(float(alpha)))) - 1)


def smallest(values: ArrayLike, k: int) -> float:
    """Return the k-th smallest value, k from 1; -inf for k = 0, which every value reaches."""
    if k == 0:
        return -math.inf
    return float(np.sort(np.asarray(values, dtype=np.float64))[k - 1])
