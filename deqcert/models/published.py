"""Configurations of published checkpoints that come without one: read off the weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from deqcert.errors import CheckpointError, ConfigError
from deqcert.models.base import ModelConfig
from deqcert.models.monotone import PREFIX, MonotoneConfig
from deqcert.models.monotone_conv import MonotoneConvConfig
from deqcert.models.normalize import MNIST_STATISTICS

_MONOTONE_IN_NAME = re.compile(r"(?:^|[_-])m=?(\d+(?:\.\d+)?)(?=\.[a-z]|_|-|$)")
"""Published files say m in their names alone: mon_h40_m20.0.pt, deq_MNIST_SingleFcNet_m=20.mat."""

CIFAR10_OTHER = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
"""Mean and deviation of the channels of CIFAR-10 as these networks were trained with."""

_INPUTS = {784: (1, (28, 28), MNIST_STATISTICS), 3072: (3, (32, 32), CIFAR10_OTHER)}
"""Channels, size and normalisation of the images that such networks are published for."""


SIZES = {1: 784, 3: 1024}
"""Pixels of an image by its channels, where U is a convolution and does not tell."""

PUBLISHED_NAMES = (
    *(f"{PREFIX}{name}" for name in ("U.weight", "U.bias", "A.weight", "B.weight", "g", "h")),
    "Wout.weight",
    "Wout.bias",
)
"""What such networks call their weights."""


def published_config(
    path: Path, weights: Mapping[str, Tensor], given: Mapping[str, float]
) -> ModelConfig | None:
    """Return the configuration of a published monotone network; None of anything else.

    Args:
        path: The file, whose name may say m.
        weights: What it holds, with the names of :class:`deqcert.models.MonotoneDEQ`.
        given: What the user says of it: ``m``, which comes before the file's name.

    Raises:
        ConfigError: If m is neither given nor in the name, or something else is given.
        CheckpointError: If the weights are not those of a network for 28x28 grey or 32x32 coloured
            images.
    """
    entering = weights.get(PREFIX + "U.weight")
    if entering is None:
        return None
    if entering.dim() not in (2, 4):
        raise CheckpointError(f"checkpoint {path} has U of shape {tuple(entering.shape)}.")
    said = _MONOTONE_IN_NAME.search(path.name)
    if "m" not in given and said is None:
        raise ConfigError(
            f"checkpoint {path} is a monotone network, whose m is not among its weights; add "
            "--model-config m=20 (with its own m), or name the file so that it ends in _m20.0"
            f"{path.suffix}"
        )
    m = float(given["m"]) if "m" in given else float(said[1])  # type: ignore[index]
    readout = weights.get("Wout.weight")
    features, classes = (0, 10) if readout is None or readout.dim() != 2 else readout.shape[::-1]
    dense = entering.dim() == 2
    inputs = entering.shape[1] if dense else entering.shape[1] * SIZES.get(entering.shape[1], 0)
    if inputs not in _INPUTS:
        raise CheckpointError(
            f"checkpoint {path} has U of shape {tuple(entering.shape)}, but without a YAML "
            "configuration only networks for 28x28 grey or 32x32 coloured images are read."
        )
    channels, size, (mean, std) = _INPUTS[inputs]
    common: dict[str, Any] = {
        "width": entering.shape[0],
        "monotone": m,
        "num_classes": classes,
        "image_size": size,
        "input_channels": channels,
        "mean": mean,
        "std": std,
    }
    if dense:
        return MonotoneConfig(**common)
    kernel = entering.shape[2]
    for stride in range(1, kernel + 1):  # of which only the readout tells
        config = MonotoneConvConfig(**common, kernel=kernel, stride=stride)
        if config.features == features:
            return config
    raise CheckpointError(
        f"checkpoint {path} has a readout of {features} features, which no stride of its "
        f"{kernel}x{kernel} kernel gives for {size[0]}x{size[1]} images; give a YAML configuration."
    )
