"""The monotone equilibrium network of one circular convolution, as it is published."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deqcert.errors import CheckpointError, ConfigError
from deqcert.models.dense_config import DenseConfig
from deqcert.models.monotone import MonotoneModel

KERNEL = 3
"""Height and width of the kernels of A and B."""

POOL = 2
"""Height and width of the windows whose means the readout takes."""


@dataclass(frozen=True)
class MonotoneConvConfig(DenseConfig):
    """Channels, kernel and normalisation of a :class:`MonotoneConvDEQ`.

    Args:
        width: Channels of the state.
        monotone: m, above 0.
        kernel: Height and width of the kernel of U.
        stride: Stride of U.

    Raises:
        ConfigError: If a value is out of range, or leaves the state without an inside.
    """

    name: ClassVar[str] = "monotone-conv"
    keys: ClassVar[Mapping[str, str]] = {
        "MONOTONE": "monotone",
        "KERNEL": "kernel",
        "STRIDE": "stride",
    }

    width: int = 8
    monotone: float = field(default=1.0, kw_only=True)
    kernel: int = field(default=3, kw_only=True)
    stride: int = field(default=1, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.monotone < math.inf:
            raise ConfigError(f"m (monotone) is {self.monotone}, but it must be above 0.")
        for name in ("kernel", "stride"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"{name} is {value!r}, but it must be a whole number from 1.")
        if min(self.state_size) < 4:
            raise ConfigError(
                f"images of {self.image_size} leave a state of {self.state_size} at kernel "
                f"{self.kernel} and stride {self.stride}, but it must be at least 4 by 4."
            )

    @property
    def state_size(self) -> tuple[int, int]:
        """Height and width of the state, its border of zeros included."""
        height, width = ((size + 2 - self.kernel) // self.stride + 1 for size in self.image_size)
        return height, width

    @property
    def features(self) -> int:
        """Means that the readout takes."""
        return self.width * math.prod(size // POOL for size in self.state_size)

    def build(self) -> MonotoneConvDEQ:
        """Build the model with random weights, in training mode."""
        return MonotoneConvDEQ(self)


class _Convolutions(nn.Module):
    """The kernels, under the names that published checkpoints give them."""

    def __init__(self, inputs: int, channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.tensor(1.0))
        self.h = nn.Parameter(torch.tensor(1.0))
        self.U = nn.Conv2d(inputs, channels, kernel, stride=stride)
        self.A = nn.Conv2d(channels, channels, KERNEL, bias=False)
        self.B = nn.Conv2d(channels, channels, KERNEL, bias=False)


class MonotoneConvDEQ(MonotoneModel):
    """The monotone network whose A, B and U are convolutions with circular padding.

    A'A is scaled by g / ||A||^2 and B - B' by h / ||B||, norms over the kernel's elements. The
    border of the state, one element wide, is held at zero; so the state is what lies inside of it,
    and W is the block of the convolution that maps the inside to itself. The readout takes the
    means of 2x2 windows of the whole.

    Args:
        config: Channels, m, kernel, stride and normalisation.

    Raises:
        CheckpointError: On the first use, if g is negative: such a model is not monotone.

    **Source:** M. N. Müller, R. Staab, M. Fischer, M. Vechev, "Abstract Interpretation of
    Fixpoint Iterators with Applications to Neural Networks" (2023), whose published networks these
    are; E. Winston, J. Z. Kolter (2020).
    """

    config: MonotoneConvConfig

    def __init__(self, config: MonotoneConvConfig) -> None:
        linear = _Convolutions(config.input_channels, config.width, config.kernel, config.stride)
        readout = nn.Linear(config.features, config.num_classes)
        super().__init__(config, config.monotone, linear, readout)

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return sqrt(g) / ||A|| A and h / ||B|| B on the inside, in float64, with gradients.

        Raises:
            CheckpointError: If g is negative.
        """
        linear = self._linear
        if not linear.g.item() >= 0.0:
            raise CheckpointError(
                f"g is {linear.g.item():g} in these weights, but a monotone network needs one of "
                "at least 0; nothing can be proven of it."
            )
        basis = self._outside(torch.eye(self._size, dtype=torch.float64, device=linear.g.device))
        a, b = linear.A.weight.double(), linear.B.weight.double()
        a = linear.g.double().sqrt() / torch.linalg.vector_norm(a) * a
        b = linear.h.double() / torch.linalg.vector_norm(b) * b
        through_a = F.conv2d(_circular(basis), a).flatten(1).T
        through_b = self._inside(F.conv2d(_circular(basis), b)).T
        return through_a, through_b

    def enter(self, pixels: Tensor) -> Tensor:
        """Map normalised images, shape (B, C, H, W), to U x + u, shape (B, D)."""
        return self._inside(self._linear.U(_circular(pixels)))

    @torch.no_grad()
    def input_matrix(self) -> tuple[Tensor, Tensor]:
        """Return U, shape (D, C*H*W), and u, shape (D,), in float64."""
        linear = self._linear.U
        inputs = math.prod(self.input_shape)
        basis = torch.eye(inputs, dtype=torch.float64, device=linear.weight.device)
        images = _circular(basis.view(inputs, *self.input_shape))
        through = F.conv2d(images, linear.weight.double(), stride=self.config.stride)
        assert linear.bias is not None
        bias = linear.bias.double()[:, None, None].expand(1, *through.shape[1:])
        return self._inside(through).T.contiguous(), self._inside(bias)[0]

    def features(self, z: Tensor) -> Tensor:
        """Return the means of 2x2 windows, border of zeros included, shape (B, width * ...)."""
        return F.avg_pool2d(self._outside(z), POOL).flatten(1)

    @torch.no_grad()
    def readout_matrix(self) -> Tensor:
        """Return C, shape (K, D), in float64; means of four are exact."""
        weight = self.Wout.weight.double()
        basis = torch.eye(self._size, dtype=torch.float64, device=weight.device)
        return weight @ self.features(basis).T

    @property
    def _linear(self) -> _Convolutions:
        assert isinstance(self.mon.linear_module, _Convolutions)
        return self.mon.linear_module

    @property
    def _size(self) -> int:
        """D: elements inside the border."""
        height, width = self.config.state_size
        return self.config.width * (height - 2) * (width - 2)

    def _inside(self, z: Tensor) -> Tensor:
        return z[:, :, 1:-1, 1:-1].flatten(1)

    def _outside(self, z: Tensor) -> Tensor:
        height, width = self.config.state_size
        inside = z.reshape(len(z), self.config.width, height - 2, width - 2)
        return F.pad(inside, (1, 1, 1, 1))


def _circular(x: Tensor) -> Tensor:
    return F.pad(x, (1, 1, 1, 1), mode="circular")


MONOTONE_CONV = MonotoneConvConfig()
"""For 8x8 grey digits."""
