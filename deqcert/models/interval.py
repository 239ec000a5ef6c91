"""Equilibrium networks whose interval fixed point always exists."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deqcert.errors import ConfigError
from deqcert.models.base import TrainableModel
from deqcert.models.dense_config import DenseConfig
from deqcert.models.images import check_shape
from deqcert.models.interval_block import Layer, along, convolution, divided
from deqcert.models.interval_contraction import Contraction, prove_contraction
from deqcert.models.interval_form import Affine, IntervalForm
from deqcert.models.normalize import Normalize
from deqcert.models.of_weights import OfWeights
from deqcert.models.outward import MARGIN, entering_out
from deqcert.models.spectral import TINY, rounding_constant

MEASURES = ("l2", "linf")
"""Norms whose matrix measure can be bounded."""

BLOCK_KERNEL = 3
"""Height and width of the kernels of the input block."""


@dataclass(frozen=True)
class IntervalConfig(DenseConfig):
    """Sizes, measure and normalisation of an :class:`IntervalDEQ`.

    Args:
        width: Elements of the state, or its channels if it is a map.
        monotone: m, in (0, 1). A larger one makes intervals and solves shorter; a smaller one makes
            the equilibrium richer.
        measure: In which norm the matrix measure is at most 1 - m: "l2" (that of |W|) or "linf"
            (that of W).
        kernel: Height and width of the kernel of W, odd; 0 for a dense W and a state that is no
            map.
        block: Channels of the convolutions, 3x3, between the pixels and U.
        strides: One for each convolution of the input block: for those of ``block``, and, unless W
            is dense, for U.

    Raises:
        ConfigError: If a value is out of range.
    """

    name: ClassVar[str] = "interval"
    keys: ClassVar[Mapping[str, str]] = {
        "MONOTONE": "monotone",
        "MEASURE": "measure",
        "KERNEL": "kernel",
        "BLOCK": "block",
        "STRIDES": "strides",
    }

    monotone: float = field(default=0.5, kw_only=True)
    measure: str = field(default="l2", kw_only=True)
    kernel: int = field(default=0, kw_only=True)
    block: tuple[int, ...] = field(default=(), kw_only=True)
    strides: tuple[int, ...] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.monotone < 1.0:
            raise ConfigError(f"m (monotone) is {self.monotone}, but it must lie between 0 and 1.")
        if self.measure not in MEASURES:
            raise ConfigError(
                f"measure is {self.measure!r}, but it must be one of {', '.join(MEASURES)}."
            )
        if isinstance(self.kernel, bool) or self.kernel not in (0, *range(1, 100, 2)):
            raise ConfigError(
                f"kernel is {self.kernel!r}, but it must be an odd whole number to 99, or 0 for a "
                "dense state."
            )
        for name in ("block", "strides"):
            values = getattr(self, name)
            values = tuple(values) if isinstance(values, list) else values
            object.__setattr__(self, name, values)
            whole = isinstance(values, tuple) and all(type(value) is int for value in values)
            if not whole or not all(1 <= value < 2**31 for value in values):
                raise ConfigError(f"{name} is {values!r}, but it must hold whole numbers from 1.")
        convolutions = len(self.block) + (self.kernel > 0)
        if len(self.strides) != convolutions:
            raise ConfigError(
                f"strides is {self.strides!r}, but the input block has {convolutions} convolutions "
                "and needs one for each."
            )

    def size_after(self, convolutions: int) -> tuple[int, int]:
        """Return height and width of what leaves that many convolutions of the input block."""
        height, width = self.image_size
        for stride in self.strides[:convolutions]:
            height, width = (height - 1) // stride + 1, (width - 1) // stride + 1
        return height, width

    @property
    def state_shape(self) -> tuple[int, ...]:
        """Channels, height and width of a state, or its elements if it is no map."""
        return (self.width, *self.size_after(len(self.strides))) if self.kernel else (self.width,)

    def build(self) -> IntervalDEQ:
        """Build the model with random weights, in training mode."""
        return IntervalDEQ(self)


class IntervalDEQ(TrainableModel):
    """z* = relu(W z* + b), logits C z* + c, where intervals have an equilibrium, too.

    W is made of a free matrix M, by channels if it is a convolution, such that a measure of it is
    at most 1 - m whatever M is:

    - ``l2``: W = D^-1/2 M D^-1/2 with d_i = max(1, (sum_j |M_ij| + sum_j |M_ji|) / (2 (1 - m))).
      The symmetric part of |W| has no eigenvalue above 1 - m.
    - ``linf``: W = (1 - m) I + M - diag(sum_j |M_ij|): W_ii + sum_(j != i) |W_ij| <= 1 - m.

    A diagonal scaling of the state, which both published classes have besides, is already in C and
    in the input block: it changes no logit and no interval. The cell has the diagonal of W
    eliminated, z_i <- relu((sum_(j != i) W_ij z_j + b_i) / (1 - W_ii)), which has the same
    equilibrium; so for some v > 0 both it and its interval cell contract in max_i |z_i| / v_i, and
    plain iteration finds them.

    b = U(x) + u comes through an input block: convolutions with relus between them, each with
    batch normalisation, then U, dense or a convolution, with batch normalisation, too. In
    evaluation mode that is folded into affine maps (:meth:`interval_form`).

    What is proven, and of what: v and the contraction are verified for the stored weights; the
    equilibrium is that of exact arithmetic on them. For method ``enclosed`` the injection is the
    one the machine computes from the image, in the model's own precision.

    Args:
        config: Sizes, measure and normalisation.

    **Source:** C. Wei, J. Z. Kolter, "Certified robustness for deep equilibrium models via interval
    bound propagation" (2022); S. Jafarpour, A. Davydov, A. Proskurnikov, F. Bullo, "Robust implicit
    networks via non-Euclidean contractions" (2021). The initialisation is that of Z. Shi, Y. Wang,
    H. Zhang, J. Yi, C.-J. Hsieh, "Fast certified robust training with short warmup" (2021).
    """

    config: IntervalConfig

    def __init__(self, config: IntervalConfig) -> None:
        super().__init__(config)
        self.normalize = Normalize(config.mean, config.std)
        channels, layers = config.input_channels, list[nn.Module]()
        for out, stride in zip(config.block, config.strides, strict=False):
            layers.append(convolution(channels, out, BLOCK_KERNEL, stride))
            channels = out
        if config.kernel:
            layers.append(convolution(channels, config.width, BLOCK_KERNEL, config.strides[-1]))
            self.weight = nn.Parameter(
                torch.empty(config.width, config.width, config.kernel, config.kernel)
            )
        else:
            inputs = channels * math.prod(config.size_after(len(config.block)))
            linear = nn.Linear(inputs, config.width, bias=False)
            layers.append(Layer(linear, nn.BatchNorm1d(config.width)))
            self.weight = nn.Parameter(torch.empty(config.width, config.width))
        self.block = nn.ModuleList(layers)
        # Rows of |M| begin with a sum of about 1/2, so that W begins inside its class.
        nn.init.normal_(self.weight, std=math.sqrt(2.0 * math.pi) / (4 * self.weight[0].numel()))
        self.classifier = nn.Linear(math.prod(config.state_shape), config.num_classes)
        self._known = OfWeights[Contraction]()

    def inject(self, x: Tensor) -> Tensor:
        """Map images, shape (B, C, H, W) in [0, 1], to b / (1 - diag W), shape (B, D).

        Raises:
            DataError: If the images have another shape.
        """
        check_shape(x, self.input_shape)
        features = self.normalize(x)
        for layer in self.block[:-1]:
            features = F.relu(layer(features))
        features = self.block[-1](features)
        injection: Tensor = features / along(self._state()[1], features[0])
        return injection.flatten(1)

    def initial_state(self, injection: Tensor) -> Tensor:
        """Return zeros of shape (B, D)."""
        return torch.zeros_like(injection)

    def cell(self, z: Tensor, injection: Tensor, masks: Tensor | None = None) -> Tensor:
        """Evaluate relu(N z + injection), from (B, D) to (B, D)."""
        state = self._state()[0]
        if state.dim() == 2:
            return F.relu(F.linear(z, state) + injection)
        maps = z.reshape(len(z), *self.config.state_shape)
        return F.relu(F.conv2d(maps, state, padding=state.shape[2] // 2).flatten(1) + injection)

    def readout(self, z: Tensor) -> Tensor:
        """Map states, shape (B, D), to logits, shape (B, K)."""
        logits: Tensor = self.classifier(z)
        return logits

    def interval_form(self, x: Tensor | None = None) -> IntervalForm:
        """Return the model as affine maps, through which intervals go; with gradients.

        Args:
            x: In training mode, the clean images, shape (B, C, H, W), whose statistics normalise
                the input block, as they do when these images are injected. Running statistics are
                left as they are. In evaluation mode they are what normalises, and x is not needed.

        Raises:
            ConfigError: In training mode without x.
        """
        if self.training and x is None:
            raise ConfigError("the intervals of a model in training mode need the images.")
        state, diagonal = self._state()
        features = None if x is None or not self.training else self.normalize(x)
        affines: list[Affine] = []
        for place, layer in enumerate(self.block):
            assert isinstance(layer, Layer)
            before = None if features is None else layer.before(features)
            affine = layer.affine(before)
            if place + 1 == len(self.block):
                affine = divided(affine, diagonal, self._roundings)
            elif features is not None:
                features = F.relu(affine(features))  # as when injected
            affines.append(affine)
        return IntervalForm(
            normalize=self.normalize,
            block=tuple(affines),
            state=Affine(state, torch.zeros_like(diagonal), roundings=self._roundings),
            readout=Affine(self.classifier.weight, self.classifier.bias),
            shape=self.config.state_shape,
        )

    def contraction(self) -> tuple[Tensor, float]:
        """Return v > 0, shape (D,), and rho with |N| v <= rho v in every element.

        The cell and its interval cell contract by rho in max_i |z_i| / v_i. Verified in float64
        for the stored weights, every rounding charged; where that fails, rho is not below 1.
        """
        proven, shape = self._proven(), self.config.state_shape
        v = proven.weights.view(-1, *[1] * (len(shape) - 1)).expand(shape)
        return v.reshape(-1), proven.factor

    def rounding(self, z: Tensor, injection: Tensor) -> tuple[Tensor, Tensor]:
        """Bound the rounding of a float64 evaluation; see :class:`EnclosedModel`.

        Each element of N z + h is an inner product whose factors have roundings behind them, too;
        its error is at most gamma times the inner product of the absolute values. Of |N| the norm
        is at most that of the sums over its kernel.
        """
        gamma = MARGIN * rounding_constant(self.weight[0].numel() + self._roundings + 4)
        size = torch.linalg.vector_norm(z, dim=1)
        entering = torch.linalg.vector_norm(injection, dim=1)
        cell = MARGIN * gamma * (self._proven().size * size + entering)
        classifier = self.classifier.weight.double()
        widest = torch.linalg.vector_norm(classifier, dim=1).max()
        gamma = MARGIN * rounding_constant(classifier.shape[1] + 4)
        logit = MARGIN * gamma * (widest * size + self.classifier.bias.double().abs().max())
        # Two logits, and the rounding of their difference.
        return cell + TINY, 4.0 * logit + TINY

    def error_bound(self, residual: Tensor) -> Tensor:
        """Return residual * ||(I - |N|)^-1||_2, shape (B,), float64, rounded up.

        It holds because |z - z*| <= |N| |z - z*| + |f(z) - z|, element by element.

        Raises:
            ConfigError: If the stored weights are not proven to contract.
        """
        proven = self._proven()
        if not proven.factor < 1.0:
            raise ConfigError(
                "the cell of this interval model is not proven to contract; its weights are too "
                f"near to the edge of what float64 can verify for its m, {self.config.monotone:g}."
            )
        return MARGIN * residual.double() * proven.gain

    @torch.no_grad()
    def injection_rounding(self, x: Tensor) -> Tensor:
        """Bound what rounding changes in ``inject(x)``; see :class:`ProvenModel`.

        The exact injection is in a box that is rounded outwards.
        """
        centre, half = entering_out(self.interval_form(), x, x.new_zeros(len(x)))
        distance = (self.inject(x) - centre).abs() + half
        bound: Tensor = MARGIN * torch.linalg.vector_norm(MARGIN * distance, dim=1)
        return bound

    def readout_lipschitz(self) -> Tensor:
        """Return ||c_i - c_j||_2 of the readout's rows, shape (K, K), float64, rounded up."""
        rows = self.classifier.weight.detach().double()
        distances: Tensor = torch.linalg.vector_norm(rows[:, None] - rows[None], dim=2)
        return MARGIN * distances

    def _state(self, free: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return N and 1 - diag W, shape (width,), of M: the weight, with gradients, if not given.

        N has the shape of M.
        """
        free, m = self.weight if free is None else free, self.config.monotone
        kernel = tuple(range(2, free.dim()))
        own = torch.eye(len(free), dtype=free.dtype, device=free.device)
        if kernel:
            own = F.pad(own[:, :, None, None], (free.shape[2] // 2,) * 4)
        if self.config.measure == "linf":
            others, diagonal = free * (1.0 - own), (free * own).sum(dim=(1, *kernel))
            rest = m + others.abs().sum(dim=(1, *kernel)) + (diagonal.abs() - diagonal)
            return others / along(rest, free), rest
        size = free.abs()
        d = size.sum(dim=(1, *kernel)) + size.sum(dim=(0, *kernel))
        d = (d / (2.0 * (1.0 - m))).clamp_min(1.0)
        scaled = free / along(d[:, None] * d, free).sqrt()
        rest = 1.0 - (scaled * own).sum(dim=(1, *kernel))
        return scaled * (1.0 - own) / along(rest, free), rest

    @property
    def _roundings(self) -> int:
        """How many roundings in float64 an element of N or of 1 - diag W has behind it.

        The sums have terms of one sign; 1 - W_ii is at least m, and W_ii at most 1.
        """
        sums = (sum(self.weight.shape[:2]) + 2) * self.weight[0, 0].numel() + 8
        return math.ceil(sums * (1.0 + 1.0 / self.config.monotone)) + 8

    @torch.no_grad()
    def _proven(self) -> Contraction:
        """Return what is proven of N; computed again when the weights changed."""

        def prove() -> Contraction:
            state = self._state(self.weight.detach().double().cpu())[0]
            return prove_contraction(state, self._roundings)

        return self._known.get((self.weight,), prove)


INTERVAL = IntervalConfig()
"""For 8x8 grey digits."""

INTERVAL_CONV = IntervalConfig(16, kernel=3, block=(8,), strides=(1, 2))
"""The same, with a state that is a map of features."""
