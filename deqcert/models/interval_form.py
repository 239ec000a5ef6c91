"""An equilibrium network as affine maps and relus: what interval bounds are propagated through."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from deqcert.models.normalize import Normalize
from deqcert.solvers import Solver, StopRule, get_solver
from deqcert.solvers.gradients import Gradient, equilibrium, get_gradient

STOP = StopRule(tol=1e-3, max_nfe=60)
"""When a solve for training ends: its bounds are good to about this, but they prove nothing."""

Box = tuple[Tensor, Tensor]
"""Centres and half-widths of intervals, of one shape."""


@dataclass(frozen=True)
class Affine:
    """x -> W x + b, W dense or a convolution padded with zeros such that stride 1 keeps the size.

    Attributes:
        weight: Shape (out, in), or (out, in, k, k) with an odd k.
        bias: Shape (out,).
        stride: Of the convolution.
        roundings: How many roundings in float64 each element of ``weight`` has behind it.
        size: What the same roundings of ``bias`` are relative to, shape (out,), at least its
            absolute value; None where it has none.
        absolute: |W|, of the shape of ``weight``.
    """

    weight: Tensor
    bias: Tensor
    stride: int = 1
    roundings: int = 0
    size: Tensor | None = None
    absolute: Tensor = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "absolute", self.weight.abs())

    @property
    def terms(self) -> int:
        """Products that an element of W x is the sum of."""
        return self.weight[0].numel()

    def __call__(self, x: Tensor) -> Tensor:
        """Return W x + b, shape (B, out, ...)."""
        return self._map(x, self.weight, self.bias)

    def spread(self, r: Tensor) -> Tensor:
        """Return |W| r, the half-widths of what has half-widths r."""
        return self._map(r, self.absolute, None)

    def box(self, box: Box) -> Box:
        """Return the smallest box around the image of one, but for rounding."""
        return self(box[0]), self.spread(box[1])

    def _map(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if weight.dim() == 2:
            return F.linear(x.flatten(1), weight, bias)
        return F.conv2d(x, weight, bias, stride=self.stride, padding=weight.shape[2] // 2)


@dataclass(frozen=True)
class IntervalBounds:
    """What intervals say of images in boxes.

    Attributes:
        margins: Lower bounds of logit y minus every logit, 0 for y itself; shape (B, K).
        state: Centres and half-widths of the equilibria, shape (B, 2 D): where the next solve on
            the same images may start.
        layers: Of every layer what enters its relu, input block first and equilibrium last.
        nfe: Evaluations of the interval cell, the mean per row.
    """

    margins: Tensor
    state: Tensor
    layers: tuple[Box, ...]
    nfe: float


@dataclass(frozen=True)
class IntervalForm:
    """z = relu(N z + b), logits C z + c; b comes from pixels through the block's layers.

    N has a zero diagonal and |N| v < v for some v > 0; so the interval cell is a contraction, as
    the cell is. Centres and half-widths (mu, r) of a box of states have the images
    relu((N mu + mu_b) + (|N| r + r_b)), the upper ends, and relu((N mu + mu_b) - (|N| r + r_b)).

    Attributes:
        normalize: From pixels to what the first layer takes.
        block: Layers with a relu between two of them; the last one makes b.
        state: N, without a bias.
        readout: C and c.
        shape: Channels, height and width of a state, or its elements if it is no map.

    **Source:** C. Wei, J. Z. Kolter, "Certified robustness for deep equilibrium models via interval
    bound propagation" (2022), for intervals at an equilibrium.
    """

    normalize: Normalize
    block: tuple[Affine, ...]
    state: Affine
    readout: Affine
    shape: tuple[int, ...]

    def entering(self, pixels: Box) -> tuple[Box, ...]:
        """Return of every layer of the block what leaves it, before its relu.

        Args:
            pixels: Boxes of images, each shape (B, C, H, W).
        """
        box = self.normalize(pixels[0]), pixels[1] / self.normalize.std
        layers: list[Box] = []
        for affine in self.block:
            box = affine.box(relu(box) if layers else box)
            layers.append(box)
        return tuple(layers)

    def cell(self, state: Tensor, entering: Tensor) -> Tensor:
        """Evaluate the interval cell, from (B, 2 D) to (B, 2 D).

        Args:
            state: Centres and half-widths side by side.
            entering: The same of b.
        """
        return _rows(relu(self.before(_box(state), _box(entering))))

    def before(self, state: Box, entering: Box) -> Box:
        """Return what enters the relu of the equilibrium; all shapes (B, D)."""
        mu, r = (part.reshape(len(part), *self.shape) for part in state)
        mu, r = (part.flatten(1) for part in self.state.box((mu, r)))
        return mu + entering[0], r + entering[1]

    def bound(
        self,
        x: Tensor,
        y: Tensor,
        eps: Tensor,
        *,
        start: Tensor | None = None,
        solver: Solver[Any] | None = None,
        stop: StopRule = STOP,
        gradient: Gradient | None = None,
    ) -> IntervalBounds:
        """Bound the margins over l-infinity boxes, for training: differentiable, not rounded out.

        The box of an image is [x - eps, x + eps], cut off at 0 and 1.

        Args:
            x: Images, shape (B, C, H, W), in [0, 1].
            y: A class per image, shape (B,).
            eps: Half-width of the box per image, shape (B,), from 0; no gradient goes through it.
            start: Where the solve begins: ``state`` of an earlier result for the same images, at
                whatever eps; None begins at 0.
            solver: Of the interval fixed point; plain iteration if not given.
            stop: When it ends.
            gradient: How to go backward through it; implicitly, to the same accuracy, if not given.

        Returns:
            The margins and what they were made of. Without gradients being recorded nothing of
            them costs anything; a search for an eps is quicker under ``torch.no_grad()``.
        """
        layers = self.entering(pixel_box(x, eps))
        entering = _rows((layers[-1][0].flatten(1), layers[-1][1].flatten(1)))
        solver = get_solver("picard") if solver is None else solver
        if gradient is None:
            gradient = get_gradient("implicit", solver=solver, stop=stop)
        cold = torch.zeros_like(entering) if start is None else start.detach()
        state, result = equilibrium(
            self.cell, cold, entering, solver=solver, stop=stop, gradient=gradient
        )
        before = self.before(_box(state), _box(entering))
        return IntervalBounds(
            margins=self.margins(_box(state), y),
            state=state.detach(),
            layers=(*layers[:-1], before),
            nfe=0.0 if result is None else result.nfe.double().mean().item(),
        )

    def margins(self, state: Box, y: Tensor) -> Tensor:
        """Bound logit y minus every logit over boxes of states, but for rounding; shape (B, K)."""
        rows, bias = self.readout.weight, self.readout.bias
        differences = rows[y][:, None] - rows
        centre = torch.einsum("bkd,bd->bk", differences, state[0])
        spread = torch.einsum("bkd,bd->bk", differences.abs(), state[1])
        return centre - spread + (bias[y][:, None] - bias)


def pixel_box(x: Tensor, eps: Tensor) -> Box:
    """Return the box [x - eps, x + eps], cut off at 0 and 1, as centres and half-widths.

    A pixel that lies outside [0, 1] stays in the box.

    Args:
        x: Images, shape (B, C, H, W).
        eps: Shape (B,), from 0.
    """
    reach = eps.detach().to(x).view(-1, 1, 1, 1)
    high = torch.maximum(x, (x + reach).clamp_max(1.0))
    low = torch.minimum(x, (x - reach).clamp_min(0.0))
    return (high + low) * 0.5, (high - low) * 0.5


def relu(box: Box) -> Box:
    """Return the box of relu of what lies in a box."""
    high, low = F.relu(box[0] + box[1]), F.relu(box[0] - box[1])
    return (high + low) * 0.5, (high - low) * 0.5


def _rows(box: Box) -> Tensor:
    return torch.cat(box, dim=1)


def _box(rows: Tensor) -> Box:
    centre, half = rows.chunk(2, dim=1)
    return centre, half
