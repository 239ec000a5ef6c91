"""A model evaluated in one declared batch shape, so that batch-mates cannot change a last bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from deqcert.models.base import ImplicitModel


@dataclass(frozen=True, slots=True)
class ShapedModel:
    """Evaluate every function of a model on exactly ``rows`` rows, padded with zeros.

    Library convolutions and matrix products may pick another algorithm, and so round differently,
    for another number of rows. With one declared number the result of a row is the same in any
    batch.

    Args:
        model: The model.
        rows: Rows of every evaluation, at least 1.
    """

    model: ImplicitModel
    rows: int

    def inject(self, x: Tensor) -> Tensor:
        """Return the injections of inputs (b, C, H, W)."""
        return self.apply(self.model.inject, x)

    def initial_state(self, injection: Tensor) -> Tensor:
        """Return the cold start states, shape (b, D)."""
        return self.apply(self.model.initial_state, injection)

    def cell(self, z: Tensor, injection: Tensor) -> Tensor:
        """Evaluate the cell, from (b, D) to (b, D)."""
        return self.apply(self.model.cell, z, injection)

    def readout(self, z: Tensor) -> Tensor:
        """Return the logits, shape (b, K)."""
        return self.apply(self.model.readout, z)

    def apply(self, function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        """Evaluate a function of rows, each tensor (b, ...), in the declared shape."""
        total = len(tensors[0])
        parts = []
        for first in range(0, total, self.rows):
            chunk = [tensor[first : first + self.rows] for tensor in tensors]
            kept = len(chunk[0])
            if kept < self.rows:
                chunk = [_pad(tensor, self.rows) for tensor in chunk]
            parts.append(function(*chunk)[:kept])
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def _pad(tensor: Tensor, rows: int) -> Tensor:
    padded = tensor.new_zeros((rows, *tensor.shape[1:]))
    padded[: len(tensor)] = tensor
    return padded
