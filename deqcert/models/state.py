"""One flat row for several feature maps: how a multiscale state is laid out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class StateLayout:
    """The maps of a state, highest resolution first, flattened and concatenated.

    Args:
        shapes: Shape (C, H, W) of each map.
    """

    shapes: tuple[tuple[int, int, int], ...]

    @staticmethod
    def pyramid(channels: Sequence[int], height: int, width: int) -> StateLayout:
        """Lay out maps whose height and width halve from one to the next."""
        return StateLayout(
            tuple((c, height >> level, width >> level) for level, c in enumerate(channels))
        )

    @property
    def size(self) -> int:
        """Elements of one state."""
        return sum(math.prod(shape) for shape in self.shapes)

    def pack(self, maps: Sequence[Tensor]) -> Tensor:
        """Join maps of shapes (B, C, H, W) into states, shape (B, D)."""
        return torch.cat([entry.flatten(1) for entry in maps], dim=1)

    def unpack(self, z: Tensor) -> list[Tensor]:
        """Split states, shape (B, D), into views of shapes (B, C, H, W)."""
        sizes = [math.prod(shape) for shape in self.shapes]
        return [
            part.view(z.shape[0], *shape)
            for part, shape in zip(torch.split(z, sizes, dim=1), self.shapes, strict=True)
        ]
