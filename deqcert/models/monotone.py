"""Monotone equilibrium networks: one equilibrium by construction, found by a splitting."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deqcert.errors import ConfigError
from deqcert.models.base import ModelConfig, TrainableModel
from deqcert.models.dense_config import DenseConfig
from deqcert.models.images import check_shape
from deqcert.models.normalize import Normalize
from deqcert.models.of_weights import OfWeights
from deqcert.models.relu_form import ReluForm, classical_slopes
from deqcert.models.spectral import TINY, UNIT, rounding_constant
from deqcert.models.splitting import MARGIN, Splitting, proven_splitting, splitting, state_matrix

PREFIX = "mon.linear_module."
"""What stands before the names of A, B and U in published checkpoints, and in ours."""


@dataclass(frozen=True)
class MonotoneConfig(DenseConfig):
    """Width, monotonicity and normalisation of a :class:`MonotoneDEQ`.

    Args:
        monotone: m, above 0. A larger m makes the equilibrium easier to find and less sensitive.

    Raises:
        ConfigError: If a value is out of range.
    """

    name: ClassVar[str] = "monotone"
    keys: ClassVar[Mapping[str, str]] = {"MONOTONE": "monotone"}

    monotone: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.monotone < math.inf:
            raise ConfigError(f"m (monotone) is {self.monotone}, but it must be above 0.")

    def build(self) -> MonotoneDEQ:
        """Build the model with random weights, in training mode."""
        return MonotoneDEQ(self)


class MonotoneModel(TrainableModel):
    """z* = relu(W z* + U x + u) with W = (1 - m) I - A'A + B - B', and a linear readout of z*.

    I - W is strongly monotone with constant m whatever A and B are, so there is exactly one
    equilibrium. The plain iteration need not find it. The cell is the map of Peaceman and Rachford
    instead (:mod:`deqcert.models.splitting`): the state is v, z = relu(v), and any solver finds it;
    ``picard`` is the classical splitting.

    What is proven, and of what: the equilibrium is that of exact arithmetic on the stored weights;
    errors of W and of the splitting, which are computed in float64, are bounded and charged.

    Args:
        config: What it is built from.
        monotone: m.
        linear: Module that holds A, B, U and u, under the names of published checkpoints.
        readout: The linear readout, likewise.

    **Source:** E. Winston, J. Z. Kolter, "Monotone operator equilibrium networks" (2020); D. W.
    Peaceman, H. H. Rachford (1955).
    """

    def __init__(
        self, config: ModelConfig, monotone: float, linear: nn.Module, readout: nn.Linear
    ) -> None:
        super().__init__(config)
        self.monotone = monotone
        self.normalize = Normalize(config.mean, config.std)
        self.mon = _Holder(linear)
        self.Wout = readout
        self._known = OfWeights[Splitting]()

    @abstractmethod
    def factors(self) -> tuple[Tensor, Tensor]:
        """Return A, shape (any, D), and B, shape (D, D), in float64, with gradients."""

    def shaping(self) -> tuple[Tensor, ...]:
        """Return the weights that W depends on."""
        return tuple(self.mon.linear_module.parameters())

    @abstractmethod
    def enter(self, pixels: Tensor) -> Tensor:
        """Map normalised images, shape (B, C, H, W), to U x + u, shape (B, D)."""

    @abstractmethod
    def input_matrix(self) -> tuple[Tensor, Tensor]:
        """Return U, shape (D, C*H*W), and u, shape (D,), of normalised pixels, in float64."""

    @abstractmethod
    def features(self, z: Tensor) -> Tensor:
        """Map equilibria, shape (B, D), to what the readout takes; linear, of norm at most 1."""

    @abstractmethod
    def readout_matrix(self) -> Tensor:
        """Return C, shape (K, D), in float64: the readout and the features in one."""

    def inject(self, x: Tensor) -> Tensor:
        """Normalise images, shape (B, C, H, W) in [0, 1], and map them to H (U x + u), (B, D).

        Raises:
            DataError: If the images have another shape.
        """
        check_shape(x, self.input_shape)
        entering = self.enter(self.normalize(x))
        return F.linear(entering, self._splitting().gain.to(entering))

    def initial_state(self, injection: Tensor) -> Tensor:
        """Return zeros of shape (B, D)."""
        return torch.zeros_like(injection)

    def cell(self, z: Tensor, injection: Tensor, masks: Tensor | None = None) -> Tensor:
        """Evaluate R |z| + injection, from (B, D) to (B, D)."""
        return F.linear(z.abs(), self._splitting().reflection.to(z)) + injection

    def readout(self, z: Tensor) -> Tensor:
        """Map states of the splitting, shape (B, D), to logits of relu(z), shape (B, K)."""
        logits: Tensor = self.Wout(self.latent(z))
        return logits

    def latent(self, z: Tensor) -> Tensor:
        """Map states of the splitting, shape (B, D), to what the readout takes, shape (B, m)."""
        return self.features(F.relu(z))

    def factor(self) -> float:
        """Return the proven contraction factor ||R||_2 of the splitting."""
        return self._proven().factor

    def relu_form(self) -> ReluForm:
        """Return W, U, C and m in float64; see :class:`ProvenModel`."""
        state, state_error = state_matrix(*self.factors(), self.monotone)
        weight, bias = self.input_matrix()
        entering = self.normalize.pixel_weight(weight, self.input_shape)
        bias, bias_error = self.normalize.pixel_bias(weight, bias, self.input_shape)
        return ReluForm(
            state=state,
            input=entering,
            readout=self.readout_matrix().cpu(),
            monotone=self.monotone,
            state_error=state_error,
            input_error=MARGIN * UNIT * torch.linalg.matrix_norm(entering).item(),
            bias=bias,
            bias_error=bias_error,
            offset=self.Wout.bias.detach().double().cpu(),
        )

    def injection_rounding(self, x: Tensor) -> Tensor:
        """Bound what rounding changes in ``inject(x)``; see :class:`ProvenModel`."""
        proven, (weight, bias) = self._proven(), self.input_matrix()
        # Each pixel was rounded twice, as if the sums had two more terms.
        size = torch.linalg.vector_norm(self.normalize(x).flatten(1), dim=1)
        into = torch.linalg.matrix_norm(weight) * size + torch.linalg.vector_norm(bias)
        gamma = rounding_constant(weight.shape[1] + len(weight) + 12)
        gain = torch.linalg.matrix_norm(proven.gain).to(x.device)
        inverse = 2.0 * proven.step * proven.inverse_error
        bound: Tensor = MARGIN * (MARGIN * gamma * gain + inverse) * into + TINY
        return bound

    def rounding(self, z: Tensor, injection: Tensor) -> tuple[Tensor, Tensor]:
        """Bound the rounding of a float64 evaluation; see :class:`EnclosedModel`.

        Each element of R |z| + h and each logit is an inner product with few more operations, so
        its error is at most gamma_(D+6) times the inner product of the absolute values, and that is
        at most the product of the norms (Cauchy and Schwarz). R is off by twice the error of V.
        """
        proven, readout = self._proven(), self.readout_matrix()
        gamma = MARGIN * rounding_constant(z.shape[1] + 6)
        gamma *= 1.0 + 2.0 * rounding_constant(proven.reflection.numel())
        size = torch.linalg.vector_norm(z, dim=1)
        entering = torch.linalg.vector_norm(injection, dim=1)
        reflection = torch.linalg.matrix_norm(proven.reflection).to(z.device)
        cell = gamma * (reflection * size + entering) + 2.0 * proven.inverse_error * size
        widest = torch.linalg.vector_norm(readout, dim=1).max()
        logit = gamma * (widest * size + self.Wout.bias.double().abs().max())
        # Two logits, and the rounding of their difference.
        return MARGIN * cell + TINY, 4.0 * logit + TINY

    def error_bound(self, residual: Tensor) -> Tensor:
        """Return residual / (1 - ||R||), shape (B,), float64, rounded up.

        Raises:
            ConfigError: If the splitting is not proven to contract.
        """
        factor = self.factor()
        if not factor < 1.0:
            raise ConfigError(
                "the splitting of this monotone model is not proven to contract "
                f"(factor {factor:g}); its weights are too large for its m, {self.monotone:g}."
            )
        return MARGIN * residual.double() / (1.0 - factor)

    def readout_lipschitz(self) -> Tensor:
        """Return ||c_i - c_j||_2 of the readout's rows, shape (K, K), float64, rounded up."""
        rows = self.readout_matrix()
        distances: Tensor = torch.linalg.vector_norm(rows[:, None] - rows[None], dim=2)
        return MARGIN * distances

    def _splitting(self) -> Splitting:
        """Return R and H, differentiable where gradients of the weights are recorded."""
        if torch.is_grad_enabled() and any(weight.requires_grad for weight in self.shaping()):
            return splitting(*self.factors(), self.monotone)
        return self._proven()

    @torch.no_grad()
    def _proven(self) -> Splitting:
        """Return R, H and what is proven of them; computed again when the weights changed."""
        return self._known.get(
            self.shaping(), lambda: proven_splitting(*self.factors(), self.monotone)
        )


