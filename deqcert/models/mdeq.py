"""The multiscale deep equilibrium classifier."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deqcert.errors import DataError
from deqcert.models.base import TrainableModel
from deqcert.models.blocks import MultiscaleCell
from deqcert.models.config import MDEQConfig
from deqcert.models.normalize import Normalize
from deqcert.models.state import StateLayout

EXPANSION = 4
"""A head bottleneck has this many times as many channels at its end as inside."""


class MDEQ(TrainableModel):
    """A multiscale deep equilibrium classifier with the parameter names of the public family.

    The state is the feature maps of all resolutions, flattened and concatenated, highest first.
    The model contains no solver; see :class:`deqcert.models.base.ImplicitModel`.

    Args:
        config: Widths, resolutions and normalisation.

    **Source:** Bai, Koltun, Kolter 2020, "Multiscale Deep Equilibrium Models", sections 3 and 4;
    details (weight normalisation, where the affine maps are) as in the code that accompanies Bai,
    Koltun, Kolter 2021, "Stabilizing Equilibrium Models by Jacobian Regularization".
    """

    config: MDEQConfig

    def __init__(self, config: MDEQConfig) -> None:
        super().__init__(config)
        width = config.channels[0]
        self.normalize = Normalize(config.mean, config.std)
        self.downsample = _stem(config)
        if config.downsample_times > 0 or len(config.channels) > 2:
            self.stage0: nn.Sequential | None = nn.Sequential(
                nn.Conv2d(width, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
            )
        else:
            self.stage0 = None
        self.fullstage = MultiscaleCell(config)
        heads = config.head_channels
        self.incre_modules = nn.ModuleList(
            nn.Sequential(Bottleneck(c, head))
            for c, head in zip(config.channels, heads, strict=True)
        )
        self.downsamp_modules = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(high * EXPANSION, low * EXPANSION, 3, 2, 1),
                nn.BatchNorm2d(low * EXPANSION),
                nn.ReLU(),
            )
            for high, low in itertools.pairwise(heads)
        )
        self.final_layer = nn.Sequential(
            nn.Conv2d(heads[-1] * EXPANSION, config.final_channels, 1),
            nn.BatchNorm2d(config.final_channels),
            nn.ReLU(),
        )
        self.classifier = nn.Linear(config.final_channels, config.num_classes)

    def inject(self, x: Tensor) -> Tensor:
        """Normalise images and compute what enters the cell's highest resolution.

        Args:
            x: Images, shape (B, C, H, W), in [0, 1]. Height and width may differ from the
                configuration's as long as every resolution halves exactly.

        Returns:
            The injection, shape (B, channels[0], H', W').

        Raises:
            DataError: If the images have another shape.
        """
        channels, scale = self.config.input_channels, self.config.scale
        if x.ndim != 4 or x.shape[1] != channels or x.shape[2] % scale or x.shape[3] % scale:
            raise DataError(
                f"images of shape {tuple(x.shape)} cannot enter this model, which takes (B, "
                f"{channels}, H, W) with H and W multiples of {scale}."
            )
        injection = self.downsample(self.normalize(x))
        return injection if self.stage0 is None else self.stage0(injection)  # type: ignore[no-any-return]

    def initial_state(self, injection: Tensor) -> Tensor:
        """Return zeros of shape (B, D) for an injection."""
        return injection.new_zeros(injection.shape[0], self._layout(injection).size)

    def draw_masks(self, rows: int, generator: torch.Generator | None = None) -> Tensor | None:
        """Draw one dropout mask per row, to be passed to every cell evaluation of one solve.

        Returns:
            Shape (rows, channels of all residual blocks), or None where nothing is dropped: in
            evaluation mode or with a dropout rate of 0.
        """
        rate = self.config.dropout
        if not self.training or rate == 0.0:
            return None
        width = sum(
            blocks * c
            for blocks, c in zip(self.config.num_blocks, self.config.channels, strict=True)
        )
        device = self.classifier.weight.device
        # Drawn where the generator is, so that every device sees the same numbers.
        keep = torch.full(
            (rows, width), 1.0 - rate, device=generator.device if generator else device
        )
        return (torch.bernoulli(keep, generator=generator) / (1.0 - rate)).to(device)

    def cell(self, z: Tensor, injection: Tensor, masks: Tensor | None = None) -> Tensor:
        """Evaluate the cell once.

        Args:
            z: States, shape (B, D).
            injection: What :meth:`inject` returned for the same rows.
            masks: What :meth:`draw_masks` returned for the same rows.

        Returns:
            States, shape (B, D).
        """
        layout = self._layout(injection)
        maps = self.fullstage(layout.unpack(z), injection, self._split(masks))
        return layout.pack(maps)

    def readout(self, z: Tensor) -> Tensor:
        """Map states, shape (B, D), to logits, shape (B, K)."""
        return self.classifier(self.latent(z))  # type: ignore[no-any-return]

    def latent(self, z: Tensor) -> Tensor:
        """Map states, shape (B, D), to pooled features, shape (B, final channels)."""
        maps = self._state_layout(z).unpack(z)
        features = self.incre_modules[0](maps[0])
        for widen, downsample, entry in zip(
            self.incre_modules[1:], self.downsamp_modules, maps[1:], strict=True
        ):
            features = widen(entry) + downsample(features)
        features = self.final_layer(features)
        return F.avg_pool2d(features, features.shape[2:]).flatten(1)

    def folded(self, *, channels_last: bool = True) -> MDEQ:
        """Return a copy for inference; see :func:`deqcert.models.folding.fold`."""
        from deqcert.models.folding import fold

        return fold(self, channels_last=channels_last)

    def narrowed(self, sparsity: float) -> tuple[MDEQ, dict[str, tuple[int, int]]]:
        """Return a copy with fewer channels; see :func:`deqcert.models.narrowing.narrow`."""
        from deqcert.models.narrowing import narrow

        return narrow(self, sparsity)

    def start_layout(self, injection: Tensor) -> tuple[StateLayout, int]:
        """Return the maps of a state, and the groups of the normalisations that its maps end in."""
        groups = self.config.num_groups
        return self._layout(injection), groups if len(self.config.channels) == 1 else groups // 2

    def _layout(self, injection: Tensor) -> StateLayout:
        return StateLayout.pyramid(self.config.channels, *injection.shape[2:])

    def _state_layout(self, z: Tensor) -> StateLayout:
        # A state does not say its height and width: those of the configuration come first, then
        # the square that has as many elements (training may use smaller crops).
        height, width = self.config.state_size
        layout = StateLayout.pyramid(self.config.channels, height, width)
        if layout.size != z.shape[1]:
            side = round((z.shape[1] / layout.size * height * width) ** 0.5)
            layout = StateLayout.pyramid(self.config.channels, side, side)
        if layout.size != z.shape[1]:
            raise DataError(
                f"a state of {z.shape[1]} elements belongs neither to the configured images of "
                f"{self.config.image_size} nor to square ones; use either."
            )
        return layout

    def _split(self, masks: Tensor | None) -> list[Sequence[Tensor | None]]:
        sizes = list(zip(self.config.num_blocks, self.config.channels, strict=True))
        if masks is None:
            return [[None] * blocks for blocks, _ in sizes]
        parts = torch.split(masks, [blocks * c for blocks, c in sizes], dim=1)
        return [torch.split(part, c, dim=1) for part, (_, c) in zip(parts, sizes, strict=True)]


class Bottleneck(nn.Module):
    """Widen one resolution for classification: 1x1, 3x3 and 1x1 convolutions with a shortcut."""

    def __init__(self, channels: int, planes: int) -> None:
        super().__init__()
        out = planes * EXPANSION
        self.conv1 = nn.Conv2d(channels, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes, affine=False)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes, affine=False)
        self.conv3 = nn.Conv2d(planes, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out, affine=False)
        self.downsample: nn.Module | None = None
        if channels != out:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, out, 1, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, H, W) to (B, 4 planes, H, W)."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


def _stem(config: MDEQConfig) -> nn.Sequential:
    width, times = config.channels[0], config.downsample_times
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    for position in range(2):
        source = config.input_channels if position == 0 else width
        stride = 2 if times > position else 1
        parts[str(3 * position)] = nn.Conv2d(source, width, 3, stride, 1, bias=False)
        parts[str(3 * position + 1)] = nn.BatchNorm2d(width)
        parts[str(3 * position + 2)] = nn.ReLU()
    for position in range(3, times + 1):
        parts[f"DS{position}"] = nn.Conv2d(width, width, 3, 2, 1, bias=False)
        parts[f"DS{position}-BN"] = nn.BatchNorm2d(width)
        parts[f"DS{position}-RELU"] = nn.ReLU()
    return nn.Sequential(parts)
