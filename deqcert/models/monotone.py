"""The monotone equilibrium network: one equilibrium by construction, found by a splitting."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deqcert.errors import ConfigError, DataError
from deqcert.models.base import TrainableModel
from deqcert.models.dense_config import DenseConfig
from deqcert.models.normalize import Normalize
from deqcert.models.relu_form import ReluForm
from deqcert.models.spectral import TINY, UNIT, rounding_constant, spectral_norm_bound

PREFIX = "mon.linear_module."
"""What stands before the names of A, B and U in published checkpoints, and in ours."""

MARGIN = 1.0 + 1e-9
"""More than the rounding of norms and quotients in float64, for states below a million elements."""


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


class _LinearModule(nn.Module):
    """The matrices, under the names that published checkpoints give them."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.U = nn.Linear(inputs, width)
        self.A = nn.Linear(width, width, bias=False)
        self.B = nn.Linear(width, width, bias=False)


class _Monotone(nn.Module):
    """One more level of those names."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.linear_module = _LinearModule(inputs, width)


@dataclass(frozen=True)
class _Splitting:
    """Peaceman-Rachford for weights as they are: u <- R |u| + H (U x + u0).

    Attributes:
        weights: A and B as they were, to notice a change.
        reflection: R = 2 V - I with V = (I + a (I - W))^-1, shape (D, D), float64.
        gain: H = 2 a V, shape (D, D), float64.
        factor: Bound of the spectral norm of the exact R; the map contracts by it.
        inverse_error: Bound of the spectral norm of the error of V.
        step: a.
    """

    weights: tuple[Tensor, Tensor]
    reflection: Tensor
    gain: Tensor
    factor: float
    inverse_error: float
    step: float


class MonotoneDEQ(TrainableModel):
    """z* = relu(W z* + U x + u) with W = (1 - m) I - A'A + B - B', and a linear readout of z*.

    I - W is strongly monotone with constant m whatever A and B are, so there is exactly one
    equilibrium. The plain iteration need not find it. The cell is the map of Peaceman and Rachford
    instead: with V = (I + a (I - W))^-1 and z = relu(v),

        v <- R |v| + H (U x + u),    R = 2 V - I,    H = 2 a V,

    which is their splitting written with 2 relu(v) - v = |v|. It contracts by ||R||_2 < 1, the
    state is v, and any solver of :data:`deqcert.solvers.SOLVERS` finds it; ``picard`` is the
    classical splitting.

    What is proven, and of what: the equilibrium is that of exact arithmetic on the stored A, B, U
    and C; errors of W, V and R, which are computed in float64, are bounded and charged.

    Args:
        config: Width, m and normalisation.

    **Source:** E. Winston, J. Z. Kolter, "Monotone operator equilibrium networks" (2020); D. W.
    Peaceman, H. H. Rachford (1955).
    """

    config: MonotoneConfig

    def __init__(self, config: MonotoneConfig) -> None:
        super().__init__(config)
        height, width = config.image_size
        self.normalize = Normalize(config.mean, config.std)
        self.mon = _Monotone(config.input_channels * height * width, config.width)
        self.Wout = nn.Linear(config.width, config.num_classes)
        self._known: _Splitting | None = None

    def inject(self, x: Tensor) -> Tensor:
        """Normalise images, shape (B, C, H, W) in [0, 1], and map them to H (U x + u), (B, D).

        Raises:
            DataError: If the images have another shape.
        """
        if tuple(x.shape[1:]) != self.input_shape:
            raise DataError(
                f"images of shape {tuple(x.shape)} cannot enter this model, which takes (B, "
                f"{', '.join(map(str, self.input_shape))})."
            )
        entering: Tensor = self.mon.linear_module.U(self.normalize(x).flatten(1))
        return F.linear(entering, self._matrices()[1])

    def initial_state(self, injection: Tensor) -> Tensor:
        """Return zeros of shape (B, D)."""
        return torch.zeros_like(injection)

    def cell(self, z: Tensor, injection: Tensor, masks: Tensor | None = None) -> Tensor:
        """Evaluate R |z| + injection, from (B, D) to (B, D)."""
        return F.linear(z.abs(), self._matrices()[0]) + injection

    def readout(self, z: Tensor) -> Tensor:
        """Map states of the splitting, shape (B, D), to logits of relu(z), shape (B, K)."""
        logits: Tensor = self.Wout(F.relu(z))
        return logits

    def factor(self) -> float:
        """Return the proven contraction factor ||R||_2 of the splitting."""
        return self._splitting().factor

    def relu_form(self) -> ReluForm:
        """Return W, U, C and m in float64; see :class:`ProvenModel`."""
        linear = self.mon.linear_module
        state, state_error = _state_matrix(linear.A.weight, linear.B.weight, self.config.monotone)
        entering = self.normalize.pixel_weight(linear.U.weight, self.input_shape)
        return ReluForm(
            state=state,
            input=entering,
            readout=self.Wout.weight.detach().double().cpu(),
            monotone=self.config.monotone,
            state_error=state_error,
            input_error=MARGIN * UNIT * torch.linalg.matrix_norm(entering).item(),
        )

    def injection_rounding(self, x: Tensor) -> Tensor:
        """Bound what rounding changes in ``inject(x)``; see :class:`ProvenModel`."""
        linear, splitting = self.mon.linear_module, self._splitting()
        pixels = self.normalize(x).flatten(1)
        # Each pixel was rounded twice, as if the sums had two more terms.
        size = torch.linalg.vector_norm(pixels, dim=1)
        weight, bias = linear.U.weight.double(), linear.U.bias.double()
        into = torch.linalg.matrix_norm(weight) * size + torch.linalg.vector_norm(bias)
        gamma = rounding_constant(weight.shape[1] + len(weight) + 12)
        gain = torch.linalg.matrix_norm(splitting.gain).to(x.device)
        inverse = 2.0 * splitting.step * splitting.inverse_error
        bound: Tensor = MARGIN * (MARGIN * gamma * gain + inverse) * into + TINY
        return bound

    def rounding(self, z: Tensor, injection: Tensor) -> tuple[Tensor, Tensor]:
        """Bound the rounding of a float64 evaluation; see :class:`EnclosedModel`.

        Each element of R |z| + h and each logit is an inner product with one more addition, so its
        error is at most gamma_(D+1) times the inner product of the absolute values, and that is at
        most the product of the norms (Cauchy and Schwarz). R is off by twice the error of V.
        """
        splitting = self._splitting()
        gamma = MARGIN * rounding_constant(z.shape[1] + 2)
        gamma *= 1.0 + 2.0 * rounding_constant(splitting.reflection.numel())
        size = torch.linalg.vector_norm(z, dim=1)
        entering = torch.linalg.vector_norm(injection, dim=1)
        reflection = torch.linalg.matrix_norm(splitting.reflection).to(z.device)
        cell = gamma * (reflection * size + entering) + 2.0 * splitting.inverse_error * size
        classifier = self.Wout.weight.double()
        widest = torch.linalg.vector_norm(classifier, dim=1).max()
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
                f"(factor {factor:g}); its weights are too large for its m, "
                f"{self.config.monotone:g}."
            )
        return MARGIN * residual.double() / (1.0 - factor)

    def readout_lipschitz(self) -> Tensor:
        """Return ||c_i - c_j||_2 of the readout's rows, shape (K, K), float64, rounded up."""
        rows = self.Wout.weight.detach().double()
        distances: Tensor = torch.linalg.vector_norm(rows[:, None] - rows[None], dim=2)
        return MARGIN * distances

    def _matrices(self) -> tuple[Tensor, Tensor]:
        """Return R and H in the model's type, differentiable where gradients are recorded."""
        weight = self.mon.linear_module.A.weight
        if torch.is_grad_enabled() and weight.requires_grad:
            form, _ = self._live()
            reflection, gain = form
        else:
            known = self._splitting()
            reflection, gain = known.reflection, known.gain
        return reflection.to(weight), gain.to(weight)

    def _live(self) -> tuple[tuple[Tensor, Tensor], float]:
        """Compute R and H in float64 from the weights as they are, and the step a."""
        linear, m = self.mon.linear_module, self.config.monotone
        a, b = linear.A.weight.double(), linear.B.weight.double()
        identity = torch.eye(len(a), dtype=torch.float64, device=a.device)
        operator = m * identity + a.T @ a - b + b.T  # I - W
        # Any step is right; this one is near the fastest (Winston, Kolter 2020).
        step = 1.0 / math.sqrt(m * torch.linalg.matrix_norm(operator.detach(), 2).item())
        inverse = torch.linalg.inv(identity + step * operator)
        return (2.0 * inverse - identity, 2.0 * step * inverse), step

    @torch.no_grad()
    def _splitting(self) -> _Splitting:
        """Return R, H and what is proven of them; computed again when the weights changed."""
        linear = self.mon.linear_module
        a, b = linear.A.weight.detach(), linear.B.weight.detach()
        known = self._known
        # By content: a weight can change in ways that leave neither a version nor an address.
        if known is None or not (_same(known.weights[0], a) and _same(known.weights[1], b)):
            (reflection, gain), step = self._live()
            inverse = (reflection + torch.eye(len(a), dtype=torch.float64).to(a.device)) / 2.0
            error = _inverse_error(a, b, self.config.monotone, step, inverse)
            factor = MARGIN * (spectral_norm_bound(reflection) + 2.0 * error)
            known = _Splitting((a.clone(), b.clone()), reflection, gain, factor, error, step)
            self._known = known
        return known


