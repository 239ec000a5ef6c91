"""The input that noisy copies are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from numpy.typing import ArrayLike

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Input:
    """An input and the number that its noise is drawn by.

    Args:
        x: The input, shape (C, H, W), in [0, 1].
        index: Index of the input in its data set, 0 to 2^32 - 1; inputs with different indices
            never share noise.
    """

    x: ArrayLike | Tensor
    index: int
