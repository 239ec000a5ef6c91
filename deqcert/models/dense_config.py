"""What configurations of models with one dense layer share: sizes, normalisation, their YAML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import yaml

from deqcert.errors import ConfigError

_KEYS = {"NUM_CLASSES": "num_classes", "NUM_LAYERS": "num_layers", "WIDTH": "width"}


@dataclass(frozen=True)
class DenseConfig:
    """Sizes and normalisation of a model whose state is one vector.

    Args:
        width: Elements of the state.
        num_classes: Number of classes.
        image_size: Height and width of an input, in pixels.
        input_channels: Channels of an input.
        mean: Mean of each input channel, in [0, 1] units.
        std: Deviation of each input channel, in [0, 1] units.
        num_layers: Cell evaluations of the unrolled pre-training.

    Raises:
        ConfigError: If a value is out of range.
    """

    name: ClassVar[str]
    keys: ClassVar[Mapping[str, str]]
    """Further keys of its YAML files, under MODEL, and the fields that they fill."""

    width: int = 128
    num_classes: int = 10
    image_size: tuple[int, int] = (8, 8)
    input_channels: int = 1
    mean: tuple[float, ...] = (0.305,)
    std: tuple[float, ...] = (0.376,)
    num_layers: int = 6

    def __post_init__(self) -> None:
        whole = (self.width, self.num_classes, self.input_channels, self.num_layers)
        for value in (*whole, *self.image_size):
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**31:
                raise ConfigError(
                    f"{str(value)[:40]!r} is among the sizes, but each must be a whole number "
                    "from 1 to 2^31 - 1."
                )
        if len(self.mean) != self.input_channels or len(self.std) != self.input_channels:
            raise ConfigError(
                f"mean and std need one entry for each of {self.input_channels} channels."
            )

    @property
    def scale(self) -> None:
        """None: only images of ``image_size`` can be taken."""

    @classmethod
    def from_mapping(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_yaml` wrote; every key must be there and none besides.

        Raises:
            ConfigError: If a key is missing or unknown or a value is out of range.
        """
        keys = _KEYS | dict(cls.keys)
        wanted = {
            "": ("MODEL", "INPUT"),
            "MODEL.": ("NAME", "IMAGE_SIZE", *keys),
            "INPUT.": ("CHANNELS", "MEAN", "STD"),
        }
        for prefix, names in wanted.items():
            section = data.get(prefix.rstrip("."), {}) if prefix else data
            if not isinstance(section, Mapping) or set(section) != set(names):
                raise ConfigError(
                    f"a {cls.name} model's configuration needs exactly "
                    f"{', '.join(prefix + name for name in names)}."
                )
        model, inputs = data["MODEL"], data["INPUT"]
        width, height = model["IMAGE_SIZE"]
        return cls(
            image_size=(height, width),
            input_channels=inputs["CHANNELS"],
            mean=tuple(float(value) for value in inputs["MEAN"]),
            std=tuple(float(value) for value in inputs["STD"]),
            **{field: model[key] for key, field in keys.items()},
        )

    def to_yaml(self) -> str:
        """Write the configuration as YAML."""
        model: dict[str, Any] = {"NAME": self.name}
        model |= {key: getattr(self, field) for key, field in (_KEYS | dict(self.keys)).items()}
        model["IMAGE_SIZE"] = [self.image_size[1], self.image_size[0]]
        inputs = {
            "CHANNELS": self.input_channels,
            "MEAN": list(self.mean),
            "STD": list(self.std),
        }
        return str(yaml.safe_dump({"MODEL": model, "INPUT": inputs}, sort_keys=False))
