"""Data sets by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from deqcert.errors import DataError
from deqcert.registry import Registry

if TYPE_CHECKING:
    from deqcert.data.base import Dataset, Loader

LOADERS: Registry[Loader] = Registry(
    "data set",
    {
        "digits": "deqcert.data.digits:LOADER",
        "mnist": "deqcert.data.mnist:LOADER",
        "cifar10": "deqcert.data.cifar10:LOADER",
        "folder": "deqcert.data.folder:LOADER",
        "imagenet": "deqcert.data.folder:IMAGENET",
        "tiny-imagenet": "deqcert.data.tiny_imagenet:LOADER",
        "npz": "deqcert.data.npz:LOADER",
    },
    plural="data",
    error=DataError,
)


def dataset_names() -> tuple[str, ...]:
    """Return what :func:`load_dataset` takes, places in capitals, such as "mnist:DIR"."""
    places = {name: LOADERS.get(name).place for name in LOADERS}
    return tuple(f"{name}:{place}" if place else name for name, place in places.items())


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
    loader = LOADERS.get(name)
    if loader.place and not place:
        raise DataError(f"data set '{name}' needs a place; write {name}:{loader.place}.")
    return loader.load(spec, place, split)
