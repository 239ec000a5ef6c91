"""Images of another data set, brought into a model's shape by a stated rule."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deqcert.data import Dataset, load_dataset
from deqcert.errors import DataError
from deqcert.evaluation.config import spread
from deqcert.evaluation.subject import Foreign

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in a grey value (ITU-R BT.601)."""


def load_foreign(spec: str, shape: tuple[int, ...], most: int, own: Dataset) -> Foreign:
    """Load the test images of a data set for a model that was made for another.

    Args:
        spec: Name and place, as :func:`deqcert.data.load_dataset` takes it.
        shape: Channels, height and width that the model takes.
        most: How many images at most, spread evenly.
        own: The data set that the model is for.

    Raises:
        DataError: If it cannot be used, is the model's own, or the model takes no pictures.
    """
    dataset = load_dataset(spec)
    if dataset.hash() == own.hash():
        raise DataError(f"{spec} is the data set itself; give another one with --ood.")
    chosen = spread(range(len(dataset)), most)
    if len(chosen) < 2:
        raise DataError(f"{spec} has one image; give two or more to tell sets apart.")
    first = dataset.image(chosen[0])
    if first.shape != tuple(shape) and (len(shape) != 3 or shape[0] not in (1, 3)):
        raise DataError(
            f"the images of {spec} are {_size(first.shape)}, but the model takes "
            f"{_size(tuple(shape))}, which is no picture that they could be made into; give data "
            "of that shape with --ood."
        )
    images = np.stack([fit(dataset.image(index), shape) for index in chosen])
    return Foreign(
        images,
        np.array(chosen, dtype=np.int64),
        "" if first.shape == tuple(shape) else _changes(first.shape, shape),
        dataset.hash(),
    )


def fit(image: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Bring an image into a shape: grey values repeated, colours weighed by ITU-R BT.601.

    Height and width change by bilinear interpolation of the whole image, smoothed where it gets
    smaller; proportions are not kept.

    Args:
        image: Shape (C, H, W), one channel or three.
        shape: Channels (one or three), height and width.
    """
    from PIL import Image

    if image.shape == tuple(shape):
        return image
    if image.shape[0] == 3 and shape[0] == 1:
        image = np.tensordot(np.array(LUMA, dtype=np.float32), image, axes=1)[None]
    size = (shape[2], shape[1])
    channels = [
        np.asarray(Image.fromarray(channel).resize(size, Image.Resampling.BILINEAR))
        for channel in image
    ]
    found = np.clip(np.stack(channels), 0.0, 1.0).astype(np.float32)
    return np.repeat(found, 3, axis=0) if len(found) == 1 and shape[0] == 3 else found


def _changes(was: tuple[int, ...], shape: tuple[int, ...]) -> str:
    words = []
    if was[0] != shape[0]:
        words.append("grey values repeated" if was[0] == 1 else "made grey (ITU-R BT.601)")
    if was[1:] != tuple(shape[1:]):
        words.append(f"resized from {_size(was[1:])} to {_size(shape[1:])} (bilinear)")
    return ", ".join(words)


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
