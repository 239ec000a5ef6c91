"""Images that a model takes, and those that it refuses."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from deqcert.errors import DataError


def check_shape(x: Tensor, shape: Sequence[int]) -> None:
    """Refuse images of another shape than a model's.

    Args:
        x: Images, shape (B, C, H, W).
        shape: Channels, height and width that the model takes.

    Raises:
        DataError: If theirs is another.
    """
    if tuple(x.shape[1:]) != tuple(shape):
        raise DataError(
            f"images of shape {tuple(x.shape)} cannot enter this model, which takes (B, "
            f"{', '.join(map(str, shape))})."
        )
