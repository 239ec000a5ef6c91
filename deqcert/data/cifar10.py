"""CIFAR-10 as its authors offer it: the binary version, and the python version without trust.

The python version is a pickle, which could run anything when loaded. It is read here with an
unpickler that knows the three names which those files need and maps them to inert stand-ins.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deqcert.data.base import ArrayDataset, Dataset, Loader, read_bytes
from deqcert.errors import DataError

CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
PIXELS = 3 * 32 * 32
ADVICE = "unpack the official archive again."
_FOLDERS = ("", "cifar-10-batches-bin", "cifar-10-batches-py")


def load(name: str, place: str, split: str) -> Dataset:
    """Load CIFAR-10 from the folder of its batches, or the folder above it.

    Raises:
        DataError: If a file is missing or damaged.
    """
    stems = ["test_batch"] if split == "test" else [f"data_batch_{i}" for i in range(1, 6)]
    for folder in (Path(place) / inner for inner in _FOLDERS):
        for ending, read in ((".bin", _read_binary), ("", _read_python)):
            if (folder / (stems[0] + ending)).is_file():
                parts = [read(folder / (stem + ending)) for stem in stems]
                x = np.concatenate([pixels for pixels, _ in parts]).reshape(-1, 3, 32, 32)
                y = np.concatenate([labels for _, labels in parts]).astype(np.int64)
                return ArrayDataset(name, CLASSES, x, y, folder)
    raise DataError(
        f"{place} has no {stems[0]}.bin or {stems[0]}; unpack cifar-10-binary.tar.gz or "
        "cifar-10-python.tar.gz there."
    )


LOADER = Loader(load, "DIR", published=True)


def _read_binary(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    content = np.frombuffer(read_bytes(path, ADVICE), dtype=np.uint8)
    if content.size == 0 or content.size % (PIXELS + 1):
        raise DataError(
            f"{path} has {content.size} bytes, not whole records of {PIXELS + 1}; {ADVICE}"
        )
    records = content.reshape(-1, PIXELS + 1)
    return records[:, 1:], records[:, 0]


def _read_python(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    try:
        content = _Unpickler(io.BytesIO(read_bytes(path, ADVICE)), encoding="bytes").load()
    except DataError as error:
        raise DataError(f"{path} {error}; {ADVICE}") from None
    except Exception:  # a damaged pickle raises nearly anything
        raise DataError(f"{path} is not a whole CIFAR-10 batch; {ADVICE}") from None
    try:
        pixels = content[b"data"].array()
        labels = np.array(content[b"labels"], dtype=np.uint8)
        if pixels.shape != (len(labels), PIXELS):
            raise ValueError
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise DataError(f"{path} has not the content of a CIFAR-10 batch; {ADVICE}") from None
    return pixels, labels


class _Array:
    """What stands in for an array while unpickling: it keeps the state, and runs nothing."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def array(self) -> NDArray[np.uint8]:
        """Build the array from the state: version, shape, type, Fortran order, bytes."""
        _, shape, kind, fortran, content = self.state
        if kind.name not in (b"u1", "u1") or fortran or len(shape) != 2:
            raise ValueError
        return np.frombuffer(content, dtype=np.uint8).reshape(shape)


class _Type:
    """What stands in for an array's type."""

    def __init__(self, name: Any, *_: Any) -> None:
        self.name = name

    def __setstate__(self, state: Any) -> None:
        pass


def _reconstruct(*_: Any) -> _Array:
    return _Array()


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return _reconstruct
        if module == "numpy" and name == "ndarray":
            return None
        if module == "numpy" and name == "dtype":
            return _Type
        raise DataError(f"asks for {module}.{name}, which no CIFAR-10 batch needs and is not run")
