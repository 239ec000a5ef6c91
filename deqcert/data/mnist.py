"""MNIST and its relatives in IDX files, plain or compressed with gzip."""

from __future__ import annotations

import gzip
import io
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deqcert.data.base import ArrayDataset, Dataset, Loader, read_bytes
from deqcert.errors import DataError

ADVICE = "download it again from where MNIST's IDX files are offered."


def load(name: str, place: str, split: str) -> Dataset:
    """Load MNIST from the folder that holds its four IDX files.

    Raises:
        DataError: If a file is missing or damaged.
    """
    stem = "train" if split == "train" else "t10k"
    images = _find(Path(place), f"{stem}-images", "idx3-ubyte")
    labels = _find(Path(place), f"{stem}-labels", "idx1-ubyte")
    x, y = _read(images, 3), _read(labels, 1)
    classes = [str(digit) for digit in range(10)]
    return ArrayDataset(name, classes, x[:, None], y.astype(np.int64), labels)


LOADER = Loader(load, "DIR", published=True)


def _find(folder: Path, stem: str, kind: str) -> Path:
    for name in (f"{stem}-{kind}", f"{stem}.{kind}"):
        for ending in ("", ".gz"):
            if (folder / (name + ending)).is_file():
                return folder / (name + ending)
    raise DataError(f"{folder} has no {stem}-{kind} or {stem}-{kind}.gz; give the folder with it.")


def _read(path: Path, dimensions: int) -> NDArray[np.uint8]:
    header = 4 + 4 * dimensions
    # The magic number: two zeros, the type (8: unsigned bytes), the number of dimensions.
    magic = bytes((0, 0, 8, dimensions))
    content = _content(path, header)
    if content[:4] != magic or len(content) < header:
        raise DataError(f"{path} is not an IDX file of {dimensions} dimensions; {ADVICE}")
    shape = struct.unpack_from(f">{dimensions}I", content, 4)
    if 0 in shape:
        raise DataError(f"{path} holds no images; {ADVICE}")
    whole = header + math.prod(shape)
    content = _content(path, whole + 1)
    if len(content) != whole:
        raise DataError(f"{path} has not as many bytes as its header promises; {ADVICE}")
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape)


def _content(path: Path, most: int) -> bytes:
    """Read as many bytes of the content as asked for, or all where there are fewer."""
    content = read_bytes(path, ADVICE)
    if path.suffix != ".gz":
        return content[:most]
    try:
        with gzip.open(io.BytesIO(content)) as file:
            # Deflate makes at most 1032 bytes of one: no header makes this ask for more memory.
            return file.read(min(most, 1032 * len(content)))
    except (OSError, EOFError, zlib.error):
        raise DataError(f"{path} is not a whole gzip file; {ADVICE}") from None
