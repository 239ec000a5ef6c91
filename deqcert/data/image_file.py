"""One image in one file: PNG, JPEG and what else Pillow decodes with 8 bits, or a NumPy array."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deqcert.data.base import BYTES, to_unit
from deqcert.errors import DataError
from deqcert.files import open_regular

if TYPE_CHECKING:
    from PIL import Image

ENDINGS = frozenset((".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".webp"))
"""Files in class folders that are taken for images."""

_DEEP = ("I", "F")
"""How the names of Pillow's modes with more than 8 bits begin; its conversion would cut values."""


def read_image(path: str | Path, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Read an image of a given shape, as a folder's images are read.

    Args:
        path: An image file, or an ``.npy`` file with an array of uint8, or of floats in [0, 1],
            of shape (C, H, W), or (H, W) for one channel.
        shape: Channels, height and width that it must have. A colour image is never made grey;
            a grey one fits three channels.

    Returns:
        The image, shape (C, H, W), in [0, 1].

    Raises:
        DataError: If the file cannot be read or has another shape.
    """
    path = Path(path)
    if not os.path.isfile(path):  # pathlib's own raises on names that are too long
        raise DataError(f"there is no file {path}; give an image file or an .npy file.")
    if path.suffix.lower() == ".npy":
        pixels = _read_array(path)
    else:
        pixels = to_pixels(decode(path, grey=shape[0] == 1))
    if pixels.shape != shape:
        raise DataError(
            f"{path} has shape {pixels.shape}, but the model takes {shape} (channels, height, "
            "width); resize or convert it, or give another --model."
        )
    return to_unit(pixels)


def image_levels(path: str | Path) -> int | None:
    """Return the steps of the grid that a file's pixels lie on; None for an array of floats.

    Raises:
        DataError: If it is an ``.npy`` file that cannot be read.
    """
    path = Path(path)
    if path.suffix.lower() != ".npy" or not path.is_file():
        return BYTES
    return BYTES if _read_array(path).dtype == np.uint8 else None


def decode(path: Path, *, grey: bool) -> Image.Image:
    """Decode an image file to RGB, or to grey where that is allowed and the file is grey.

    Raises:
        DataError: If it cannot be read, or has more than 8 bits.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # one sentence or none
            with open_regular(path) as opened, Image.open(opened) as file:
                if not file.mode.startswith(_DEEP):
                    return file.convert("L" if grey and file.mode in ("1", "L") else "RGB")
    except (OSError, SyntaxError, ValueError, MemoryError, Image.DecompressionBombError):
        raise DataError(f"{path} cannot be read as an image; replace or remove it.") from None
    raise DataError(f"{path} has more than 8 bits per channel; save it with 8.")


def to_pixels(image: Image.Image) -> NDArray[np.uint8]:
    """Return the pixels of a decoded image, shape (C, H, W)."""
    pixels = np.asarray(image, dtype=np.uint8)
    return np.ascontiguousarray(np.atleast_3d(pixels).transpose(2, 0, 1))


def _read_array(path: Path) -> NDArray[Any]:
    try:
        with open_regular(path) as opened:
            array = np.load(opened, allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError, MemoryError):
        array = None
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path} is not an array of numbers; save it with numpy.save.")
    if array.dtype != np.uint8 and not np.issubdtype(array.dtype, np.floating):
        raise DataError(f"{path} is of type {array.dtype}; it needs uint8, or floats in [0, 1].")
    if not ((array >= 0) & (array <= (255 if array.dtype == np.uint8 else 1))).all():
        raise DataError(f"{path} has pixels outside [0, 1]; divide by the largest possible value.")
    return array[None] if array.ndim == 2 else array