class DenseMonotoneModel(MonotoneModel):
    """A monotone network whose U is dense and whose readout takes the equilibrium as it is."""

    def enter(self, pixels: Tensor) -> Tensor:
        """Map normalised images, shape (B, C, H, W), to U x + u, shape (B, D)."""
        entering: Tensor = self._input(pixels.flatten(1))
        return entering

    def input_matrix(self) -> tuple[Tensor, Tensor]:
        """Return U, shape (D, C*H*W), and u, shape (D,), in float64."""
        linear = self._input
        return linear.weight.detach().double(), linear.bias.detach().double()

    def pairwise_lipschitz(self) -> Tensor:
        """Return the classical bound, shape (K, K), with gradients; see :class:`LipschitzModel`."""
        std = self.normalize.std.double().expand(*self.input_shape).reshape(-1)
        entering = self._input.weight.double() / std
        return classical_slopes(self.Wout.weight.double(), entering, self.monotone)

    def features(self, z: Tensor) -> Tensor:
        """Return the equilibria as they are."""
        return z

    def readout_matrix(self) -> Tensor:
        """Return C, shape (K, D), in float64."""
        return self.Wout.weight.detach().double()

    @property
    def _input(self) -> nn.Linear:
        assert isinstance(self.mon.linear_module.U, nn.Linear)
        return self.mon.linear_module.U


class _Holder(nn.Module):
    """One more level of those names."""

    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.linear_module = linear


class _Dense(nn.Module):
    """The matrices, under the names that published checkpoints give them."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.U = nn.Linear(inputs, width)
        self.A = nn.Linear(width, width, bias=False)
        self.B = nn.Linear(width, width, bias=False)


class MonotoneDEQ(DenseMonotoneModel):
    """The monotone network whose A, B and U are dense.

    Args:
        config: Width, m and normalisation.
    """

    config: MonotoneConfig

    def __init__(self, config: MonotoneConfig) -> None:
        height, width = config.image_size
        linear = _Dense(config.input_channels * height * width, config.width)
        readout = nn.Linear(config.width, config.num_classes)
        super().__init__(config, config.monotone, linear, readout)

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return A and B, shape (D, D), in float64, with gradients."""
        return self._linear.A.weight.double(), self._linear.B.weight.double()

    @property
    def _linear(self) -> _Dense:
        assert isinstance(self.mon.linear_module, _Dense)
        return self.mon.linear_module


MONOTONE = MonotoneConfig()
"""For 8x8 grey digits."""
