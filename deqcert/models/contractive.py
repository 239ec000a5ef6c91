"""A small equilibrium classifier whose cell is a proven contraction."""

from __future__ import annotations

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
from deqcert.models.normalize import Normalize
from deqcert.models.of_weights import OfWeights
from deqcert.models.relu_form import ReluForm, classical_slopes
from deqcert.models.spectral import TINY, UNIT, rounding_constant, spectral_norm_bound

MARGIN = 1.0 + 1e-9
"""More than the rounding of norms and quotients in float64, for states below a million elements."""


@dataclass(frozen=True)
class ContractiveConfig(DenseConfig):
    """Width, factor and normalisation of a :class:`ContractiveDEQ`.

    Args:
        factor: Largest spectral norm of the weight in training, in (0, 1). Nearer to 1 the model
            is richer, and its equilibrium takes longer to find and to prove.

    Raises:
        ConfigError: If a value is out of range.
    """

    name: ClassVar[str] = "contractive"
    keys: ClassVar[Mapping[str, str]] = {"FACTOR": "factor"}

    factor: float = field(default=0.9, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.factor < 1.0:
            raise ConfigError(f"factor is {self.factor}, but it must lie between 0 and 1.")

    def build(self) -> ContractiveDEQ:
        """Build the model with random weights, in training mode."""
        return ContractiveDEQ(self)


class ContractiveDEQ(TrainableModel):
    """z* = relu(W z* + U x + b) with ||W||_2 < 1, and a linear readout of z*.

    relu is 1-Lipschitz in l2, so the cell contracts by L = ||W||_2: it has exactly one equilibrium,
    and ||z - z*|| <= ||f(z) - z|| + ||f(z) - f(z*)|| <= ||f(z) - z|| + L ||z - z*||. In training W
    is scaled back into the ball of radius ``config.factor`` whenever images are injected.

    What is proven, and of what: L is the bound of
    :func:`deqcert.models.spectral.spectral_norm_bound` for the weights as they are stored, not the
    configured factor. The equilibrium is that of exact arithmetic on the stored W, readout and
    injection; the injection itself is the one the machine computes from the image, in the model's
    own precision.

    Args:
        config: Width and normalisation.

    **Source:** the contraction is Banach's (1922); see also E. Winston, J. Z. Kolter, "Monotone
    operator equilibrium networks" (2020), for a larger class.
    """

    config: ContractiveConfig

    def __init__(self, config: ContractiveConfig) -> None:
        super().__init__(config)
        height, width = config.image_size
        self.normalize = Normalize(config.mean, config.std)
        self.encoder = nn.Linear(config.input_channels * height * width, config.width)
        self.weight = nn.Parameter(torch.empty(config.width, config.width))
        nn.init.orthogonal_(self.weight, gain=0.5 * config.factor)
        self.classifier = nn.Linear(config.width, config.num_classes)
        self._proven = OfWeights[float]()

    def inject(self, x: Tensor) -> Tensor:
        """Normalise images, shape (B, C, H, W) in [0, 1], and map them to (B, D).

        Raises:
            DataError: If the images have another shape.
        """
        check_shape(x, self.input_shape)
        if self.training:
            self._project()
        injection: Tensor = self.encoder(self.normalize(x).flatten(1))
        return injection

    def initial_state(self, injection: Tensor) -> Tensor:
        """Return zeros of shape (B, D)."""
        return torch.zeros_like(injection)

    def cell(self, z: Tensor, injection: Tensor, masks: Tensor | None = None) -> Tensor:
        """Evaluate relu(W z + injection), from (B, D) to (B, D)."""
        return F.relu(F.linear(z, self.weight) + injection)

    def readout(self, z: Tensor) -> Tensor:
        """Map states, shape (B, D), to logits, shape (B, K)."""
        logits: Tensor = self.classifier(self.latent(z))
        return logits

    def latent(self, z: Tensor) -> Tensor:
        """Return states, shape (B, D), as they are."""
        return z

    def factor(self) -> float:
        """Return the proven contraction factor L of the stored weight."""
        return self._proven.get((self.weight,), lambda: spectral_norm_bound(self.weight))

    def rounding(self, z: Tensor, injection: Tensor) -> tuple[Tensor, Tensor]:
        """Bound the rounding of a float64 evaluation; see :class:`EnclosedModel`.

        Each element of W z + u and each logit is an inner product with one more addition, so its
        error is at most gamma_(D+1) times the inner product of the absolute values, and that is at
        most the product of the norms (Cauchy and Schwarz). relu adds none.
        """
        gamma = MARGIN * rounding_constant(self.weight.shape[1] + 2)
        gamma *= 1.0 + 2.0 * rounding_constant(self.weight.numel())  # of the Frobenius norm itself
        size = torch.linalg.vector_norm(z, dim=1)
        weight, classifier = self.weight.double(), self.classifier.weight.double()
        entering = torch.linalg.vector_norm(injection, dim=1)
        cell = gamma * (torch.linalg.matrix_norm(weight) * size + entering)
        widest = torch.linalg.vector_norm(classifier, dim=1).max()
        logit = gamma * (widest * size + self.classifier.bias.double().abs().max())
        # Two logits, and the rounding of their difference.
        return MARGIN * cell + TINY, 4.0 * logit + TINY

    def error_bound(self, residual: Tensor) -> Tensor:
        """Return residual / (1 - L), shape (B,), float64, rounded up.

        Raises:
            ConfigError: If the stored weight is not proven to contract.
        """
        factor = self.factor()
        if not factor < 1.0:
            raise ConfigError(
                f"the spectral norm of the model's weight is only proven to be at most {factor:g}, "
                "but its cell contracts below 1; train it longer or with a smaller FACTOR."
            )
        return MARGIN * residual.double() / (1.0 - factor)

    def readout_lipschitz(self) -> Tensor:
        """Return ||c_i - c_j||_2 of the readout's rows, shape (K, K), float64, rounded up."""
        rows = self.classifier.weight.detach().double()
        distances: Tensor = torch.linalg.vector_norm(rows[:, None] - rows[None], dim=2)
        return MARGIN * distances

    def pairwise_lipschitz(self) -> Tensor:
        """Return the classical bound, shape (K, K), with gradients; see :class:`LipschitzModel`."""
        std = self.normalize.std.double().expand(*self.input_shape).reshape(-1)
        entering, weight = self.encoder.weight.double() / std, self.weight.double()
        monotone = 1.0 - torch.linalg.matrix_norm(weight, 2)
        return classical_slopes(self.classifier.weight.double(), entering, monotone)

    def relu_form(self) -> ReluForm:
        """Return W, U, C and 1 - L in float64; see :class:`ProvenModel`.

        W contracts by L, so the symmetric part of I - W has no eigenvalue below 1 - L.
        """
        weight, own = self.encoder.weight, self.encoder.bias
        entering = self.normalize.pixel_weight(weight, self.input_shape)
        bias, bias_error = self.normalize.pixel_bias(weight, own, self.input_shape)
        return ReluForm(
            state=self.weight.detach().double().cpu(),
            input=entering,
            readout=self.classifier.weight.detach().double().cpu(),
            monotone=(1.0 - self.factor()) / MARGIN,
            state_error=0.0,
            input_error=MARGIN * UNIT * torch.linalg.matrix_norm(entering).item(),
            bias=bias,
            bias_error=bias_error,
            offset=self.classifier.bias.detach().double().cpu(),
        )

    def injection_rounding(self, x: Tensor) -> Tensor:
        """Bound what rounding changes in ``inject(x)``; see :class:`ProvenModel`."""
        weight, bias = self.encoder.weight.double(), self.encoder.bias.double()
        # Each pixel was rounded twice, as if the sums had two more terms.
        size = torch.linalg.vector_norm(self.normalize(x).flatten(1), dim=1)
        into = torch.linalg.matrix_norm(weight) * size + torch.linalg.vector_norm(bias)
        bound: Tensor = MARGIN * rounding_constant(weight.shape[1] + 8) * into + TINY
        return bound

    @torch.no_grad()
    def _project(self) -> None:
        size = torch.linalg.matrix_norm(self.weight.double(), 2).item()
        if size > self.config.factor:
            # A little more, so that rounding does not leave it outside again.
            self.weight.mul_(self.config.factor / size * (1.0 - 1e-5))


CONTRACTIVE = ContractiveConfig()
"""For 8x8 grey digits."""
