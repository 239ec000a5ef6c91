"""The shape of an MDEQ, read from and written to the public YAML layout.

What is read: ``MODEL`` (every key is known or refused), ``DATASET.DATASET`` (names the
normalisation where the ``INPUT`` section is absent) and ``INPUT``, a section of our own with
``CHANNELS``, ``MEAN`` and ``STD``. The other sections of the public files (:data:`IGNORED`) say how
a model was trained, solved or where its data lay; they do not change what it computes and are
passed over. Any further section is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import yaml

from deqcert.errors import ConfigError
from deqcert.models.normalize import CIFAR10_STATISTICS, IMAGENET_STATISTICS
from deqcert.models.reading import parse, read_yaml

if TYPE_CHECKING:
    from deqcert.models.mdeq import MDEQ

IGNORED = {
    *("AUTO_RESUME", "CUDNN", "DATA_DIR", "DEBUG", "DEQ", "GPUS", "LOG_DIR", "LOSS"),
    *("OUTPUT_DIR", "PERCENT", "PIN_MEMORY", "PRINT_FREQ", "RANK", "TEST", "TRAIN", "WORKERS"),
}
"""Sections of the public YAML files that do not change what a trained model computes."""

LARGEST_SIZE = 2**31 - 1
"""Largest number of channels, pixels and classes."""

_IGNORED_MODEL = {
    *("CONV_INJECTION", "HEATMAP_SIZE", "INIT_WEIGHTS", "NUM_JOINTS", "PRETRAINED", "SIGMA"),
    *("TAG_PER_JOINT", "TARGET_TYPE"),
    *("B_THRES", "F_THRES"),
}
"""Keys of ``MODEL`` that the public code defines and its classifiers never read; the last two say
how deep the code of 2020 solves, as the section ``DEQ`` does in that of 2021."""

_STATISTICS = {"cifar10": CIFAR10_STATISTICS, "imagenet": IMAGENET_STATISTICS}

_MODEL_KEYS = {
    "NUM_CLASSES": "num_classes",
    "NUM_LAYERS": "num_layers",
    "NUM_GROUPS": "num_groups",
    "DROPOUT": "dropout",
    "WNORM": "weight_norm",
    "DOWNSAMPLE_TIMES": "downsample_times",
    "EXPANSION_FACTOR": "expansion_factor",
    "BLOCK_GN_AFFINE": "block_affine",
    "FUSE_GN_AFFINE": "fuse_affine",
    "POST_GN_AFFINE": "post_affine",
}
_PUBLIC_DEFAULTS: dict[str, Any] = {
    "num_classes": 1000,
    "num_layers": 5,
    "num_groups": 4,
    "dropout": 0.0,
    "weight_norm": False,
    "downsample_times": 2,
}
_STAGE_KEYS = {
    "NUM_CHANNELS": "channels",
    "HEAD_CHANNELS": "head_channels",
    "FINAL_CHANSIZE": "final_channels",
    "NUM_BLOCKS": "num_blocks",
    "BIG_KERNELS": "big_kernels",
}
_STAGE_FIXED = {"NUM_MODULES": 1, "BLOCK": "BASIC", "FUSE_METHOD": "SUM"}


@dataclass(frozen=True)
class MDEQConfig:
    """Widths, resolutions and normalisation of an MDEQ.

    Args:
        channels: Channels of the state at each resolution, highest resolution first.
        head_channels: Channels inside the classification head, one for each resolution.
        final_channels: Features before the linear classifier.
        num_classes: Number of classes.
        image_size: Height and width of an input, in pixels.
        input_channels: Channels of an input.
        mean: Mean of each input channel, in [0, 1] units.
        std: Deviation of each input channel, in [0, 1] units.
        num_blocks: Residual blocks at each resolution; all 1 if not given.
        big_kernels: Convolutions of each block (0, 1 or 2) that are 5x5 instead of 3x3; all 0 if
            not given.
        num_groups: Groups of the group normalisations; must be even and divide all channels.
        expansion_factor: Width inside a residual block, as a multiple of its channels.
        downsample_times: How often the stem halves the input.
        weight_norm: Whether the convolutions of the residual blocks are weight-normalised.
        block_affine: Whether the normalisations in the residual blocks have a scale and a shift.
        fuse_affine: The same for those between resolutions.
        post_affine: The same for those after the fusion.
        dropout: Variational dropout rate in the residual blocks, in training only.
        num_layers: Cell evaluations of the unrolled pre-training.

    Raises:
        ConfigError: If the values do not fit together.
    """

    name: ClassVar[str] = "mdeq"

    channels: tuple[int, ...]
    head_channels: tuple[int, ...]
    final_channels: int
    num_classes: int = 10
    image_size: tuple[int, int] = (32, 32)
    input_channels: int = 3
    mean: tuple[float, ...] = CIFAR10_STATISTICS[0]
    std: tuple[float, ...] = CIFAR10_STATISTICS[1]
    num_blocks: tuple[int, ...] = ()
    big_kernels: tuple[int, ...] = ()
    num_groups: int = 8
    expansion_factor: float = 5
    downsample_times: int = 0
    weight_norm: bool = True
    block_affine: bool = True
    fuse_affine: bool = True
    post_affine: bool = True
    dropout: float = 0.0
    num_layers: int = 8

    def __post_init__(self) -> None:
        count = len(self.channels)
        object.__setattr__(self, "num_blocks", self.num_blocks or (1,) * count)
        object.__setattr__(self, "big_kernels", self.big_kernels or (0,) * count)
        _check(self)

    @property
    def scale(self) -> int:
        """Factor between the input's height and that of the lowest resolution.

        Images whose height and width are multiples of it can be taken.
        """
        return int(2 ** (self.downsample_times + len(self.channels) - 1))

    @property
    def state_size(self) -> tuple[int, int]:
        """Height and width of the highest resolution of the state."""
        height, width = self.image_size
        return height >> self.downsample_times, width >> self.downsample_times

    @classmethod
    def from_yaml(cls, path: str | Path) -> MDEQConfig:
        """Read a configuration file in the public YAML layout; see the module's text.

        Raises:
            ConfigError: If the file is missing, is not such a configuration, or has an unknown key.
        """
        return parse(cls, read_yaml(path), path)

    @classmethod
    def from_mapping(cls, data: Mapping[str, Any]) -> MDEQConfig:
        """Read the content of a file in the public YAML layout.

        Raises:
            ConfigError: If it is not such a configuration, or has an unknown key.
        """
        return cls(**_fields(data))

    def build(self) -> MDEQ:
        """Build the model with random weights, in training mode."""
        from deqcert.models.mdeq import MDEQ

        return MDEQ(self)

    def to_yaml(self) -> str:
        """Write the configuration in the layout that :meth:`from_yaml` reads."""
        stage: dict[str, Any] = {"NUM_BRANCHES": len(self.channels), **_STAGE_FIXED}
        stage |= {key: _plain(getattr(self, field)) for key, field in _STAGE_KEYS.items()}
        model: dict[str, Any] = {"NAME": self.name}
        model |= {key: getattr(self, field) for key, field in _MODEL_KEYS.items()}
        model["IMAGE_SIZE"] = [self.image_size[1], self.image_size[0]]
        model["EXTRA"] = {"FULL_STAGE": stage}
        inputs = {
            "CHANNELS": self.input_channels,
            "MEAN": list(self.mean),
            "STD": list(self.std),
        }
        return str(yaml.safe_dump({"MODEL": model, "INPUT": inputs}, sort_keys=False))


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _fields(data: Any) -> dict[str, Any]:
    sections = _mapping(data, "the file")
    _refuse_unknown(sections, {"MODEL", "DATASET", "INPUT"} | IGNORED, "")
    model = _mapping(sections.get("MODEL"), "section MODEL")
    if model.get("NAME", MDEQConfig.name) != MDEQConfig.name:
        raise ConfigError(f"MODEL.NAME is '{model['NAME']}', but an MDEQ's is {MDEQConfig.name}.")
    known = set(_MODEL_KEYS) | _IGNORED_MODEL | {"NAME", "IMAGE_SIZE", "EXTRA"}
    _refuse_unknown(model, known, "MODEL.")
    extra = _mapping(model.get("EXTRA"), "MODEL.EXTRA")
    if "FINAL_CONV_KERNEL" in extra:
        raise ConfigError("this is a model for segmentation, but only classifiers can be used.")
    _refuse_unknown(extra, {"FULL_STAGE"}, "MODEL.EXTRA.")
    stage = _mapping(extra.get("FULL_STAGE"), "MODEL.EXTRA.FULL_STAGE")
    prefix = "MODEL.EXTRA.FULL_STAGE."
    _refuse_unknown(stage, set(_STAGE_KEYS) | set(_STAGE_FIXED) | {"NUM_BRANCHES"}, prefix)
    for key, value in _STAGE_FIXED.items():
        if stage.get(key, value) != value:
            raise ConfigError(f"{prefix}{key} is {stage[key]}, but only {value} is supported.")

    fields = dict(_PUBLIC_DEFAULTS)
    fields |= {_MODEL_KEYS[key]: value for key, value in model.items() if key in _MODEL_KEYS}
    for key, field in _STAGE_KEYS.items():
        if key not in stage:
            if field == "big_kernels":  # the code of 2020 has none
                continue
            raise ConfigError(f"{prefix}{key} is missing; classifiers need it.")
        fields[field] = tuple(stage[key]) if isinstance(stage[key], list) else stage[key]
    if stage.get("NUM_BRANCHES", len(fields["channels"])) != len(fields["channels"]):
        raise ConfigError(f"{prefix}NUM_BRANCHES is not the length of NUM_CHANNELS.")
    width, height = model.get("IMAGE_SIZE", (256, 256))
    fields["image_size"] = (height, width)
    return fields | _input(sections)


def _input(sections: Mapping[str, Any]) -> dict[str, Any]:
    if "INPUT" in sections:
        section = _mapping(sections["INPUT"], "section INPUT")
        _refuse_unknown(section, {"CHANNELS", "MEAN", "STD"}, "INPUT.")
        if {"CHANNELS", "MEAN", "STD"} - section.keys():
            raise ConfigError("section INPUT needs CHANNELS, MEAN and STD.")
        return {
            "input_channels": section["CHANNELS"],
            "mean": tuple(float(value) for value in section["MEAN"]),
            "std": tuple(float(value) for value in section["STD"]),
        }
    name = _mapping(sections.get("DATASET", {}), "section DATASET").get("DATASET")
    if name not in _STATISTICS:
        raise ConfigError(
            "the normalisation is unknown; give DATASET.DATASET as "
            f"{' or '.join(_STATISTICS)}, or a section INPUT with CHANNELS, MEAN and STD."
        )
    mean, std = _STATISTICS[name]
    return {"input_channels": 3, "mean": mean, "std": std}


def _mapping(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{what} must be a YAML mapping as in the public MDEQ configurations.")
    return value


def _refuse_unknown(section: Mapping[str, Any], known: set[str], at: str) -> None:
    for key in section:
        if key not in known:
            raise ConfigError(f"'{at}{key}' is not a known key; remove it or correct its name.")


def _check(config: MDEQConfig) -> None:
    counts = {
        name: len(getattr(config, name))
        for name in ("channels", "head_channels", "num_blocks", "big_kernels")
    }
    if len(set(counts.values())) != 1 or counts["channels"] == 0:
        listed = ", ".join(f"{count} {name}" for name, count in counts.items())
        raise ConfigError(f"there are {listed}, but each needs one entry per resolution.")
    whole = {
        "channels": config.channels,
        "head_channels": config.head_channels,
        "num_blocks": config.num_blocks,
        "image_size": config.image_size,
        "final_channels": (config.final_channels,),
        "num_classes": (config.num_classes,),
        "input_channels": (config.input_channels,),
        "num_layers": (config.num_layers,),
        "num_groups": (config.num_groups,),
    }
    for name, values in whole.items():
        # A thousand blocks alone take a minute to make.
        most = 1000 if name in ("num_blocks", "num_layers") else LARGEST_SIZE
        if any(isinstance(v, bool) or not isinstance(v, int) or not 1 <= v <= most for v in values):
            raise ConfigError(
                f"{name} is {str(values)[:80]}, but it must be whole numbers from 1 to {most}."
            )
    if not all(math.isfinite(v) for v in config.mean) or not all(0 < v < 1e9 for v in config.std):
        raise ConfigError("mean must be finite numbers, and std numbers above 0.")
    if not 0 < config.expansion_factor <= 1000:
        raise ConfigError(
            f"expansion_factor is {config.expansion_factor}, but it must be above 0, to 1000."
        )
    if any(big not in (0, 1, 2) for big in config.big_kernels):
        raise ConfigError(f"big_kernels is {config.big_kernels}, but each must be 0, 1 or 2.")
    if config.downsample_times not in range(9):
        raise ConfigError(f"downsample_times is {config.downsample_times}, but it must be 0 to 8.")
    for name in ("weight_norm", "block_affine", "fuse_affine", "post_affine"):
        if not isinstance(getattr(config, name), bool):
            raise ConfigError(f"{name} is {getattr(config, name)}, but it must be true or false.")
    groups = config.num_groups
    for width in config.channels:
        if groups % 2 or width % groups or int(config.expansion_factor * width) % groups:
            raise ConfigError(
                f"num_groups is {groups}, but it must be even and divide {width} channels and "
                f"their {config.expansion_factor}-fold expansion."
            )
    if any(size % config.scale for size in config.image_size):
        raise ConfigError(
            f"images of {config.image_size} cannot be halved down to the lowest resolution; "
            f"height and width must be multiples of {config.scale}."
        )
    if not 0.0 <= config.dropout < 1.0:
        raise ConfigError(f"dropout is {config.dropout}, but it must be from 0 to below 1.")
    if len(config.mean) != config.input_channels or len(config.std) != config.input_channels:
        raise ConfigError(
            f"mean and std need one entry for each of {config.input_channels} channels."
        )
