"""Which architectures there are: configurations by name or from YAML, and the model of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from deqcert.errors import ConfigError
from deqcert.models.base import IMAGENET_STATISTICS
from deqcert.models.config import MDEQConfig
from deqcert.models.contractive import ContractiveConfig, ContractiveDEQ
from deqcert.models.mdeq import MDEQ

Config = MDEQConfig | ContractiveConfig
"""What says how a model is built."""

Model = MDEQ | ContractiveDEQ
"""What can be trained, saved and loaded by name."""

_SMALL = MDEQConfig(
    channels=(8, 16, 32),
    head_channels=(7, 14, 28),
    final_channels=200,
    post_affine=False,
    dropout=0.2,
)
_PRESETS: dict[str, Config] = {
    "tiny": MDEQConfig(
        channels=(16, 32),
        head_channels=(8, 16),
        final_channels=128,
        image_size=(8, 8),
        input_channels=1,
        mean=(0.305,),
        std=(0.376,),
        num_groups=4,
        expansion_factor=2,
        downsample_times=1,
        post_affine=False,
        num_layers=6,
    ),
    "small": _SMALL,
    "large": replace(
        _SMALL,
        channels=(32, 64, 128, 256),
        head_channels=(14, 28, 56, 112),
        final_channels=1680,
        num_blocks=(),
        big_kernels=(),
        dropout=0.3,
        num_layers=10,
    ),
    "imagenet-small": MDEQConfig(
        channels=(32, 64, 128, 256),
        head_channels=(24, 48, 96, 192),
        final_channels=2048,
        num_classes=1000,
        image_size=(224, 224),
        mean=IMAGENET_STATISTICS[0],
        std=IMAGENET_STATISTICS[1],
        downsample_times=2,
        num_layers=5,
    ),
    "contractive": ContractiveConfig(),
}


def preset_names() -> tuple[str, ...]:
    """Return the names that :func:`preset` knows."""
    return tuple(_PRESETS)


def preset(name: str) -> Config:
    """Return a configuration by name.

    ``tiny`` is for 8x8 grey digits, ``small`` and ``large`` are those of the literature for
    CIFAR-10, ``imagenet-small`` is the public SMALL for ImageNet. ``contractive`` is the model of
    :mod:`deqcert.models.contractive`, for 8x8 grey digits.

    Raises:
        ConfigError: If there is no preset of that name.
    """
    if name not in _PRESETS:
        raise ConfigError(f"there is no preset '{name}'; there are {', '.join(_PRESETS)}.")
    return _PRESETS[name]


def read_config(path: str | Path) -> Config:
    """Read a YAML configuration; ``MODEL.NAME`` says of which architecture.

    Raises:
        ConfigError: If the file is missing or is not the configuration of a known architecture.
    """
    data = _peek(path)
    if data is None:
        return MDEQConfig.from_yaml(path)
    try:
        return ContractiveConfig.from_mapping(data)
    except (ConfigError, TypeError, ValueError) as error:
        text = str(error) if isinstance(error, ConfigError) else "a value has the wrong type."
        raise ConfigError(f"configuration {path}: {text}") from None


def build_model(config: Config) -> Model:
    """Build the model of a configuration, with random weights, in training mode."""
    return MDEQ(config) if isinstance(config, MDEQConfig) else ContractiveDEQ(config)


def _peek(path: str | Path) -> Mapping[str, Any] | None:
    """Return the content of a contractive model's file; None for any other, readable or not."""
    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None
    model = data.get("MODEL") if isinstance(data, Mapping) else None
    named = isinstance(model, Mapping) and model.get("NAME") == "contractive"
    return data if named else None
