"""Structured pruning of an MDEQ: residual blocks with fewer channels inside."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor

from deqcert.errors import ConfigError
from deqcert.models.blocks import ResidualBlock, WeightNormConv2d
from deqcert.models.config import MDEQConfig
from deqcert.models.mdeq import MDEQ


@torch.no_grad()
def narrow(model: MDEQ, sparsity: float) -> tuple[MDEQ, dict[str, tuple[int, int]]]:
    """Return a copy whose residual blocks are narrower inside; the state keeps its channels.

    A channel counts by the norm of the filter that makes it, times that of the weights that read
    it. Each group of the normalisation loses its least channels, equally many in each, because
    groups are equally large; and all blocks by the same factor, because the configuration has one.
    That is what the reached sparsity is rounded to.

    Args:
        model: It is not changed.
        sparsity: Share of the channels that goes.

    Returns:
        The copy in evaluation mode, and of each block by name how many of its inner channels have
        gone, and of how many.

    Raises:
        ConfigError: If the blocks cannot be narrowed by about that much.
    """
    config = dataclasses.replace(model.config, expansion_factor=_narrower(model.config, sparsity))
    small = config.build().to(model.classifier.weight)
    blocks = {n: m for n, m in model.named_modules() if isinstance(m, ResidualBlock)}
    state = dict(model.state_dict())
    removed: dict[str, tuple[int, int]] = {}
    for name, block in blocks.items():
        first, second = _kernel(block.conv1), _kernel(block.conv2)
        groups = config.num_groups
        kept = small.get_submodule(f"{name}.gn1").num_channels
        assert isinstance(kept, int)
        removed[name] = len(first) - kept, len(first)
        size = first.flatten(1).norm(dim=1) * second.transpose(0, 1).flatten(1).norm(dim=1)
        best = size.view(groups, -1).topk(kept // groups, dim=1).indices.sort(dim=1).values
        first_of_group = torch.arange(0, len(first), len(first) // groups)
        rows = (best + first_of_group[:, None]).flatten()
        for key in ("conv1.weight", "conv1.weight_v", "conv1.weight_g", "gn1.weight", "gn1.bias"):
            if f"{name}.{key}" in state:
                state[f"{name}.{key}"] = state[f"{name}.{key}"][rows]
        read = "conv2.weight_v" if isinstance(block.conv2, WeightNormConv2d) else "conv2.weight"
        before = state[f"{name}.{read}"]
        state[f"{name}.{read}"] = after = before[:, rows]
        if isinstance(block.conv2, WeightNormConv2d):  # what is left keeps its size
            ratio = after.flatten(1).norm(dim=1) / before.flatten(1).norm(dim=1)
            state[f"{name}.conv2.weight_g"] = block.conv2.weight_g * ratio.view(-1, 1, 1, 1)
    small.load_state_dict(state)
    return small.eval(), removed


def _kernel(convolution: Any) -> Tensor:
    if isinstance(convolution, WeightNormConv2d):
        return convolution.weight()
    weight: Tensor = convolution.weight
    return weight


def _narrower(config: MDEQConfig, sparsity: float) -> float:
    """Return the expansion factor that comes nearest to a sparsity, below the model's own."""
    step = config.num_groups / math.gcd(*config.channels)
    factors = [
        _whole(k * step, config.channels)
        for k in range(1, math.ceil(config.expansion_factor / step))
    ]
    if not factors:
        raise ConfigError(
            f"the residual blocks cannot be narrower: their channels come in {config.num_groups} "
            "groups of one size; leave out structured."
        )
    wanted = config.expansion_factor * (1.0 - sparsity)
    best = min(factors, key=lambda factor: abs(factor - wanted))
    if config.expansion_factor - wanted < (config.expansion_factor - factors[-1]) / 2.0:
        least = 1.0 - factors[-1] / config.expansion_factor
        raise ConfigError(
            f"sparsity {sparsity:g} takes no channel of this model, whose least is {least:.3g}; "
            "give a larger one."
        )
    return best


def _whole(factor: float, channels: tuple[int, ...]) -> float:
    """Round a factor up by its last bit where a product would else fall below a whole number."""
    exact = all(int(factor * c) == round(factor * c) for c in channels)
    return factor if exact else math.nextafter(factor, math.inf)
