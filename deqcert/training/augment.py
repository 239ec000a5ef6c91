"""What is done to training images before the noise."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Augmentation = Callable[[Tensor, torch.Generator], Tensor]


def nothing(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return the images, shape (B, C, H, W), as they are."""
    return x


def shift(x: Tensor, generator: torch.Generator) -> Tensor:
    """Move every image by up to one pixel in each direction, zeros coming in."""
    return _crop(x, 1, generator)


def crop_flip(x: Tensor, generator: torch.Generator) -> Tensor:
    """Pad by an eighth, crop at random, and mirror half of the images left to right."""
    x = _crop(x, max(1, x.shape[2] // 8), generator)
    mirrored = torch.rand(len(x), generator=generator) < 0.5
    return torch.where(mirrored.to(x.device)[:, None, None, None], x.flip(3), x)


_AUGMENTATIONS: dict[str, Augmentation] = {
    "none": nothing,
    "shift": shift,
    "crop-flip": crop_flip,
}


def augmentation_names() -> tuple[str, ...]:
    """Return the names that :func:`get_augmentation` knows."""
    return ("auto", *_AUGMENTATIONS)


def get_augmentation(name: str, channels: int) -> Augmentation:
    """Return an augmentation by name; "auto" shifts grey images and crops and flips others."""
    if name == "auto":
        name = "shift" if channels == 1 else "crop-flip"
    return _AUGMENTATIONS[name]


def _crop(x: Tensor, margin: int, generator: torch.Generator) -> Tensor:
    rows, _, height, width = x.shape
    padded = F.pad(x, (margin,) * 4)
    offsets = torch.randint(0, 2 * margin + 1, (2, rows, 1), generator=generator)
    down, right = (offsets + torch.arange(size) for size in (height, width))
    row = torch.arange(rows)[:, None, None]
    return padded[row, :, down[0][:, :, None], right[1][:, None, :]].permute(0, 3, 1, 2)
