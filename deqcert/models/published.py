"""Configurations of published checkpoints that come without one: read off the weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from deqcert.errors import CheckpointError, ConfigError
from deqcert.models.base import ModelConfig
from deqcert.models.monotone import PREFIX, MonotoneConfig
from deqcert.models.normalize import CIFAR10_STATISTICS, MNIST_STATISTICS

_MONOTONE_IN_NAME = re.compile(r"(?:^|[_-])m=?(\d+(?:\.\d+)?)(?=\.[a-z]|_|-|$)")
"""Published files say m in their names alone: mon_h40_m20.0.pt, deq_MNIST_SingleFcNet_m=20.mat."""

_INPUTS = {784: (1, (28, 28), MNIST_STATISTICS), 3072: (3, (32, 32), CIFAR10_STATISTICS)}
"""Channels, size and normalisation of the images that such networks are published for."""


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
        CheckpointError: If the weights are not those of a dense network for 28x28 grey or 32x32
            coloured images.
    """
    entering = weights.get(PREFIX + "U.weight")
    if entering is None:
        return None
    if entering.dim() != 2 or entering.shape[1] not in _INPUTS:
        raise CheckpointError(
            f"checkpoint {path} is a monotone network of another kind: U has shape "
            f"{tuple(entering.shape)}, but without a YAML configuration only dense ones for 784 or "
            "3072 inputs are read."
        )
    said = _MONOTONE_IN_NAME.search(path.name)
    if "m" not in given and said is None:
        raise ConfigError(
            f"checkpoint {path} is a monotone network, whose m is not among its weights; add "
            "--model-config m=20 (with its own m), or name the file so that it ends in _m20.0"
            f"{path.suffix}"
        )
    m = float(given["m"]) if "m" in given else float(said[1])  # type: ignore[index]
    channels, size, (mean, std) = _INPUTS[entering.shape[1]]
    readout = weights.get("Wout.weight")
    return MonotoneConfig(
        width=entering.shape[0],
        monotone=m,
        num_classes=10 if readout is None or readout.dim() != 2 else readout.shape[0],
        image_size=size,
        input_channels=channels,
        mean=mean,
        std=std,
    )
