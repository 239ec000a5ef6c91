"""Images and labels in one NumPy archive, for everything that has no loader of its own."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deqcert.data.base import ArrayDataset, Dataset, Loader
from deqcert.errors import DataError
from deqcert.files import open_regular

_DAMAGE = (zipfile.BadZipFile, zlib.error, RuntimeError, SyntaxError)
"""What Python's reader of archives raises on damaged, encrypted or unknown content."""


def load(name: str, place: str, split: str) -> Dataset:
    """Load ``x`` and ``y`` of an .npz file; the file is one split, whichever is asked for.

    ``x`` has shape (N, C, H, W) or (N, H, W), uint8 or float in [0, 1]; ``y`` has shape (N,),
    integers; optional ``classes`` has the name of each class. Other arrays are not read.

    Raises:
        DataError: If the file is missing or its arrays are not of that form.
    """
    path = Path(place)
    arrays = read_arrays(path, ("x", "y"), optional=("classes",))
    x, y = arrays["x"], arrays["y"]
    classes = [str(c) for c in arrays["classes"]] if "classes" in arrays else None
    x = _images(x, path)
    if y.ndim != 1 or not np.issubdtype(y.dtype, np.integer):
        raise DataError(
            f"{path} has y of shape {y.shape} {y.dtype}; it needs integers, shape (N,)."
        )
    if classes is None:
        classes = [str(label) for label in range(int(y.max(initial=0)) + 1)]
    return ArrayDataset(name, classes, x, y, path)


LOADER = Loader(load, "FILE")


def read_arrays(
    path: Path, names: Sequence[str], optional: Sequence[str] = ()
) -> dict[str, NDArray[Any]]:
    """Read arrays of an .npz file by name.

    Args:
        path: The file.
        names: Those that must be there.
        optional: Those that may be.

    Raises:
        DataError: If the file is missing, lacks one of them, or is no archive of plain arrays.
    """
    try:
        with open_regular(path) as opened, np.load(opened, allow_pickle=False) as arrays:
            wanted = (*names, *(name for name in optional if name in arrays))
            return {name: np.asarray(arrays[name]) for name in wanted}
    except KeyError:
        example = ", ".join(f"{name}=..." for name in names)
        raise DataError(
            f"{path} lacks {' or '.join(names)}; save it with numpy.savez(FILE, {example})."
        ) from None
    except FileNotFoundError:
        raise DataError(f"there is no file {path}; give the path of an .npz file.") from None
    except (OSError, ValueError, EOFError, MemoryError, AttributeError, TypeError, *_DAMAGE):
        raise DataError(f"{path} is not an .npz file of plain arrays; use numpy.savez.") from None


def _images(x: NDArray[Any], path: Path) -> NDArray[Any]:
    if x.ndim == 3:
        x = x[:, None]
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise DataError(
            f"{path} has x of shape {x.shape}; it needs (N, channels, height, width) with 1 or 3 "
            "channels, or (N, height, width)."
        )
    if x.dtype == np.uint8:
        return x
    if not np.issubdtype(x.dtype, np.floating):
        raise DataError(f"{path} has x of type {x.dtype}; it needs uint8, or floats in [0, 1].")
    if not np.isfinite(x).all():
        raise DataError(f"{path} has pixels that are not finite; they must be in [0, 1].")
    if not ((x >= 0) & (x <= 1)).all():
        raise DataError(f"{path} has pixels outside [0, 1]; divide x by its maximum value first.")
    return x.astype(np.float32)
