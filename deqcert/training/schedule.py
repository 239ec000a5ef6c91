"""What changes while a training goes on: rate, depth of the unrolling, side of the crops."""

from __future__ import annotations

import math

from deqcert.errors import ConfigError
from deqcert.models import ModelConfig
from deqcert.training.config import TrainConfig


class Schedule:
    """Every setting as a function of the share of the training that is done, from 0 to 1.

    Pre-training is the first ``pretrain`` of it. There the depth grows from ``unroll_from`` to the
    configuration's ``num_layers`` and the side of the images from ``crop_from`` to their own, each
    value for the same share; afterwards both stay.

    Args:
        config: Of the training.
        model: Of the model, already fitted to the images.

    Raises:
        ConfigError: If the model cannot take smaller images, or not from that side on, or if the
            unrolling would begin deeper than it ends.
    """

    def __init__(self, config: TrainConfig, model: ModelConfig) -> None:
        self._config = config
        last = model.num_layers
        if config.unroll_from > last:
            raise ConfigError(
                f"unroll_from is {config.unroll_from}, but the depth that it grows to is {last} "
                "(NUM_LAYERS of the configuration); give at most that, or 0."
            )
        self._depths = list(range(config.unroll_from or last, last + 1))
        self._sides = _sides(config.crop_from, model)

    def rate(self, share: float) -> float:
        """Return the learning rate: a cosine that falls to 0."""
        return self._config.lr * 0.5 * (1.0 + math.cos(math.pi * share))

    def unrolled(self, share: float) -> bool:
        """Return whether this is pre-training."""
        return share < self._config.pretrain

    def depth(self, share: float) -> int:
        """Return how many cell evaluations are unrolled in pre-training."""
        return self._grown(self._depths, share)

    def side(self, share: float) -> int:
        """Return height and width of the crops; 0 where images are taken whole."""
        return self._grown(self._sides, share)

    def _grown(self, values: list[int], share: float) -> int:
        if not self.unrolled(share):
            return values[-1]
        return values[int(share / self._config.pretrain * len(values))]


def _sides(smallest: int, model: ModelConfig) -> list[int]:
    if smallest == 0:
        return [0]
    height, width = model.image_size
    scale = model.scale
    if scale is None or height != width:
        what = "the images are not square" if scale else f"'{model.name}' takes no smaller images"
        raise ConfigError(f"crop_from is {smallest}, but {what}; use crop_from 0.")
    sides = list(range(scale, height + 1, scale))
    if smallest not in sides:
        raise ConfigError(
            f"crop_from is {smallest}, but it must be 0 or one of {', '.join(map(str, sides))}: "
            f"multiples of {scale} up to the images' own side."
        )
    return [*sides[sides.index(smallest) : -1], 0]
