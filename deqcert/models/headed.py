"""A model whose last layer was taken off and replaced by a head that was fitted to its latents."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
import yaml
from torch import Tensor

from deqcert.errors import ConfigError
from deqcert.models.base import (
    FoldableModel,
    LatentModel,
    MappedModel,
    ModelConfig,
    ProvenModel,
    TrainableModel,
)
from deqcert.models.heads import HEAD_KINDS, LinearHead, QuadraticHead
from deqcert.models.quadratic import Quadratics
from deqcert.models.relu_form import ReluForm
from deqcert.models.spectral import TINY, rounding_constant
from deqcert.models.state import StateLayout

MARGIN = 1.0 + 1e-9
"""More than the rounding of norms and products in float64, for latents below a million elements."""


@dataclass(frozen=True)
class HeadedConfig:
    """Which model has which kind of head.

    Args:
        base: Configuration of the model without its own last layer.
        head: "linear" or "quadratic".
        latents: Elements of a latent.

    Raises:
        ConfigError: If there is no such kind.
    """

    name: ClassVar[str] = "headed"

    base: ModelConfig
    head: str
    latents: int

    def __post_init__(self) -> None:
        if self.head not in HEAD_KINDS:
            raise ConfigError(f"HEAD is {self.head!r}, but there are {', '.join(HEAD_KINDS)}.")
        whole = isinstance(self.latents, int) and not isinstance(self.latents, bool)
        if not whole or not 1 <= self.latents < 2**20:
            raise ConfigError(f"LATENTS is {self.latents!r}, but it must be from 1 to 2^20 - 1.")

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.base.num_classes

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of an input, in pixels."""
        return self.base.image_size

    @property
    def input_channels(self) -> int:
        """Channels of an input."""
        return self.base.input_channels

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of each input channel, in [0, 1] units."""
        return self.base.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Deviation of each input channel, in [0, 1] units."""
        return self.base.std

    @property
    def num_layers(self) -> int:
        """Cell evaluations of the unrolled pre-training."""
        return self.base.num_layers

    @property
    def scale(self) -> int | None:
        """What height and width must be multiples of; None if only ``image_size`` will do."""
        return self.base.scale

    def build(self) -> HeadedModel:
        """Build the model with random weights and a head of zeros, in training mode."""
        return _kind(base := self.base.build(), self.head)(self, base)

    def to_yaml(self) -> str:
        """Write the configuration as YAML."""
        model = {"NAME": self.name, "HEAD": self.head, "LATENTS": self.latents}
        base = yaml.safe_load(self.base.to_yaml())
        return str(yaml.safe_dump({"MODEL": model, "BASE": base}, sort_keys=False))

    @classmethod
    def from_mapping(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_yaml` wrote.

        Raises:
            ConfigError: If a key is missing or unknown or a value is out of range.
        """
        from deqcert.models.architectures import config_of

        model = data.get("MODEL")
        if set(data) != {"MODEL", "BASE"} or not isinstance(model, Mapping):
            raise ConfigError("a headed model's configuration needs exactly MODEL and BASE.")
        if set(model) != {"NAME", "HEAD", "LATENTS"}:
            raise ConfigError("a headed model's MODEL needs exactly NAME, HEAD and LATENTS.")
        base = config_of(data["BASE"], "BASE")
        if isinstance(base, HeadedConfig):
            raise ConfigError("a headed model's BASE must be a model of its own.")
        return cls(base, model["HEAD"], model["LATENTS"])


class HeadedModel(TrainableModel):
    """The equilibrium of one model, read out by a head that was fitted to its latents.

    Args:
        config: What it is built from.
        base: The model; its own last layer has no use any more.

    Raises:
        ConfigError: If the model does not say what its latents are.
    """

    config: HeadedConfig

    def __init__(self, config: HeadedConfig, base: TrainableModel) -> None:
        super().__init__(config)
        if not isinstance(base, LatentModel):
            raise ConfigError(
                f"a head needs a model that offers its latents, but {type(base).__name__} does not."
            )
        self.base = base
        head = LinearHead if config.head == "linear" else QuadraticHead
        self.head = head(config.latents, config.num_classes)

    def inject(self, x: Tensor) -> Tensor:
        """Map images, shape (B, C, H, W) in [0, 1], to injections."""
        return self.base.inject(x)

    def initial_state(self, injection: Tensor) -> Tensor:
        """Return the cold start, shape (B, D)."""
        return self.base.initial_state(injection)

    def cell(self, z: Tensor, injection: Tensor, masks: Tensor | None = None) -> Tensor:
        """Evaluate the cell once, from (B, D) to (B, D)."""
        if masks is None:
            return self.base.cell(z, injection)
        return self.base.cell(z, injection, masks)

    def draw_masks(self, rows: int, generator: torch.Generator | None = None) -> Tensor | None:
        """Draw what is random in a training pass; see :class:`TrainableModel`."""
        return self.base.draw_masks(rows, generator)

    def latent(self, z: Tensor) -> Tensor:
        """Map states, shape (B, D), to latents, shape (B, m)."""
        return self.base.latent(z)

    def readout(self, z: Tensor) -> Tensor:
        """Map states, shape (B, D), to scores, shape (B, K)."""
        scores: Tensor = self.head(self.latent(z))
        return scores

    def scores(self) -> Quadratics:
        """Return the head's numbers in float64."""
        return self.head.scores()


class HeadedMDEQ(HeadedModel):
    """The same around a model that can be folded and whose state is made of maps."""

    def folded(self, *, channels_last: bool = True) -> HeadedMDEQ:
        """Return a copy for inference; see :class:`deqcert.models.FoldableModel`."""
        copied = HeadedMDEQ(self.config, self.base.folded(channels_last=channels_last))  # type: ignore[operator]
        copied.head.load_state_dict(self.head.state_dict())
        return copied.eval()

    def start_layout(self, injection: Tensor) -> tuple[StateLayout, int]:
        """Return the maps of a state; see :class:`deqcert.models.MappedModel`."""
        return self.base.start_layout(injection)  # type: ignore[no-any-return,operator]


class HeadedProvenModel(HeadedModel):
    """The same around a proven model, with a linear head: what is proven holds for its scores."""

    def relu_form(self) -> ReluForm:
        """Return the model as matrices, the head in place of the readout."""
        form = self._proven.relu_form()
        return dataclasses.replace(form, readout=self.scores().linear)

    def injection_rounding(self, x: Tensor) -> Tensor:
        """Bound what rounding changes in ``inject(x)``; see :class:`ProvenModel`."""
        return self._proven.injection_rounding(x)

    def error_bound(self, residual: Tensor) -> Tensor:
        """Bound ||z - z*|| by the residual; see :class:`deqcert.models.EnclosedModel`."""
        return self._proven.error_bound(residual)

    def readout_lipschitz(self) -> Tensor:
        """Return ||w_i - w_j||_2 of the head's rows, shape (K, K), float64, rounded up."""
        rows = self.scores().linear
        distances: Tensor = torch.linalg.vector_norm(rows[:, None] - rows[None], dim=2)
        return MARGIN * distances

    def rounding(self, z: Tensor, injection: Tensor) -> tuple[Tensor, Tensor]:
        """Bound the rounding of a float64 evaluation; see :class:`EnclosedModel`."""
        cell, _ = self._proven.rounding(z, injection)
        head = self.scores()
        gamma = MARGIN * rounding_constant(head.linear.shape[1] + 4)
        widest = torch.linalg.vector_norm(head.linear, dim=1).max()
        size = torch.linalg.vector_norm(z, dim=1)
        return cell, 4.0 * gamma * (widest * size + head.offsets.abs().max()) + TINY

    @property
    def _proven(self) -> ProvenModel:
        assert isinstance(self.base, ProvenModel)
        return self.base


def with_head(model: TrainableModel, scores: Quadratics) -> HeadedModel:
    """Put a fitted head on a model's latents.

    Args:
        model: Any model that offers its latents; it is copied by reference, not by value.
        scores: The head's numbers.

    Returns:
        A model in evaluation mode, in float32.

    Raises:
        ConfigError: If the model does not say what its latents are.
    """
    kind = "linear" if scores.precisions is None else "quadratic"
    config = HeadedConfig(model.config, kind, scores.means.shape[1])
    found = _kind(model, kind)(config, model)
    found.head.take(scores)
    return found.eval()


def _kind(base: TrainableModel, head: str) -> type[HeadedModel]:
    """Return the class that offers what the base offers, as far as the head leaves it true."""
    # A proof of a linear readout of relu(z) itself: features that are pooled have another matrix.
    dense = isinstance(base, ProvenModel) and head == "linear" and _plain_latents(base)
    if dense:
        return HeadedProvenModel
    if isinstance(base, FoldableModel) and isinstance(base, MappedModel):
        return HeadedMDEQ
    return HeadedModel


def _plain_latents(base: TrainableModel) -> bool:
    from deqcert.models.contractive import ContractiveDEQ
    from deqcert.models.monotone import DenseMonotoneModel

    return isinstance(base, ContractiveDEQ | DenseMonotoneModel)
