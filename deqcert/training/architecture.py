"""Which model is trained: a preset or a given configuration, fitted to the images."""

from __future__ import annotations

import dataclasses

import numpy as np

from deqcert.data import Dataset
from deqcert.errors import ConfigError
from deqcert.models import Config, preset, read_config
from deqcert.training.config import TrainConfig

STATISTICS_FROM = 10_000
"""Images that the normalisation of a new data set is computed from."""


def architecture(config: TrainConfig, data: Dataset) -> Config:
    """Fit the preset to the data, or check that the given configuration fits."""
    channels, height, width = data.shape
    if config.model is not None:
        fixed = read_config(config.model)
        if (fixed.input_channels, *fixed.image_size) != data.shape:
            raise ConfigError(
                f"configuration {config.model} takes images of "
                f"{(fixed.input_channels, *fixed.image_size)}, but those of {data.name} have "
                f"{data.shape} (channels, height, width); correct IMAGE_SIZE and INPUT."
            )
        if fixed.num_classes != len(data.classes):
            raise ConfigError(
                f"configuration {config.model} has {fixed.num_classes} classes, but {data.name} "
                f"has {len(data.classes)}; correct NUM_CLASSES."
            )
        return fixed
    start = preset(config.preset)
    if (start.input_channels, *start.image_size) == data.shape:
        return dataclasses.replace(start, num_classes=len(data.classes))
    x = data.batch(np.arange(0, len(data), max(1, len(data) // STATISTICS_FROM)))
    mean, std = (tuple(float(round(v, 4)) for v in f(x, axis=(0, 2, 3))) for f in (np.mean, np.std))
    return dataclasses.replace(
        start,
        num_classes=len(data.classes),
        image_size=(height, width),
        input_channels=channels,
        mean=mean,
        std=std,
    )
