"""A copy of an MDEQ for inference: the same function, in fewer operations.

Training and checkpoints know nothing of it: a model is folded after it was loaded.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from deqcert.models.blocks import WeightNormConv2d
from deqcert.models.mdeq import MDEQ, Bottleneck


class FoldedBottleneck(nn.Module):
    """A bottleneck without normalisations; what it computes on the way it overwrites.

    Args:
        bottleneck: In evaluation mode; it is not changed.
    """

    def __init__(self, bottleneck: Bottleneck) -> None:
        super().__init__()
        self.conv1 = _fused(bottleneck.conv1, bottleneck.bn1)
        self.conv2 = _fused(bottleneck.conv2, bottleneck.bn2)
        self.conv3 = _fused(bottleneck.conv3, bottleneck.bn3)
        shortcut = bottleneck.downsample
        self.shortcut = _fused(*shortcut) if isinstance(shortcut, nn.Sequential) else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, H, W) to (B, 4 planes, H, W)."""
        out = F.relu_(self.conv1(x))
        out = F.relu_(self.conv2(out))
        out = self.conv3(out).add_(x if self.shortcut is None else self.shortcut(x))
        return F.relu_(out)


class Contiguous(nn.Module):
    """Lay a map out channel by channel, as the cell reads it."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the same numbers, contiguous."""
        return x.contiguous()


@torch.no_grad()
def fold(model: MDEQ, *, channels_last: bool = True) -> MDEQ:
    """Return a copy for inference.

    Weight-normalised convolutions become plain ones with the same kernel, bit for bit. Batch
    normalisations, whose statistics are fixed in evaluation mode, become part of the convolution
    before them. Injection and readout overwrite what they no longer need. The cell computes the
    same bits as before, and injections, states and logits keep their layout.

    Args:
        model: Any MDEQ; it is not changed.
        channels_last: Whether injection and readout compute with the channels of a pixel beside
            each other, which was measured to be faster on CPUs.

    Returns:
        A model in evaluation mode that needs no gradients. Logits agree with the original's up to
        rounding; parameter names do not, so it is not for saving.
    """
    folded = copy.deepcopy(model).eval()
    _plain(folded)
    parts = [folded.downsample, folded.incre_modules, folded.downsamp_modules, folded.final_layer]
    if folded.stage0 is not None:
        parts.append(folded.stage0)
    for part in parts:
        _fuse(part)
        if channels_last:
            part.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if channels_last:
        last = folded.downsample if folded.stage0 is None else folded.stage0
        last.append(Contiguous())
    return folded.requires_grad_(False)


def _plain(module: nn.Module) -> None:
    """Replace weight-normalised convolutions, at any depth."""
    for name, child in module.named_children():
        if isinstance(child, WeightNormConv2d):
            setattr(module, name, _convolution(child.weight(), child.padding))
        else:
            _plain(child)


def _convolution(kernel: Tensor, padding: int) -> nn.Conv2d:
    out, entering, height, width = kernel.shape
    options: dict[str, Any] = {"device": kernel.device, "dtype": kernel.dtype}
    plain = nn.Conv2d(entering, out, (height, width), padding=padding, bias=False, **options)
    plain.weight.copy_(kernel)
    return plain


def _fuse(module: nn.Module) -> None:
    """Fold every batch normalisation into the convolution whose output it takes, at any depth."""
    previous = ""
    for name, child in module.named_children():
        if isinstance(child, Bottleneck):
            setattr(module, name, FoldedBottleneck(child))
        elif isinstance(child, nn.BatchNorm2d):
            setattr(module, previous, _fused(getattr(module, previous), child))
            setattr(module, name, nn.Identity())
        elif isinstance(child, nn.ReLU):
            child.inplace = True  # its input is a convolution's output, which nobody else reads
        else:
            _fuse(child)
        previous = name


def _fused(convolution: Any, norm: Any) -> nn.Conv2d:
    fused: nn.Conv2d = fuse_conv_bn_eval(convolution, norm)
    return fused
