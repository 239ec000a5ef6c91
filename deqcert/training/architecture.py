"""What is trained: a named architecture, a configuration or a checkpoint, fitted to the images."""

from __future__ import annotations

import dataclasses

import numpy as np

from deqcert.data import Dataset
from deqcert.errors import ConfigError
from deqcert.models import ARCHITECTURES, ModelConfig, TrainableModel, load_model, read_config
from deqcert.models.headed import HeadedModel
from deqcert.models.skeleton import refuse_too_large
from deqcert.training.config import TrainConfig

STATISTICS_FROM = 10_000
"""Images that the normalisation of a new data set is computed from."""


def initial_model(config: TrainConfig, data: Dataset) -> TrainableModel:
    """Build the model that the training begins with, on the CPU, in training mode.

    It has random weights, drawn from torch's own generator, or those of ``config.init``; a
    checkpoint of other classes keeps all but its last layer.

    Raises:
        CheckpointError: If the checkpoint cannot be read.
        ConfigError: If images and configuration do not fit.
    """
    if config.init is None:
        chosen = fitted(config, data)
        refuse_too_large(chosen)
        return chosen.build().train()
    given = load_model(config.init, config.model_config)
    if isinstance(given, HeadedModel):
        raise ConfigError(
            f"checkpoint {config.init} has a fitted head, which is not trained; begin with the "
            "model that it was fitted to."
        )
    if given.input_shape != data.shape:
        raise ConfigError(
            f"checkpoint {config.init} takes images of {given.input_shape}, but those of "
            f"{data.name} have {data.shape} (channels, height, width); begin with another one."
        )
    if given.num_classes == len(data.classes):
        return given.train()
    model = dataclasses.replace(given.config, num_classes=len(data.classes)).build()
    own, known = model.state_dict(), given.state_dict()
    model.load_state_dict(
        {key: known[key] if known[key].shape == own[key].shape else own[key] for key in own}
    )
    return model.train()


def fitted(config: TrainConfig, data: Dataset) -> ModelConfig:
    """Fit the named architecture to the data, or check that the given configuration fits."""
    channels, height, width = data.shape
    if config.model_config is not None:
        fixed = read_config(config.model_config)
        if (fixed.input_channels, *fixed.image_size) != data.shape:
            raise ConfigError(
                f"configuration {config.model_config} takes images of "
                f"{(fixed.input_channels, *fixed.image_size)}, but those of {data.name} have "
                f"{data.shape} (channels, height, width); correct IMAGE_SIZE and INPUT."
            )
        if fixed.num_classes != len(data.classes):
            raise ConfigError(
                f"configuration {config.model_config} has {fixed.num_classes} classes, but "
                f"{data.name} has {len(data.classes)}; correct NUM_CLASSES."
            )
        return fixed
    start = ARCHITECTURES.get(config.architecture)
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
