"""Linear bounds of an interval model's margins: backward through one cell and its input block."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from deqcert.models.interval_form import Affine, Box, IntervalForm, relu

LEAST = 1e-12
"""Width below which an interval counts as a point."""


def relaxed_margins(form: IntervalForm, y: Tensor, layers: Sequence[Box]) -> Tensor:
    """Bound logit y minus every logit by lines instead of boxes, but for rounding.

    The equilibrium is z = relu(N z + b). Its relu is replaced by lines that bound it on the
    interval that is known to enter it. What N z adds to them is bounded over the box of z, and b is
    followed back, relu by relu, to the pixels. Boxes forget that elements move together; lines do
    not, but a line above a relu is far from it where the interval is wide. So neither bound is
    always the better one.

    Args:
        form: The network.
        y: A class per image, shape (B,).
        layers: The normalised pixels, then what enters each relu, the equilibrium last, as
            :class:`deqcert.training.proof.WorstCase` holds them.

    Returns:
        Shape (B, K), differentiable; 0 for y itself.

    **Source:** H. Zhang et al., "Towards stable and efficient training of verifiably robust neural
    networks" (2020), the backward bound of CROWN-IBP for one output layer; the equilibrium as one
    cell over the box of its states is ours.
    """
    pixels, *hidden, before = layers
    rows, bias = form.readout.weight, form.readout.bias
    slopes, found = _through_relu(rows[y][:, None] - rows, before)
    found = found + bias[y][:, None] - bias
    maps = slopes.reshape(*slopes.shape[:2], *form.shape)
    found = found + _least(_back(form.state, maps, form.shape).flatten(2), relu(before))
    slopes = maps
    for affine, box in zip(reversed(form.block), reversed((pixels, *hidden)), strict=True):
        over = (2, *range(3, slopes.dim()))
        found = found + (slopes * _along(affine.bias, slopes)).sum(dim=over)
        slopes = _back(affine, slopes, box[0].shape[1:])
        if box is pixels:
            return found + _least(slopes, box)
        slopes, constant = _through_relu(slopes, box)
        found = found + constant
    raise AssertionError  # there is no input block without a layer


def _through_relu(slopes: Tensor, box: Box) -> tuple[Tensor, Tensor]:
    """Bound slopes' relu(p) from below by a line in p, p in a box: its slopes and constants.

    Args:
        slopes: Shape (B, K, ...).
        box: Centres and half-widths of p, shape (B, ...).
    """
    low, high = (box[0] - box[1])[:, None], (box[0] + box[1])[:, None]
    open_ = (low < 0.0) & (high > 0.0)
    sure = (low >= 0.0).to(low)
    chord = torch.where(open_, high / (high - low).clamp_min(LEAST), sure)
    below = torch.where(open_, (high > -low).to(low), sure)
    up, down = slopes.clamp_min(0.0), slopes.clamp_max(0.0)
    constant = (down * torch.where(open_, -chord * low, 0.0)).flatten(2).sum(dim=2)
    return up * below + down * chord, constant


def _least(slopes: Tensor, box: Box) -> Tensor:
    """Return the least value of slopes' x over a box, shapes (B, K, ...) and (B, ...) to (B, K)."""
    centre, half = (part[:, None] for part in box)
    return (slopes * centre - slopes.abs() * half).flatten(2).sum(dim=2)


def _back(affine: Affine, slopes: Tensor, shape: Sequence[int]) -> Tensor:
    """Return W' times slopes, shape (B, K, out, ...) to (B, K, *shape)."""
    weight, (count, classes) = affine.weight, slopes.shape[:2]
    if weight.dim() == 2:
        return (slopes @ weight).reshape(count, classes, *shape)
    padding = weight.shape[2] // 2
    reached = [
        (side - 1) * affine.stride - 2 * padding + weight.shape[2] for side in slopes.shape[3:]
    ]
    missing = tuple(want - have for want, have in zip(shape[1:], reached, strict=True))
    back = F.conv_transpose2d(
        slopes.flatten(0, 1),
        weight,
        stride=affine.stride,
        padding=padding,
        output_padding=missing,
    )
    return back.reshape(count, classes, *shape)


def _along(bias: Tensor, slopes: Tensor) -> Tensor:
    """Return a bias, shape (out,), spread over slopes of shape (B, K, out, ...)."""
    return bias.reshape(-1, *[1] * (slopes.dim() - 3))
