"""The Lipschitz-bounded equilibrium network: its constant is prescribed, not measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from deqcert.errors import ConfigError
from deqcert.models.dense_config import DenseConfig
from deqcert.models.monotone import DenseMonotoneModel


@dataclass(frozen=True)
class LipschitzBoundedConfig(DenseConfig):
    """Width, Lipschitz constant and normalisation of a :class:`LipschitzBoundedDEQ`.

    Args:
        lipschitz: g, above 0: no two inputs change the logits, as a vector in l2, by more than g
            times their l2 distance in pixel units of [0, 1]. A smaller g gives larger radii for the
            same margins, and smaller margins.
        monotone: m, above 0; how far the equilibrium stays from being ill-posed.

    Raises:
        ConfigError: If a value is out of range.
    """

    name: ClassVar[str] = "lipschitz-bounded"
    keys: ClassVar[Mapping[str, str]] = {"LIPSCHITZ": "lipschitz", "MONOTONE": "monotone"}

    lipschitz: float = field(default=4.0, kw_only=True)
    monotone: float = field(default=0.1, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("lipschitz", "monotone"):
            value = getattr(self, name)
            if not 0.0 < value < math.inf:
                raise ConfigError(f"{name} is {value}, but it must be above 0.")

    def build(self) -> LipschitzBoundedDEQ:
        """Build the model with random weights, in training mode."""
        return LipschitzBoundedDEQ(self)


class _Bounded(nn.Module):
    """U with its bias, V, and B, of which only B - B' matters."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.U = nn.Linear(inputs, width)
        self.V = nn.Linear(width, width, bias=False)
        self.B = nn.Linear(width, width, bias=False)


class LipschitzBoundedDEQ(DenseMonotoneModel):
    """z* = relu(W z* + U x + u), y = C z* + c, with |y(x) - y(x')| <= g |x - x'| by construction.

        W = I - (C'C + U U') / (2 g) - V'V - m I + B - B'

    With T = g I the matrix of the multiplier bound for L = g is 2 g^3 (V'V + m I), which is
    positive definite whatever the weights are. A diagonal scaling of the state, which the published
    class has besides, is already in C and U: it changes no logit. It is a monotone network, so the
    same splitting finds the equilibrium; and method ``lipschitz`` proves a constant for each pair
    of classes, at most sqrt(2) g and mostly smaller.

    Args:
        config: Width, g, m and normalisation.

    **Source:** M. Revay, R. Wang, I. Manchester, "Lipschitz Bounded Equilibrium Networks" (2020),
    theorem 3, in other coordinates.
    """

    config: LipschitzBoundedConfig

    def __init__(self, config: LipschitzBoundedConfig) -> None:
        height, width = config.image_size
        linear = _Bounded(config.input_channels * height * width, config.width)
        readout = nn.Linear(config.width, config.num_classes)
        super().__init__(config, config.monotone, linear, readout)
        # U, of plain pixels, and C have norms of about sqrt(g); else logits begin nearly constant.
        for matrix, unit in ((linear.U.weight, min(config.std)), (readout.weight, 1.0)):
            size = math.sqrt(matrix.shape[0]) + math.sqrt(matrix.shape[1])
            nn.init.normal_(matrix, std=unit * math.sqrt(config.lipschitz) / size)

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return A with A'A = (C'C + U U') / (2 g) + V'V, and B, in float64, with gradients."""
        share = 1.0 / math.sqrt(2.0 * self.config.lipschitz)
        above = share * torch.cat((self.Wout.weight.double(), self._entering().double().T))
        return torch.cat((above, self._linear.V.weight.double())), self._linear.B.weight.double()

    def pairwise_lipschitz(self) -> Tensor:
        """Return sqrt(2) g for every pair, shape (K, K); see :class:`LipschitzModel`."""
        pairs = self.Wout.weight.new_ones(self.num_classes, self.num_classes).fill_diagonal_(0.0)
        return math.sqrt(2.0) * self.config.lipschitz * pairs

    def shaping(self) -> tuple[Tensor, ...]:
        """Return the weights that W depends on: U and C are among them."""
        return (*self._linear.parameters(), self.Wout.weight)

    @property
    def _linear(self) -> _Bounded:
        assert isinstance(self.mon.linear_module, _Bounded)
        return self.mon.linear_module

    def _entering(self) -> Tensor:
        """Return U of plain pixels in float64, shape (D, C*H*W), with gradients."""
        std = self.normalize.std.double().expand(*self.input_shape).reshape(-1)
        return self._linear.U.weight.double() / std


LIPSCHITZ_BOUNDED = LipschitzBoundedConfig()
"""For 8x8 grey digits."""
