"""The 8x8 digits that come with scikit-learn: the data set that needs no download."""

from __future__ import annotations

import numpy as np

from deqcert.data.base import ArrayDataset, Dataset, Loader
from deqcert.errors import DataError

LEVELS = 16
"""Grey levels of a pixel above black."""

TEST = 360
"""The last images are the test set; they were written by other people than the first."""


def load(name: str, place: str, split: str) -> Dataset:
    """Load the digits: 1437 for training and the last 360 for testing, pixels / 16.

    Raises:
        DataError: If a place is given, or scikit-learn is not installed.
    """
    if place:
        raise DataError("the digits come with the package; write 'digits' without a place.")
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise DataError("the digits need scikit-learn; install scikit-learn.") from None
    data = load_digits()
    x = (data.images / LEVELS).astype(np.float32)[:, None]
    y = data.target.astype(np.int64)
    part = slice(-TEST, None) if split == "test" else slice(None, -TEST)
    classes = [str(digit) for digit in range(10)]
    return ArrayDataset(name, classes, x[part], y[part], "digits", LEVELS)


LOADER = Loader(load, needs="sklearn", published=True)
