"""What a set of certificates says about a classifier; NumPy only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def certified_accuracy(
    correct: ArrayLike, radius: ArrayLike, at: Sequence[float]
) -> NDArray[np.float64]:
    """Return the share of all inputs that are correct with a radius of at least each value.

    Args:
        correct: Whether each prediction is right, shape (N,); an abstention is not.
        radius: Certified radius of each input, shape (N,), in input units.
        at: Radii asked for, in input units.

    Returns:
        One share in [0, 1] per radius; NaN without inputs.

    **Source:** Cohen et al. (2019), section 4.
    """
    right, radii = _columns(correct, radius)
    if right.size == 0:
        return np.full(len(at), np.nan)
    return np.array([np.mean(right & (radii >= r)) for r in at], dtype=np.float64)


def average_certified_radius(correct: ArrayLike, radius: ArrayLike) -> float:
    """Return the ACR: the mean over *all* inputs of the radius, counted as 0 unless correct.

    Args:
        correct: Whether each prediction is right, shape (N,); an abstention is not.
        radius: Certified radius of each input, shape (N,), in input units.

    Returns:
        The ACR in input units; NaN without inputs.

    **Source:** R. Zhai et al., "MACER" (2020), section 5.
    """
    right, radii = _columns(correct, radius)
    return float(np.mean(np.where(right, radii, 0.0))) if right.size else float("nan")


def _columns(
    correct: ArrayLike, radius: ArrayLike
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    right, radii = np.asarray(correct, dtype=bool), np.asarray(radius, dtype=np.float64)
    if right.shape != radii.shape or right.ndim != 1:
        raise ValueError("correct and radius must be two columns of the same length")
    return right, radii
