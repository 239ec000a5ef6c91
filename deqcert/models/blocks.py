"""The layers inside an MDEQ cell: residual block per resolution, fusion across resolutions.

Attribute names follow the parameter names of the public MDEQ-Vision checkpoints, so that those
load as they are.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deqcert.models.config import MDEQConfig


class WeightNormConv2d(nn.Module):
    """A convolution whose kernel is ``g * v / ||v||``, the norm taken per output channel.

    The kernel is computed once and kept while the model is in evaluation mode and no gradient for
    it is asked; the numbers are those of the uncached computation, bit for bit. It is computed anew
    when a parameter is another object (``torch.func.functional_call``), has other memory
    (``parameter.data = ...``) or another version (any in-place change that autograd sees). An
    in-place change of ``parameter.data`` leaves no trace; call ``eval()`` after it.

    **Source:** Salimans, Kingma 2016, equation 2.
    """

    def __init__(self, channels_in: int, channels_out: int, kernel: int) -> None:
        super().__init__()
        plain = nn.Conv2d(channels_in, channels_out, kernel, bias=False)
        self.padding = kernel // 2
        self.weight_g = nn.Parameter(_norm(plain.weight.detach()))
        self.weight_v = nn.Parameter(plain.weight.detach().clone())
        self._folded: tuple[Tensor, tuple[Any, ...]] | None = None

    def weight(self) -> Tensor:
        """Return the kernel, shape (out, in, k, k)."""
        g, v = self.weight_g, self.weight_v
        needs_gradient = torch.is_grad_enabled() and (g.requires_grad or v.requires_grad)
        # What torch.func puts in a parameter's place is no Parameter and may have no memory; a
        # change made in inference mode cannot be noticed later.
        lasting = type(g) is nn.Parameter and type(v) is nn.Parameter and not v.is_inference()
        if self.training or needs_gradient or not lasting:
            return v * (g / _norm(v))
        now = (g._version, g.data_ptr(), v._version, v.data_ptr())
        if self._folded is not None:
            folded, (known_g, known_v, *then) = self._folded
            # The parameters are kept, so that no other can have their identity.
            if known_g is g and known_v is v and tuple(then) == now:
                return folded
        # Outside inference mode, so that a later differentiable pass can use what was kept.
        with torch.inference_mode(False), torch.no_grad():
            folded = v * (g / _norm(v))
        self._folded = folded, (g, v, *now)
        return folded

    def forward(self, x: Tensor) -> Tensor:
        """Convolve maps, shape (B, C, H, W), at the same resolution."""
        out: Tensor = F.conv2d(x, self.weight(), padding=self.padding)
        return out

    def train(self, mode: bool = True) -> WeightNormConv2d:
        """Set the mode; the kept kernel is dropped."""
        self._folded = None
        super().train(mode)
        return self

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> WeightNormConv2d:
        self._folded = None
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


def _norm(v: Tensor) -> Tensor:
    size: Tensor = torch.linalg.vector_norm(v.flatten(1), dim=1)
    return size.view(-1, *(1,) * (v.ndim - 1))


def _conv(channels_in: int, channels_out: int, kernel: int, weight_norm: bool) -> nn.Module:
    if weight_norm:
        return WeightNormConv2d(channels_in, channels_out, kernel)
    return nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2, bias=False)


class ResidualBlock(nn.Module):
    """Two convolutions at one resolution, with group normalisation and the input injection."""

    def __init__(self, channels: int, big_kernels: int, config: MDEQConfig) -> None:
        super().__init__()
        inner = int(config.expansion_factor * channels)
        groups, affine = config.num_groups, config.block_affine
        kernels = [5 if big_kernels >= position else 3 for position in (1, 2)]
        self.conv1 = _conv(channels, inner, kernels[0], config.weight_norm)
        self.gn1 = nn.GroupNorm(groups, inner, affine=affine)
        self.conv2 = _conv(inner, channels, kernels[1], config.weight_norm)
        self.gn2 = nn.GroupNorm(groups, channels, affine=affine)
        self.gn3 = nn.GroupNorm(groups, channels, affine=affine)

    def forward(self, x: Tensor, injection: Tensor | None, mask: Tensor | None) -> Tensor:
        """Evaluate the block; a mask, shape (B, C), scales channels of the second convolution."""
        out = self.conv2(F.relu(self.gn1(self.conv1(x))))
        if mask is not None:
            out = out * mask[:, :, None, None]
        if injection is not None:
            out = out + injection
        return self.gn3(F.relu(self.gn2(out) + x))  # type: ignore[no-any-return]


class Branch(nn.Module):
    """The residual blocks of one resolution; only the first sees the injection."""

    def __init__(self, blocks: Sequence[ResidualBlock]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(
        self, x: Tensor, injection: Tensor | None, masks: Sequence[Tensor | None]
    ) -> Tensor:
        """Evaluate the blocks in turn."""
        for block, mask in zip(self.blocks, masks, strict=True):
            x = block(x, injection, mask)
            injection = None
        return x


class Downsample(nn.Module):
    """Bring a map to a lower resolution: one strided convolution for each halving."""

    def __init__(self, source: int, target: int, config: MDEQConfig) -> None:
        super().__init__()
        stages = []
        for level in range(source + 1, target + 1):
            out = config.channels[target if level == target else source]
            parts: OrderedDict[str, nn.Module] = OrderedDict(
                conv=nn.Conv2d(config.channels[source], out, 3, 2, 1, bias=False),
                gnorm=nn.GroupNorm(config.num_groups, out, affine=config.fuse_affine),
            )
            if level != target:
                parts["relu"] = nn.ReLU(inplace=True)
            stages.append(nn.Sequential(parts))
        self.net = nn.Sequential(*stages)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the target's channels and resolution."""
        return self.net(x)  # type: ignore[no-any-return]


