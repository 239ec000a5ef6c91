"""The convolutional Lipschitz-bounded equilibrium network: SLL layers that feed back."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deqcert.errors import ConfigError
from deqcert.models.base import TrainableModel
from deqcert.models.dense_config import DenseConfig
from deqcert.models.images import check_shape
from deqcert.models.normalize import Normalize
from deqcert.models.of_weights import OfWeights
from deqcert.models.sll import MARGIN, SLLConv, through
from deqcert.models.spectral import TINY, UNIT, rounding_constant, spectral_norm_bound


@dataclass(frozen=True)
class LipschitzConvConfig(DenseConfig):
    """Sizes, Lipschitz constant and normalisation of a :class:`LipschitzConvDEQ`.

    Args:
        width: Channels at half the resolution of the images, at least 4 times those of the images;
            four times as many at each further halving.
        lipschitz: g, above 0: no two inputs change a logit by more than g times their l2 distance
            in pixel units of [0, 1]. It scales the logits, so it is the inverse temperature of a
            cross-entropy; radii do not depend on it.
        layers: SLL layers at each resolution, which halves before each entry. The layers of the
            last one are the cell, those before enter once.
        hidden: Channels of their hidden states, one entry for each of ``layers``.
        kernel: Height and width of all kernels; odd.
        factor: In (0, 1): the cell is kept a contraction by at most this.

    Raises:
        ConfigError: If a value is out of range.
    """

    name: ClassVar[str] = "lipschitz-conv"
    keys: ClassVar[Mapping[str, str]] = {
        "LIPSCHITZ": "lipschitz",
        "LAYERS": "layers",
        "HIDDEN": "hidden",
        "KERNEL": "kernel",
        "FACTOR": "factor",
    }

    width: int = 8
    num_layers: int = 1
    lipschitz: float = field(default=4.0, kw_only=True)
    layers: tuple[int, ...] = field(default=(1, 2), kw_only=True)
    hidden: tuple[int, ...] = field(default=(8, 16), kw_only=True)
    kernel: int = field(default=3, kw_only=True)
    factor: float = field(default=0.7, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("layers", "hidden"):
            value = tuple(getattr(self, name))
            object.__setattr__(self, name, value)
            if not value or not all(map(_is_size, value)):
                raise ConfigError(f"{name} is {value}, but it must be whole numbers from 1.")
        if len(self.layers) != len(self.hidden):
            raise ConfigError(
                f"layers has {len(self.layers)} entries and hidden {len(self.hidden)}, but each "
                "resolution needs one of both."
            )
        if not _is_size(self.kernel) or self.kernel % 2 == 0:
            raise ConfigError(f"kernel is {self.kernel!r}, but it must be an odd whole number.")
        if not 0.0 < self.lipschitz < math.inf:
            raise ConfigError(f"lipschitz is {self.lipschitz}, but it must be above 0.")
        if not 0.0 < self.factor < 1.0:
            raise ConfigError(f"factor is {self.factor}, but it must lie between 0 and 1.")
        if not all(0.0 < value < math.inf for value in self.std):
            raise ConfigError(f"std is {self.std}, but each deviation must be above 0.")
        if self.width < 4 * self.input_channels:
            raise ConfigError(
                f"width is {self.width}, but four pixels of {self.input_channels} channels become "
                f"one; it must be at least {4 * self.input_channels}."
            )
        scale = 2 ** len(self.layers)
        if any(side % scale for side in self.image_size):
            raise ConfigError(
                f"images of {self.image_size} cannot be halved {len(self.layers)} times; height "
                f"and width must be multiples of {scale}."
            )

    @property
    def stream(self) -> tuple[int, int, int]:
        """Channels, height and width of what enters the cell and leaves it."""
        height, width = (side // 2 ** len(self.layers) for side in self.image_size)
        return self.width * 4 ** (len(self.layers) - 1), height, width

    def build(self) -> LipschitzConvDEQ:
        """Build the model with random weights, in training mode."""
        return LipschitzConvDEQ(self)


class LipschitzConvDEQ(TrainableModel):
    """L SLL layers whose hidden states feed back to one another; no logit changes faster than g.

        x_1 = injection,  z_k = relu(B_k' x_k + b_k + (E z)_k),  x_(k+1) = x_k - 2 B_k z_k

    for k = 1 .. L, with ||B_k|| <= 1 (:class:`deqcert.models.sll.SLLConv`) and E = V - V', which
    mixes the channels of all hidden states at each place. The state is (z_1, ..., z_L, x_(L+1)).
    One evaluation from zero is the plain SLL network. relu being slope-restricted,

        |dx_(k+1)|^2 <= |dx_k|^2 + 4 dz_k' (E dz)_k,

    and these sum up to |dx_(L+1)| <= |dx_1| because E is skew: at the equilibrium feedback costs
    nothing, however strong it is. How fast the equilibrium is found does depend on it: the cell
    contracts by at most ||M|| ||E||, M lower triangular with ones, and twos below the diagonal.
    In training V is scaled back to keep that below ``config.factor``.

    What enters is the image, scaled to a constant of at most g, with four pixels taken together as
    channels at each halving (a permutation), through SLL layers without feedback. The rows of the
    readout have norm 1. So logit i minus logit j has the constant g ||v_i - v_j||.

    What is proven, and of what: all of it holds for exact arithmetic on the stored weights, T^-1/2
    included; what float64 rounds is bounded and charged.

    Args:
        config: Sizes, g and normalisation.

    **Source:** the layers are those of A. Araujo et al. (2023); that they are Lipschitz-bounded
    equilibrium networks, which a trained one can be extended from, is from A. Havens et al. (2023);
    the skew feedback is the free S of M. Revay, R. Wang, I. Manchester, "Lipschitz Bounded
    Equilibrium Networks" (2020). The rows of norm 1 are of S. Singla, S. Singla, S. Feizi,
    "Improved Deterministic l2 Robustness on CIFAR-10 and CIFAR-100" (2022).
    """

    config: LipschitzConvConfig

    def __init__(self, config: LipschitzConvConfig) -> None:
        super().__init__(config)
        self.normalize = Normalize(config.mean, config.std)
        tiers = [
            nn.ModuleList(
                SLLConv(config.width * 4**tier, hidden, config.kernel) for _ in range(layers)
            )
            for tier, (layers, hidden) in enumerate(zip(config.layers, config.hidden, strict=True))
        ]
        self.encoder = nn.ModuleList(tiers[:-1])
        self.layers = tiers[-1]
        channels = config.layers[-1] * config.hidden[-1]
        self.feedback = nn.Parameter(torch.zeros(channels, channels))
        self.classifier = nn.Linear(math.prod(config.stream), config.num_classes)
        self._known = OfWeights[float]()

    def inject(self, x: Tensor) -> Tensor:
        """Map images, shape (B, C, H, W) in [0, 1], to what enters the cell, shape (B, c, h, w).

        Raises:
            DataError: If the images have another shape.
        """
        check_shape(x, self.input_shape)
        if self.training:
            self._project()
        stream = F.pixel_unshuffle(self._scaled(x), 2)
        stream = F.pad(stream, (0, 0, 0, 0, 0, self.config.width - stream.shape[1]))
        for tier in self.encoder.children():
            for layer in _each(tier):
                kernel = layer.kernel()
                stream = stream - 2.0 * layer.widen(F.relu(layer.narrow(stream, kernel)), kernel)
            stream = F.pixel_unshuffle(stream, 2)
        return stream

    def initial_state(self, injection: Tensor) -> Tensor:
        """Return zeros of shape (B, D)."""
        return injection.new_zeros(len(injection), self._inner + math.prod(self.config.stream))

    def cell(self, z: Tensor, injection: Tensor, masks: Tensor | None = None) -> Tensor:
        """Evaluate all layers once, from (B, D) to (B, D)."""
        _, *size = self.config.stream
        before = z[:, : self._inner].reshape(len(z), -1, *size)
        fed = F.conv2d(before, self.skew().to(z.dtype)[:, :, None, None])
        stream, found = injection, []
        for layer, part in zip(_each(self.layers), fed.chunk(len(self.layers), dim=1), strict=True):
            kernel = layer.kernel()
            state = F.relu(layer.narrow(stream, kernel) + part)
            stream = stream - 2.0 * layer.widen(state, kernel)
            found.append(state.flatten(1))
        return torch.cat((*found, stream.flatten(1)), dim=1)

    def skew(self) -> Tensor:
        """Return E = V - V', from all hidden channels to all, layer after layer."""
        return self.feedback - self.feedback.T

    def readout(self, z: Tensor) -> Tensor:
        """Map states, shape (B, D), to logits, shape (B, K)."""
        return F.linear(z[:, self._inner :], self._rows(), self.classifier.bias)

    def pairwise_lipschitz(self) -> Tensor:
        """Return g ||v_i - v_j||, shape (K, K), with gradients; see :class:`LipschitzModel`."""
        cosines = self._rows() @ self._rows().T
        apart = (2.0 - 2.0 * cosines).clamp_min(1e-12).sqrt()
        return self.config.lipschitz * (apart - apart.diagonal().diag())

    def proven_lipschitz(self) -> Tensor:
        """Return g ||v_i - v_j||, rounded up; see :class:`PrescribedModel`."""
        return MARGIN * self.config.lipschitz * self.readout_lipschitz()

    def readout_lipschitz(self) -> Tensor:
        """Return ||v_i - v_j||_2 of the readout's rows, shape (K, K), float64, rounded up."""
        rows = _unit(self.classifier.weight.detach().double())
        distances: Tensor = torch.linalg.vector_norm(rows[:, None] - rows[None], dim=2)
        # Either row is off by a few roundings in the norm, each of a sum of that many squares.
        off = 4.0 * rounding_constant(rows.shape[1] + 8)
        return MARGIN * (distances + off).fill_diagonal_(0.0)

    def factor(self) -> float:
        """Return the proven contraction factor of the cell for the hidden states."""
        return MARGIN * self._response() * self._feedback_norm()

    def error_bound(self, residual: Tensor) -> Tensor:
        """Bound ||z - z*||, shape (B,), float64; see :class:`EnclosedModel`.

        Of the hidden states it is at most r / (1 - factor); and x_(L+1) follows these with a
        constant of 2 sqrt(L) ||E||.

        Raises:
            ConfigError: If the cell is not proven to contract.
        """
        factor = self.factor()
        if not factor < 1.0:
            raise ConfigError(
                f"the feedback of this model is only proven to contract by {factor:g}, but it "
                "takes less than 1; train it longer or with a smaller FACTOR."
            )
        hidden = residual.double() / (1.0 - factor)
        follows = 2.0 * math.sqrt(len(self.layers)) * self._feedback_norm()
        stream = residual.double() + follows * hidden
        bound: Tensor = MARGIN * (hidden.square() + stream.square()).sqrt()
        return bound

    @torch.no_grad()
    def rounding(self, z: Tensor, injection: Tensor) -> tuple[Tensor, Tensor]:
        """Bound the rounding of a float64 evaluation; see :class:`EnclosedModel`."""
        skew = torch.linalg.matrix_norm(self.skew().double())
        before = torch.linalg.vector_norm(z[:, : self._inner], dim=1)
        fed = MARGIN * skew * before
        off = rounding_constant(len(self.feedback) + 4) * fed
        entering = torch.linalg.vector_norm(injection.flatten(1), dim=1)
        pixels = math.prod(self.config.stream[1:])
        _, cell = through(_each(self.layers), entering, fed, off, pixels)
        size = torch.linalg.vector_norm(z[:, self._inner :], dim=1)
        gamma = rounding_constant(2 * self.classifier.weight.shape[1] + 16)
        logit = gamma * (size + self.classifier.bias.double().abs().max())
        # Two logits, and the rounding of their difference.
        return MARGIN * cell + TINY, 4.0 * MARGIN * logit + TINY

    @torch.no_grad()
    def injection_rounding(self, x: Tensor) -> Tensor:
        """Bound what rounding changes in ``inject(x)``; see :class:`PrescribedModel`."""
        size = torch.linalg.vector_norm(self._scaled(x).flatten(1), dim=1)
        error = rounding_constant(12) * size
        pixels = math.prod(self.config.image_size)
        for tier in self.encoder.children():
            pixels //= 4
            size, more = through(_each(tier), size, torch.zeros_like(size), 0.0, pixels)
            error = error + more
        bound: Tensor = MARGIN * error + TINY
        return bound

    @property
    def _inner(self) -> int:
        """Elements of all hidden states together."""
        _, height, width = self.config.stream
        return self.config.layers[-1] * self.config.hidden[-1] * height * width

    def _rows(self) -> Tensor:
        return _unit(self.classifier.weight)

    def _scaled(self, x: Tensor) -> Tensor:
        """Normalise pixels so that none of them enters with a factor above g."""
        least = self.normalize.std.min()
        scaled: Tensor = self.normalize(x) * (self.config.lipschitz * least)
        return scaled

    def _response(self) -> float:
        """Bound ||M||: how far the hidden states of a sweep move when what is fed back moves."""
        size = len(self.layers)
        ones = torch.ones(size, size, dtype=torch.float64)
        return spectral_norm_bound(torch.eye(size, dtype=torch.float64) + 2.0 * ones.tril(-1))

    def _feedback_norm(self) -> float:
        """Bound ||E|| of the stored V."""

        def prove() -> float:
            exact = self.feedback.detach().double()
            bound = spectral_norm_bound(exact - exact.T)
            bound += 2.0 * UNIT * torch.linalg.matrix_norm(exact).item()
            return float(MARGIN * bound)

        return self._known.get((self.feedback,), prove)

    @torch.no_grad()
    def _project(self) -> None:
        skew = self.skew()
        most = self.config.factor / self._response()
        if torch.linalg.matrix_norm(skew) > most:  # Frobenius' norm is never below the other
            size = torch.linalg.matrix_norm(skew.double(), 2).item()
            if size > most:
                # A little more, so that what is proven of it is not outside again.
                self.feedback.mul_(most / size * (1.0 - 5e-4))


def _each(tier: nn.Module) -> Iterator[SLLConv]:
    for layer in tier.children():
        assert isinstance(layer, SLLConv)
        yield layer


def _unit(rows: Tensor) -> Tensor:
    unit: Tensor = rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return unit


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


LIPSCHITZ_CONV = LipschitzConvConfig()
"""For 8x8 grey digits."""
