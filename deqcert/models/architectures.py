"""Which models can be trained: configurations by name, and by the word in their YAML files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deqcert.errors import ConfigError
from deqcert.models.reading import parse, read_yaml
from deqcert.registry import Registry

if TYPE_CHECKING:
    from deqcert.models.base import ModelConfig

ARCHITECTURES: Registry[ModelConfig] = Registry(
    "architecture",
    {
        "tiny": "deqcert.models.mdeq_sizes:TINY",
        "small": "deqcert.models.mdeq_sizes:SMALL",
        "large": "deqcert.models.mdeq_sizes:LARGE",
        "imagenet-small": "deqcert.models.mdeq_sizes:IMAGENET_SMALL",
        "contractive": "deqcert.models.contractive:CONTRACTIVE",
        "monotone": "deqcert.models.monotone:MONOTONE",
        "lipschitz-bounded": "deqcert.models.lipschitz_bounded:LIPSCHITZ_BOUNDED",
        "monotone-conv": "deqcert.models.monotone_conv:MONOTONE_CONV",
        "monotone-multi-tier": "deqcert.models.monotone_multi_tier:MONOTONE_MULTI_TIER",
        "lipschitz-conv": "deqcert.models.lipschitz_conv:LIPSCHITZ_CONV",
        "interval": "deqcert.models.interval:INTERVAL",
        "interval-conv": "deqcert.models.interval:INTERVAL_CONV",
    },
)
"""Named configurations. A further model joins with its file and a line here: its YAML files and
checkpoints are read by the class of the configuration that is entered."""

PUBLIC = "mdeq"
"""What a file is that has no ``MODEL.NAME``: the public ones may leave it out."""


def architecture(name: str) -> ModelConfig:
    """Return a configuration by name.

    ``tiny`` is for 8x8 grey digits, ``small`` and ``large`` are those of the literature for
    CIFAR-10, ``imagenet-small`` is the public SMALL for ImageNet. ``contractive``, ``monotone``,
    ``lipschitz-bounded``, ``monotone-conv``, ``monotone-multi-tier`` and ``lipschitz-conv`` are the
    models of the files of :mod:`deqcert.models` of that name, for 8x8 grey digits. ``interval`` and
    ``interval-conv`` are two of :mod:`deqcert.models.interval`, for the same.

    Raises:
        ConfigError: If there is none of that name.
    """
    return ARCHITECTURES.get(name)


def read_config(path: str | Path) -> ModelConfig:
    """Read a YAML configuration; ``MODEL.NAME`` says of which model.

    Raises:
        ConfigError: If the file is missing or is not the configuration of a known model.
    """
    return config_of(read_yaml(path), path)


def config_of(data: Any, path: str | Path) -> ModelConfig:
    """Make a configuration of the content of a YAML file.

    Args:
        data: The content.
        path: What to name in sentences.

    Raises:
        ConfigError: If it is not the configuration of a known model.
    """
    word, words = _word(data), []
    for kind in _kinds():
        if kind.name == word:
            return parse(kind, data, path)
        words.append(kind.name)
    known = ", ".join(dict.fromkeys(words))
    raise ConfigError(f"configuration {path}: MODEL.NAME is '{word}', but there are {known}.")


def _word(data: Any) -> object:
    """Return what kind of model a file is about; what is malformed is left to the public one."""
    model = data.get("MODEL") if isinstance(data, dict) else None
    return model.get("NAME", PUBLIC) if isinstance(model, dict) else PUBLIC


def _kinds() -> Iterator[type[ModelConfig]]:
    from deqcert.models.headed import HeadedConfig

    yield from (type(ARCHITECTURES.get(name)) for name in ARCHITECTURES)
    yield HeadedConfig  # made of another model, not trained
