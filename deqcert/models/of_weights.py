"""What is computed of weights, kept until they change."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class OfWeights(Generic[T]):
    """Something that is computed of weights, again only when one of them has changed."""

    def __init__(self) -> None:
        self._found: tuple[tuple[Tensor, ...], T] | None = None

    def get(self, weights: Iterable[Tensor], make: Callable[[], T]) -> T:
        """Return what belongs to these weights.

        Args:
            weights: All that it depends on.
            make: How it is computed of them.
        """
        now = tuple(weight.detach() for weight in weights)
        # By content: a weight can change in ways that leave neither a version nor an address.
        if self._found is None or not all(map(_same, self._found[0], now)):
            self._found = tuple(weight.clone() for weight in now), make()
        return self._found[1]


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)