class Upsample(nn.Module):
    """Bring a map to a higher resolution: mix channels, then repeat pixels."""

    def __init__(self, source: int, target: int, config: MDEQConfig) -> None:
        super().__init__()
        out = config.channels[target]
        self.net = nn.Sequential(
            OrderedDict(
                conv=nn.Conv2d(config.channels[source], out, 1, bias=False),
                gnorm=nn.GroupNorm(config.num_groups, out, affine=config.fuse_affine),
                upsample=nn.Upsample(scale_factor=2 ** (source - target), mode="nearest"),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the target's channels and resolution."""
        return self.net(x)  # type: ignore[no-any-return]


class MultiscaleCell(nn.Module):
    """The function whose fixed point an MDEQ uses.

    Each resolution passes its residual blocks; then every resolution receives the sum of all of
    them, brought to its size, through a ReLU, a 1x1 convolution and a normalisation.

    **Source:** Bai, Koltun, Kolter 2020, section 3.1.
    """

    def __init__(self, config: MDEQConfig) -> None:
        super().__init__()
        count = len(config.channels)
        self.branches = nn.ModuleList(
            Branch([ResidualBlock(c, big, config) for _ in range(blocks)])
            for c, big, blocks in zip(
                config.channels, config.big_kernels, config.num_blocks, strict=True
            )
        )
        if count > 1:
            self.fuse_layers = nn.ModuleList(
                nn.ModuleList(_fusion(source, target, config) for source in range(count))
                for target in range(count)
            )
        # A single resolution has nothing to fuse; the public family keeps the unused parameters.
        self.post_fuse_layers = nn.ModuleList(
            nn.Sequential(
                OrderedDict(
                    relu=nn.ReLU(),
                    conv=_conv(c, c, 1, config.weight_norm),
                    gnorm=nn.GroupNorm(config.num_groups // 2, c, affine=config.post_affine),
                )
            )
            for c in config.channels
        )

    def forward(
        self, maps: Sequence[Tensor], injection: Tensor, masks: Sequence[Sequence[Tensor | None]]
    ) -> list[Tensor]:
        """Evaluate the cell once; the injection enters the highest resolution only."""
        blocks = self.branched(maps, injection, masks)
        if len(blocks) == 1:
            return blocks
        fused = []
        for row, post in zip(self.fuse_layers, self.post_fuse_layers, strict=True):
            assert isinstance(row, nn.ModuleList)
            fused.append(post(_sum([fuse(block) for fuse, block in zip(row, blocks, strict=True)])))
        return fused

    def branched(
        self, maps: Sequence[Tensor], injection: Tensor, masks: Sequence[Sequence[Tensor | None]]
    ) -> list[Tensor]:
        """Evaluate the residual blocks of each resolution, which are not fused yet."""
        return [
            branch(entry, injection if level == 0 else None, masks[level])
            for level, (branch, entry) in enumerate(zip(self.branches, maps, strict=True))
        ]


def _fusion(source: int, target: int, config: MDEQConfig) -> nn.Module:
    if source == target:
        return nn.Identity()
    return (Upsample if source > target else Downsample)(source, target, config)


def _sum(maps: Sequence[Tensor]) -> Tensor:
    total = maps[0]
    for entry in maps[1:]:
        total = total + entry
    return total