def _state_matrix(a: Tensor, b: Tensor, m: float) -> tuple[Tensor, float]:
    """Return W in float64 and a bound of the spectral norm of its error."""
    a, b = a.detach().double().cpu(), b.detach().double().cpu()
    state = (1.0 - m) * torch.eye(len(a), dtype=torch.float64) - a.T @ a + b - b.T
    terms = a.square().sum().item() + 2.0 * torch.linalg.matrix_norm(b).item()
    terms += (1.0 + m) * math.sqrt(len(a))
    return state, MARGIN * rounding_constant(len(a) + 5) * terms


def _inverse_error(a: Tensor, b: Tensor, m: float, step: float, inverse: Tensor) -> float:
    """Bound ||V - V'|| for a computed inverse V' of M = I + a (I - W): at most ||V|| ||I - M V'||.

    ||V|| is at most 1 / (1 + a m), because I - W is monotone.
    """
    state, state_error = _state_matrix(a, b, m)
    inverse = inverse.cpu()
    identity = torch.eye(len(state), dtype=torch.float64)
    matrix = identity + step * (identity - state)
    left: float = torch.linalg.matrix_norm(identity - matrix @ inverse).item()
    size: float = torch.linalg.matrix_norm(matrix).item() * torch.linalg.matrix_norm(inverse).item()
    left += rounding_constant(len(state) + 6) * (size + math.sqrt(len(state)))
    left += step * state_error * torch.linalg.matrix_norm(inverse).item()
    # R, H and V' are computed from one another by a sum and products with at most one rounding.
    return MARGIN * left / (1.0 + step * m) + 4.0 * UNIT * (1.0 + size)


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)


MONOTONE = MonotoneConfig()
"""For 8x8 grey digits."""
