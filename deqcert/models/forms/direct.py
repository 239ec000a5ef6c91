"""Form direct: the residual blocks of an MDEQ's cell in a kernel of their own."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from deqcert import kernels
from deqcert.errors import ConfigError
from deqcert.models.base import ImplicitModel
from deqcert.models.blocks import ResidualBlock, Upsample
from deqcert.models.forms.base import Form, folded
from deqcert.models.mdeq import MDEQ


class Direct(Form):
    """The folded copy with its residual blocks computed row by row, in the processor's caches."""

    summary = "folded, the cell's residual blocks in a kernel of their own (CPU, float32)"
    hides = True

    def applies(self, model: ImplicitModel) -> bool:
        """Return whether the model is an MDEQ of 3x3 convolutions whose channels go by eight."""
        return isinstance(model, MDEQ) and all(
            isinstance(block, ResidualBlock) and _fits(block) for block in _blocks(model)
        )

    def make(self, model: ImplicitModel, *, rows: int, device: str) -> ImplicitModel:
        """Return the copy.

        Raises:
            ConfigError: If it is to run elsewhere than on the CPU, or its numbers are not float32.
        """
        copy = folded(model, device)
        assert isinstance(copy, MDEQ)
        if device != "cpu" or copy.classifier.weight.dtype != torch.float32:
            raise ConfigError(
                "form 'direct' is for float32 on the CPU; take 'folded' or 'compiled'."
            )
        for branch in copy.fullstage.branches:
            assert isinstance(branch.blocks, nn.ModuleList)
            for number, block in enumerate(branch.blocks):
                assert isinstance(block, ResidualBlock)
                branch.blocks[number] = DirectBlock(block)
        _mix(copy.fullstage)
        cell: Any = DirectCell(copy.fullstage)
        copy.fullstage = cell
        return copy


class DirectBlock(nn.Module):
    """A residual block for inference.

    Args:
        block: Of a folded model; it is not changed.
    """

    def __init__(self, block: Any) -> None:
        super().__init__()
        first, second, third = block.gn1, block.gn2, block.gn3
        self.weights = kernels.BlockWeights(
            first=block.conv1.weight.detach().contiguous(),
            second=block.conv2.weight.detach().contiguous(),
            scales=(_scale(first), _scale(second), _scale(third)),
            shifts=(_shift(first), _shift(second), _shift(third)),
            groups=first.num_groups,
            eps=(first.eps, second.eps, third.eps),
        )

    def forward(self, x: Tensor, injection: Tensor | None, mask: Tensor | None) -> Tensor:
        """Evaluate the block; inference drops nothing, so there is no mask."""
        assert mask is None
        return kernels.residual_block(x, injection, self.weights)


class DirectCell(nn.Module):
    """A cell for inference that sums its resolutions in place.

    Args:
        cell: Of a folded model, its residual blocks already replaced; its layers are used.
    """

    def __init__(self, cell: Any) -> None:
        super().__init__()
        self.cell: Any = cell
        self.branches: Any = cell.branches

    def forward(
        self, maps: Sequence[Tensor], injection: Tensor, masks: Sequence[Sequence[Tensor | None]]
    ) -> list[Tensor]:
        """Evaluate the cell once."""
        blocks: list[Tensor] = self.cell.branched(maps, injection, masks)
        if len(blocks) == 1:
            return blocks
        fused = []
        layers: Any = zip(self.cell.fuse_layers, self.cell.post_fuse_layers, strict=True)
        for target, (row, post) in enumerate(layers):
            total = blocks[target].clone()
            for source, (fuse, block) in enumerate(zip(row, blocks, strict=True)):
                if isinstance(fuse, Upsample):
                    net: Any = fuse.net
                    small = net.gnorm(net.conv(block)).flatten(2)
                    places = _nearest(*block.shape[2:], 2 ** (source - target))
                    total.flatten(2).add_(
                        small.flatten(0, 1).index_select(1, places).view_as(total.flatten(2))
                    )
                elif source != target:
                    total.add_(fuse(block))
            fused.append(post.gnorm(post.conv(total.relu_())))
        return fused


@functools.cache
def _nearest(height: int, width: int, factor: int) -> Tensor:
    """Return which pixel of a map each pixel of one so many times higher and wider repeats."""
    y = torch.arange(height * factor) // factor
    x = torch.arange(width * factor) // factor
    return (y[:, None] * width + x).flatten()


class Mixing(nn.Module):
    """A 1x1 convolution as a matrix product, which leaves maps channel by channel.

    The convolution of torch takes its kernel for one with the channels side by side, computes so,
    and everything that follows has to change the order.

    Args:
        convolution: Without a bias; it is not changed.
    """

    weight: Tensor

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.register_buffer("weight", convolution.weight.detach().flatten(1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H, W)."""
        mixed = torch.matmul(self.weight, x.flatten(2))
        return mixed.view(len(x), len(self.weight), *x.shape[2:])


def _mix(module: nn.Module) -> None:
    """Replace 1x1 convolutions, at any depth."""
    for name, child in module.named_children():
        if isinstance(child, nn.Conv2d) and child.kernel_size == (1, 1):
            setattr(module, name, Mixing(child))
        else:
            _mix(child)


def _blocks(model: MDEQ) -> list[Any]:
    branches: Any = model.fullstage.branches
    return [block for branch in branches for block in branch.blocks]


def _fits(block: Any) -> bool:
    sizes = block.gn1.num_channels, block.gn2.num_channels
    paddings = block.conv1.padding, block.conv2.padding
    return all(size % 8 == 0 for size in sizes) and all(p in (1, (1, 1)) for p in paddings)


def _scale(norm: nn.GroupNorm) -> Tensor:
    return torch.ones(norm.num_channels) if norm.weight is None else norm.weight.detach()


def _shift(norm: nn.GroupNorm) -> Tensor:
    return torch.zeros(norm.num_channels) if norm.bias is None else norm.bias.detach()


DIRECT = Direct()
