"""Data sets by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from deqcert.data import cifar10, digits, folder, mnist, npz
from deqcert.data.base import Dataset
from deqcert.errors import DataError

_LOADERS: dict[str, tuple[Callable[[str, str, str], Dataset], str]] = {
    "digits": (digits.load, ""),
    "mnist": (mnist.load, "DIR"),
    "cifar10": (cifar10.load, "DIR"),
    "folder": (folder.load, "DIR"),
    "imagenet": (folder.load_imagenet, "DIR"),
    "npz": (npz.load, "FILE"),
}


def dataset_names() -> tuple[str, ...]:
    """Return what :func:`load_dataset` takes, places in capitals, such as "mnist:DIR"."""
    return tuple(f"{name}:{place}" if place else name for name, (_, place) in _LOADERS.items())


def load_dataset(spec: str, split: Literal["train", "test"] = "test") -> Dataset:
    """Load a data set.

    Args:
        spec: A name and a place, one of :func:`dataset_names`.
        split: "train" or "test".

    Raises:
        DataError: If there is no such format, or the files cannot be used.
    """
    if split not in ("train", "test"):
        raise DataError(f"there is no split '{split}'; there are train and test.")
    name, _, place = spec.partition(":")
    if name not in _LOADERS:
        raise DataError(f"there is no data set '{name}'; write {' or '.join(dataset_names())}.")
    load, kind = _LOADERS[name]
    if kind and not place:
        raise DataError(f"data set '{name}' needs a place; write {name}:{kind}.")
    return load(spec, place, split)
