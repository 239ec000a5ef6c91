"""Interval arithmetic in float64 that is rounded outwards, layer by layer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from deqcert.models.interval_form import Affine, Box
from deqcert.models.normalize import Normalize
from deqcert.models.spectral import TINY, UNIT, rounding_constant
from deqcert.proofs.definite import MARGIN


def pixels_out(normalize: Normalize, x: Tensor, eps: Tensor) -> Box:
    """Enclose the normalised images of a box [x - eps, x + eps] that is cut off at 0 and 1.

    A pixel that lies outside [0, 1] stays in the box.

    Args:
        normalize: From pixels to what is normalised.
        x: Images, shape (B, C, H, W), float64.
        eps: Half-widths, shape (B,), float64.
    """
    reach = eps.view(-1, 1, 1, 1)
    high = torch.maximum(x, (x + reach).clamp_max(1.0))
    low = torch.minimum(x, (x - reach).clamp_min(0.0))
    centre, half = (high + low) * 0.5, (high - low) * 0.5
    size = (centre.abs() + half + normalize.mean.abs()) / normalize.std
    return normalize(centre), MARGIN * half / normalize.std + 16.0 * UNIT * size + TINY


def affine_out(affine: Affine, box: Box) -> Box:
    """Enclose the image of a box under the exact map that ``affine`` is a rounded copy of.

    An element of W mu + b is a sum of ``terms`` products and a bias. With gamma for that many
    roundings and those behind W it is off by at most gamma (|W| |mu| + |b|): so the half-widths
    |W| r become |W| (r + gamma |mu|) + gamma |b|. What is relative to these, MARGIN covers.
    """
    centre, half = box
    gamma = rounding_constant(affine.terms + affine.roundings + 8)
    size = affine.bias.abs() if affine.size is None else affine.size
    through = affine.spread(half + gamma * centre.abs())
    size = size.view(-1, *[1] * (through.dim() - 2))
    return affine(centre), MARGIN * (through + gamma * size) + TINY


def relu_out(box: Box) -> Box:
    """Enclose the image of a box under relu."""
    high, low = F.relu(box[0] + box[1]), F.relu(box[0] - box[1])
    return (high + low) * 0.5, MARGIN * (high - low) * 0.5 + rounded(box)


def sum_out(first: Box, second: Box) -> Box:
    """Enclose the sums of what is in two boxes."""
    centre, half = first[0] + second[0], first[1] + second[1]
    return centre, MARGIN * half + rounded((centre, half))


def outside(inner: Box, outer: Box) -> Tensor:
    """Bound by how much, per element, one box reaches out of another, rounded up."""
    moved = (inner[0] - outer[0]).abs() + (inner[1] - outer[1])
    return MARGIN * moved.clamp_min(0.0) + rounded(inner) + rounded(outer)


def rounded(box: Box) -> Tensor:
    """Bound what a few roundings of sums of a box's centres and half-widths can do, per element."""
    return 8.0 * UNIT * (box[0].abs() + box[1]) + TINY


def leads_out(readout: Affine, state: Box, classes: Tensor) -> Tensor:
    """Bound by how much a class leads over every other, wherever in a box the state is.

    The readout is merged with the differences of classes first.

    Args:
        readout: C and c, exact.
        state: Boxes of states, each shape (B, D).
        classes: Shape (B,).

    Returns:
        Lower bounds of logit ``classes`` minus every logit, shape (B, K).
    """
    rows, bias = readout.weight, readout.bias
    differences, (centre, half) = rows[classes][:, None] - rows, state
    gamma = rounding_constant(readout.terms + 16)
    offset = bias[classes][:, None] - bias
    size = bias.abs()[classes][:, None] + bias.abs()
    middle = torch.einsum("bkd,bd->bk", differences, centre)
    below = torch.einsum("bkd,bd->bk", differences.abs(), half + gamma * centre.abs())
    return middle + offset - (MARGIN * (below + gamma * size) + TINY)
