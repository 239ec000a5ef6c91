"""What every data set offers: images in [0, 1] in a fixed order, labels, and a hash."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deqcert.errors import DataError
from deqcert.files import read_regular


class Dataset(ABC):
    """Images and labels in an order that never changes; every pixel is in [0, 1].

    Args:
        name: What the user asked for, such as "cifar10:DIR".
        classes: Name of each class, in label order.
        shape: Channels, height and width of every image.
        levels: L if every pixel is one of 0, 1/L, ..., 1 (rounded to float32), such as 255 for
            8-bit images; None if pixels can be anything in [0, 1].
    """

    def __init__(
        self,
        name: str,
        classes: Sequence[str],
        shape: tuple[int, int, int],
        levels: int | None = None,
    ) -> None:
        self.name = name
        self.classes = list(classes)
        self.shape = shape
        self.levels = levels

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of images."""

    @abstractmethod
    def image(self, index: int) -> NDArray[np.float32]:
        """Return an image, shape (C, H, W), in [0, 1].

        Raises:
            DataError: If there is no such image or it cannot be read.
        """

    @abstractmethod
    def label(self, index: int) -> int:
        """Return the label of an image, from 0 to below the number of classes.

        Raises:
            DataError: If there is no such image.
        """

    @abstractmethod
    def hash(self) -> str:
        """Return a SHA-256, in hexadecimal, of what the set consists of."""

    def batch(self, indices: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float32]:
        """Return several images, shape (n, C, H, W)."""
        return np.stack([self.image(int(index)) for index in indices])

    def labels(self) -> NDArray[np.int64]:
        """Return all labels, shape (N,)."""
        return np.array([self.label(index) for index in range(len(self))], dtype=np.int64)

    def _check_index(self, index: int) -> None:
        if not 0 <= index < len(self):
            raise DataError(f"{self.name} has no image {index}; it has 0 to {len(self) - 1}.")


class ArrayDataset(Dataset):
    """A data set that is one array in memory.

    Args:
        name: What the user asked for.
        classes: Name of each class, in label order.
        x: Images, shape (N, C, H, W); uint8, or float32 in [0, 1].
        y: Labels, shape (N,), integers.
        source: What to blame in errors.
        levels: Grid of float pixels, if they are on one; that of uint8 pixels is 255.

    Raises:
        DataError: If images and labels do not fit together or a label has no class.
    """

    def __init__(
        self,
        name: str,
        classes: Sequence[str],
        x: NDArray[np.uint8] | NDArray[np.float32],
        y: NDArray[np.int64],
        source: str | Path,
        levels: int | None = None,
    ) -> None:
        if len(x) != len(y) or len(x) == 0:
            raise DataError(
                f"{source} has {len(x)} images and {len(y)} labels; it needs one label per image, "
                "and at least one image."
            )
        if y.min() < 0 or y.max() >= len(classes):
            raise DataError(
                f"{source} has a label outside the {len(classes)} classes; labels are 0 to "
                f"{len(classes) - 1}."
            )
        levels = BYTES if x.dtype == np.uint8 else levels
        super().__init__(name, classes, (x.shape[1], x.shape[2], x.shape[3]), levels)
        self._x, self._y = x, y.astype(np.int64)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._x)

    def image(self, index: int) -> NDArray[np.float32]:
        """Return an image, shape (C, H, W), in [0, 1]."""
        self._check_index(index)
        return to_unit(self._x[index])

    def label(self, index: int) -> int:
        """Return the label of an image."""
        self._check_index(index)
        return int(self._y[index])

    def hash(self) -> str:
        """Return a SHA-256 of shape, type, pixels and labels."""
        digest = hashlib.sha256(f"{self._x.dtype} {self._x.shape}".encode())
        digest.update(np.ascontiguousarray(self._x).data)
        digest.update(self._y.astype("<i8").tobytes())
        return digest.hexdigest()

    def batch(self, indices: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float32]:
        """Return several images, shape (n, C, H, W)."""
        return to_unit(self._x[np.asarray(indices, dtype=np.int64)])

    def labels(self) -> NDArray[np.int64]:
        """Return all labels, shape (N,)."""
        return self._y.copy()


@dataclass(frozen=True)
class Loader:
    """How one format is read.

    Attributes:
        load: Is called with what the user wrote ("mnist:DIR"), the place in it ("DIR", or "" where
            none is given) and the split ("train" or "test").
        place: What stands after the name and a colon, in capitals, such as "DIR" or "FILE"; "" if
            the data need no place.
        needs: Module that reading takes besides NumPy, such as "PIL"; "" for none.
        published: Whether the images are a published set, which was there before any seed.
    """

    load: Callable[[str, str, str], Dataset]
    place: str = ""
    needs: str = ""
    published: bool = False


BYTES = 255
"""Steps of the grid of 8-bit pixels."""


def to_unit(pixels: NDArray[np.uint8] | NDArray[np.float32]) -> NDArray[np.float32]:
    """Bring pixels to float32 in [0, 1]; float pixels are there already."""
    if pixels.dtype == np.uint8:
        return pixels.astype(np.float32) / np.float32(BYTES)
    return pixels.astype(np.float32)


def read_bytes(path: Path, advice: str) -> bytes:
    """Read a whole file.

    Raises:
        DataError: If it cannot be read; the sentence ends with the advice.
    """
    try:
        return read_regular(path)
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror}); {advice}") from None
