"""What is done to training images before the noise."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Augmentation = Callable[[Tensor, torch.Generator], Tensor]
"""Images, shape (B, C, H, W) in [0, 1], and what to draw from, to images of the same shape."""


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


def auto(x: Tensor, generator: torch.Generator) -> Tensor:
    """Shift grey images; crop and mirror others."""
    return shift(x, generator) if x.shape[1] == 1 else crop_flip(x, generator)


def crop(x: Tensor, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Cut a window out of each image, shape (B, C, H, W), at a random place."""
    rows = len(x)
    down, right = (
        torch.randint(0, x.shape[2] - height + 1, (rows, 1), generator=generator),
        torch.randint(0, x.shape[3] - width + 1, (rows, 1), generator=generator),
    )
    down, right = down + torch.arange(height), right + torch.arange(width)
    row = torch.arange(rows)[:, None, None]
    return x[row, :, down[:, :, None], right[:, None, :]].permute(0, 3, 1, 2)


def _crop(x: Tensor, margin: int, generator: torch.Generator) -> Tensor:
    return crop(F.pad(x, (margin,) * 4), x.shape[2], x.shape[3], generator)
