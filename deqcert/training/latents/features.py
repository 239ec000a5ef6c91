"""Latents that something else has made, with their classes, from a NumPy archive."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deqcert.data.npz import read_arrays
from deqcert.errors import DataError

MOST = 4096
"""Elements of a latent whose covariance is still estimated and inverted in reasonable time."""


def read_features(path: Path) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Read latents and classes.

    Args:
        path: An .npz file with ``z``, numbers of shape (N, m), and ``y``, classes 0 to K - 1 of
            shape (N,).

    Raises:
        DataError: If the file is missing or its arrays are not of that form.
    """
    found = read_arrays(path, ("z", "y"))
    z, y = found["z"], found["y"]
    if z.ndim != 2 or not 0 < z.shape[1] <= MOST or z.dtype.kind not in "fiu":
        raise DataError(
            f"{path} has z of shape {z.shape} {z.dtype}; it needs numbers, shape (N, m) with m at "
            f"most {MOST}."
        )
    if y.shape != z.shape[:1] or y.dtype.kind not in "iu":
        raise DataError(
            f"{path} has y of shape {y.shape} {y.dtype}; it needs integers, as many as z has rows."
        )
    if not np.isfinite(z).all():
        raise DataError(f"{path} has values of z that are not finite; leave those rows out.")
    if len(y) and not 0 <= int(y.min()) <= int(y.max()) < len(y):
        raise DataError(
            f"{path} has classes from {y.min()} to {y.max()}; number them from 0 without gaps."
        )
    return z.astype(np.float64), y.astype(np.int64)
