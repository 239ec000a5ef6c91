"""What keeps interval bounds trainable while the radius grows: tight, and with balanced relus."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from deqcert.training.proof import Layer

TOLERANCE = 0.5
"""tau of the paper: a ratio above it costs nothing."""

SMALL = 1e-12
"""Keeps quotients finite where nothing is wide, active or inactive."""


def imbalance(layers: Sequence[Layer]) -> Tensor:
    """Return how much wider layers are than the input, and how unequal their relus' sides are.

    With w_i the mean half-width of what enters the relu of layer i and w_0 that of the pixels, a
    layer pays max(0, 1 - (w_0 / w_i) / tau). With a its centres where the whole interval is above
    0, and b where it is below, it pays max(0, 1 - q / tau) for q = |mean a| / |mean b| and for
    q = var a / var b, each or its inverse, whichever is below 1. Both are means over the layers.

    Args:
        layers: Of a :class:`deqcert.training.proof.WorstCase`: the pixels' box, then each layer's.

    Returns:
        A scalar; 0 where there are no layers.

    **Source:** Z. Shi, Y. Wang, H. Zhang, J. Yi, C.-J. Hsieh, "Fast certified robust training with
    short warmup" (2021), section 4.3; with the means and variances taken as said here.
    """
    if not layers:
        return torch.zeros(())
    first = layers[0][1].mean()
    costs = []
    for centre, half in layers[1:]:
        costs.append(_short(first / half.mean().clamp_min(SMALL)))
        active, inactive = centre[centre > half], centre[centre < -half]
        if len(active) > 1 and len(inactive) > 1:
            costs.append(_short(_below_one(active.mean(), -inactive.mean())))
            costs.append(_short(_below_one(active.var(), inactive.var())))
    return torch.stack(costs).sum() / (len(layers) - 1)


def _short(ratio: Tensor) -> Tensor:
    return (1.0 - ratio / TOLERANCE).clamp_min(0.0)


def _below_one(a: Tensor, b: Tensor) -> Tensor:
    return torch.minimum(a, b) / torch.maximum(a, b).clamp_min(SMALL)
