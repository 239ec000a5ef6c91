"""The monotone equilibrium network of several resolutions that are in equilibrium together."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deqcert.errors import ConfigError
from deqcert.models.dense_config import DenseConfig
from deqcert.models.monotone import MonotoneModel

KERNEL = 3
"""Height and width of all kernels."""


@dataclass(frozen=True)
class MonotoneMultiTierConfig(DenseConfig):
    """Channels, m and normalisation of a :class:`MonotoneMultiTierDEQ`.

    Args:
        width: Channels of the first tier, which has the resolution of the images.
        tiers: How many there are; each further one has half the resolution and twice the channels.
        monotone: m, above 0.

    Raises:
        ConfigError: If a value is out of range, or the images cannot be halved so often.
    """

    name: ClassVar[str] = "monotone-multi-tier"
    keys: ClassVar[Mapping[str, str]] = {"MONOTONE": "monotone", "TIERS": "tiers"}

    width: int = 2
    monotone: float = field(default=1.0, kw_only=True)
    tiers: int = field(default=2, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.monotone < math.inf:
            raise ConfigError(f"m (monotone) is {self.monotone}, but it must be above 0.")
        if isinstance(self.tiers, bool) or not isinstance(self.tiers, int) or self.tiers < 1:
            raise ConfigError(f"tiers is {self.tiers!r}, but it must be a whole number from 1.")
        scale = 2 ** (self.tiers - 1)
        # With less than three places a circular kernel would meet itself.
        if any(side % scale or side < KERNEL * scale for side in self.image_size):
            raise ConfigError(
                f"images of {self.image_size} cannot be halved {self.tiers - 1} times; height and "
                f"width must be multiples of {scale}, from {KERNEL * scale}."
            )

    @property
    def shapes(self) -> list[tuple[int, int, int]]:
        """Channels, height and width of each tier."""
        height, width = self.image_size
        return [
            (self.width * 2**tier, height // 2**tier, width // 2**tier)
            for tier in range(self.tiers)
        ]

    def build(self) -> MonotoneMultiTierDEQ:
        """Build the model with random weights, in training mode."""
        return MonotoneMultiTierDEQ(self)


class _Tiers(nn.Module):
    """The kernels: A and B within each tier, and D from each tier to the next."""

    def __init__(self, inputs: int, channels: list[int]) -> None:
        super().__init__()
        self.U = nn.Conv2d(inputs, channels[0], KERNEL)
        self.A = nn.ModuleList(nn.Conv2d(c, c, KERNEL, bias=False) for c in channels)
        self.B = nn.ModuleList(nn.Conv2d(c, c, KERNEL, bias=False) for c in channels)
        self.D = nn.ModuleList(
            nn.Conv2d(c, d, KERNEL, bias=False) for c, d in itertools.pairwise(channels)
        )


class MonotoneMultiTierDEQ(MonotoneModel):
    """The monotone network whose state is a pyramid of feature maps.

    W = (1 - m) I - A'A + B - B' with B one convolution a tier, and A one a tier and one of stride
    two from each tier to the next, so that A'A joins neighbouring tiers in both directions. All are
    padded circularly. The image enters the first tier; the readout takes every tier, averaged to
    the resolution of the last.

    Args:
        config: Channels, m and normalisation.

    **Source:** E. Winston, J. Z. Kolter, "Monotone operator equilibrium networks" (2020), section
    4.2, without the scaling of the kernels by their norms.
    """

    config: MonotoneMultiTierConfig

    def __init__(self, config: MonotoneMultiTierConfig) -> None:
        channels = [shape[0] for shape in config.shapes]
        linear = _Tiers(config.input_channels, channels)
        _, height, width = config.shapes[-1]
        readout = nn.Linear(sum(channels) * height * width, config.num_classes)
        super().__init__(config, config.monotone, linear, readout)

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return A and B, shape (D, D), in float64, with gradients."""
        linear = self._linear
        size = sum(math.prod(shape) for shape in self.config.shapes)
        basis = torch.eye(size, dtype=torch.float64, device=linear.U.weight.device)
        tiers = self._apart(basis)
        through_a = [_circular(z, conv.weight) for z, conv in zip(tiers, linear.A, strict=True)]
        for tier, conv in enumerate(linear.D):
            through_a[tier + 1] = through_a[tier + 1] + _circular(tiers[tier], conv.weight, 2)
        through_b = [_circular(z, conv.weight) for z, conv in zip(tiers, linear.B, strict=True)]
        a, b = (torch.cat([z.flatten(1) for z in part], dim=1).T for part in (through_a, through_b))
        return a, b

    def enter(self, pixels: Tensor) -> Tensor:
        """Map normalised images, shape (B, C, H, W), to U x + u, shape (B, D)."""
        linear = self._linear.U
        assert linear.bias is not None
        first = _circular(pixels, linear.weight) + linear.bias[:, None, None]
        return self._below(first)

    @torch.no_grad()
    def input_matrix(self) -> tuple[Tensor, Tensor]:
        """Return U, shape (D, C*H*W), and u, shape (D,), in float64."""
        linear = self._linear.U
        inputs = math.prod(self.input_shape)
        basis = torch.eye(inputs, dtype=torch.float64, device=linear.weight.device)
        through = _circular(basis.view(inputs, *self.input_shape), linear.weight)
        assert linear.bias is not None
        bias = linear.bias.double()[:, None, None].expand(1, *through.shape[1:])
        return self._below(through).T.contiguous(), self._below(bias)[0]

    def features(self, z: Tensor) -> Tensor:
        """Return the means of every tier at the last one's resolution, shape (B, ...)."""
        last = len(self.config.shapes) - 1
        parts = [F.avg_pool2d(part, 2 ** (last - at)) for at, part in enumerate(self._apart(z))]
        return torch.cat([part.flatten(1) for part in parts], dim=1)

    @torch.no_grad()
    def readout_matrix(self) -> Tensor:
        """Return C, shape (K, D), in float64; means of a power of two are exact."""
        weight = self.Wout.weight.double()
        size = sum(math.prod(shape) for shape in self.config.shapes)
        return weight @ self.features(torch.eye(size, dtype=torch.float64, device=weight.device)).T

    @property
    def _linear(self) -> _Tiers:
        assert isinstance(self.mon.linear_module, _Tiers)
        return self.mon.linear_module

    def _apart(self, z: Tensor) -> list[Tensor]:
        """Return the feature maps of states, shape (B, D)."""
        shapes = self.config.shapes
        parts = torch.split(z, [math.prod(shape) for shape in shapes], dim=1)
        return [part.reshape(len(z), *shape) for part, shape in zip(parts, shapes, strict=True)]

    def _below(self, first: Tensor) -> Tensor:
        """Return a first tier with zeros in the others, shape (B, D)."""
        rest = sum(math.prod(shape) for shape in self.config.shapes[1:])
        return F.pad(first.flatten(1), (0, rest))


def _circular(x: Tensor, kernel: Tensor | nn.Module, stride: int = 1) -> Tensor:
    assert isinstance(kernel, Tensor)
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="circular"), kernel.to(x.dtype), stride=stride)


MONOTONE_MULTI_TIER = MonotoneMultiTierConfig()
"""For 8x8 grey digits."""
