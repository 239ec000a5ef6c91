"""What a model offers: four methods to be certified, and what else it may bring, each for a use.

No solver is among them: the same weights can be solved in any way. The protocols are checked by
what an object has, not by what it inherits from.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import Field
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn

from deqcert.models.interval_form import IntervalForm
from deqcert.models.relu_form import ReluForm
from deqcert.models.state import StateLayout


@runtime_checkable
class ImplicitModel(Protocol):
    """A classifier whose features are a fixed point of its cell: all that certifying needs.

    Each method treats the rows of a batch independently, so that a certificate does not depend on
    batch-mates. A model may also carry ``input_shape`` (channels, height, width) and
    ``num_classes``; whoever finds them checks inputs and labels against them.
    """

    def inject(self, x: Tensor) -> Tensor:
        """Map images, shape (B, C, H, W) in [0, 1] units, to what enters every cell evaluation.

        Normalisation belongs here, so that noise is always added to pixels.
        """
        ...

    def initial_state(self, injection: Tensor) -> Tensor:
        """Return the cold start for an injection: zeros of shape (B, D)."""
        ...

    def cell(self, z: Tensor, injection: Tensor) -> Tensor:
        """Evaluate the cell once: states of shape (B, D) to states of shape (B, D)."""
        ...

    def readout(self, z: Tensor) -> Tensor:
        """Map states, shape (B, D), to logits, shape (B, K)."""
        ...


@runtime_checkable
class EnclosedModel(ImplicitModel, Protocol):
    """An implicit model whose residual proves how far away its equilibrium is.

    Whoever uses the bounds evaluates the model in float64: a torch module is copied and cast, any
    other model must compute in the type of what it is given. All three methods return upper bounds
    in float64 that hold for exact arithmetic on the stored weights; their own rounding included.
    """

    def rounding(self, z: Tensor, injection: Tensor) -> tuple[Tensor, Tensor]:
        """Bound what rounding changes when the model is evaluated in float64.

        Returns:
            For each row, of the computed ``cell(z, injection)`` the l2 distance to the exact one,
            shape (B,), and of ``readout(z)`` the error of any difference of two logits, shape (B,).
        """
        ...

    def error_bound(self, residual: Tensor) -> Tensor:
        """Bound ||z - z*|| where ||cell(z) - z|| is at most the residual; shapes (B,), float64."""
        ...

    def readout_lipschitz(self) -> Tensor:
        """Bound how fast logit i minus logit j changes with z in l2; shape (K, K), float64."""
        ...


@runtime_checkable
class ProvenModel(EnclosedModel, Protocol):
    """An enclosed model of one relu layer, whose Lipschitz constants can be proven."""

    def relu_form(self) -> ReluForm:
        """Return the model as matrices, and how far they are from the exact ones."""
        ...

    def injection_rounding(self, x: Tensor) -> Tensor:
        """Bound what rounding changes in ``inject(x)`` in float64.

        Args:
            x: Images, shape (B, C, H, W), float64, in [0, 1].

        Returns:
            Per row the l2 distance to the exact injection, shape (B,), float64.
        """
        ...


@runtime_checkable
class PrescribedModel(EnclosedModel, Protocol):
    """An enclosed model whose Lipschitz constants hold by construction, whatever its weights."""

    def proven_lipschitz(self) -> Tensor:
        """Bound how fast logit i minus logit j changes with the image in l2.

        Returns:
            Shape (K, K), float64, logits per pixel unit, rounded up; 0 on the diagonal. They hold
            for the exact equilibrium of the stored weights, over all real inputs.
        """
        ...

    def injection_rounding(self, x: Tensor) -> Tensor:
        """Bound what rounding changes in ``inject(x)``; see :class:`ProvenModel`."""
        ...


@runtime_checkable
class LipschitzModel(ImplicitModel, Protocol):
    """An implicit model that bounds its slopes in a way that training can differentiate."""

    def pairwise_lipschitz(self) -> Tensor:
        """Bound how fast logit i minus logit j changes with the image in l2.

        For training: the bound is that of exact arithmetic, and what rounding adds is not charged.

        Returns:
            Shape (K, K), logits per pixel unit, 0 on the diagonal; with gradients of the weights
            where it depends on them.
        """
        ...


@runtime_checkable
class LatentModel(ImplicitModel, Protocol):
    """An implicit model that says what its last, linear layer takes.

    Another head can then be put in its place (:func:`deqcert.models.with_head`).
    """

    def latent(self, z: Tensor) -> Tensor:
        """Map states, shape (B, D), to latents, shape (B, m).

        A model that is proven (:class:`EnclosedModel`) maps 1-Lipschitz in l2.
        """
        ...


@runtime_checkable
class IntervalModel(ImplicitModel, Protocol):
    """An implicit model whose intervals have an equilibrium, too."""

    def interval_form(self) -> IntervalForm:
        """Return the model as affine maps, exact but for the roundings that they state."""
        ...

    def contraction(self) -> tuple[Tensor, float]:
        """Return v > 0, shape (D,), and rho with |N| v <= rho v for N of that form, in float64."""
        ...


@runtime_checkable
class FoldableModel(ImplicitModel, Protocol):
    """An implicit model that knows a quicker copy of itself."""

    def folded(self, *, channels_last: bool) -> ImplicitModel:
        """Return a copy for inference that agrees up to rounding and needs no gradients.

        Args:
            channels_last: Whether convolutions may keep the channels of a pixel beside each other,
                which was measured to be faster on CPUs.
        """
        ...


@runtime_checkable
class NarrowableModel(ImplicitModel, Protocol):
    """An implicit model that knows a copy of itself with fewer channels."""

    def narrowed(self, sparsity: float) -> tuple[TrainableModel, Mapping[str, tuple[int, int]]]:
        """Return a copy without its least channels, in evaluation mode.

        Args:
            sparsity: Share of the channels that goes, rounded to what the architecture allows.

        Returns:
            The copy, and of each narrowed layer by name how many channels have gone, and of how
            many.

        Raises:
            ConfigError: If it cannot be narrowed by about that much.
        """
        ...


@runtime_checkable
class MappedModel(ImplicitModel, Protocol):
    """An implicit model whose state is a pyramid of feature maps, as its injection's is one map.

    A start network that is fitted to it is made of convolutions.
    """

    def start_layout(self, injection: Tensor) -> tuple[StateLayout, int]:
        """Say how a state is laid out.

        Args:
            injection: What ``inject`` returned, shape (B, C, H, W); H and W are those of the
                state's highest resolution.

        Returns:
            The maps, highest resolution first, height and width halving from one to the next; and
            in how many groups of channels the cell normalises its values, 0 for none.
        """
        ...


class ModelConfig(Protocol):
    """What says how a model is built: a frozen dataclass of plain values.

    ``deqcert train`` fits ``num_classes``, ``image_size``, ``input_channels``, ``mean`` and ``std``
    to the images with :func:`dataclasses.replace`; so all five are fields.
    """

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    name: ClassVar[str]
    """What ``MODEL.NAME`` is in its YAML files."""

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        ...

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of an input, in pixels."""
        ...

    @property
    def input_channels(self) -> int:
        """Channels of an input."""
        ...

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of each input channel, in [0, 1] units."""
        ...

    @property
    def std(self) -> tuple[float, ...]:
        """Deviation of each input channel, in [0, 1] units."""
        ...

    @property
    def num_layers(self) -> int:
        """Cell evaluations of the unrolled pre-training."""
        ...

    @property
    def scale(self) -> int | None:
        """Number that height and width must be multiples of; None if only ``image_size`` will do.

        Training may begin with smaller crops where it is given.
        """
        ...

    def build(self) -> TrainableModel:
        """Build the model with random weights, in training mode."""
        ...

    def to_yaml(self) -> str:
        """Write the configuration as YAML, with the name under ``MODEL.NAME``."""
        ...

    @classmethod
    def from_mapping(cls, data: Mapping[str, Any]) -> Self:
        """Read the content of a YAML file.

        Raises:
            ConfigError: If it is no such configuration, or a key is unknown.
        """
        ...


class TrainableModel(nn.Module, ABC):
    """A torch module of the protocol that can be trained, saved and loaded.

    What is saved is its ``state_dict`` and its configuration; so all that it computes must follow
    from these two.

    Args:
        config: What it is built from.

    Attributes:
        config: The same.
        input_shape: Channels, height and width of an input.
        num_classes: Number of classes.
        checkpoint: The file that it was loaded from by name; None for none. What is found out about
            its weights may be kept beside it.
    """

    checkpoint: Path | None = None

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.input_shape = (config.input_channels, *config.image_size)
        self.num_classes = config.num_classes

    @abstractmethod
    def inject(self, x: Tensor) -> Tensor:
        """Map images, shape (B, C, H, W) in [0, 1] units, to what enters every cell evaluation."""

    @abstractmethod
    def initial_state(self, injection: Tensor) -> Tensor:
        """Return the cold start for an injection: zeros of shape (B, D)."""

    @abstractmethod
    def cell(self, z: Tensor, injection: Tensor, masks: Tensor | None = None) -> Tensor:
        """Evaluate the cell once, from (B, D) to (B, D).

        Args:
            z: States, shape (B, D).
            injection: What :meth:`inject` returned for the same rows.
            masks: What :meth:`draw_masks` returned for the same rows; a model that draws none
                is never given any.
        """

    @abstractmethod
    def readout(self, z: Tensor) -> Tensor:
        """Map states, shape (B, D), to logits, shape (B, K)."""

    def draw_masks(self, rows: int, generator: torch.Generator | None = None) -> Tensor | None:
        """Draw what is random in a training pass, once per solve; None where nothing is.

        Args:
            rows: Rows of the batch.
            generator: What to draw from.
        """
        return None
