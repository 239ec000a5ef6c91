"""What a model proves of a batch while it is trained: margins in a ball, and radii."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor, nn

from deqcert.certifiers.certificate import Norm
from deqcert.models import ImplicitModel, IntervalDEQ, LipschitzModel, TrainableModel, pixel_box
from deqcert.models.interval_relaxation import relaxed_margins
from deqcert.solvers import StopRule
from deqcert.training.roots import roots

NOTHING = 1e-12
"""Stands for a slope of 0: what does not change is proven as far as anybody asks."""

ROUGH = StopRule(tol=1e-2, max_nfe=30)
"""When a solve in the search for a radius ends: the radius is not known better than that anyway."""

OwnRadii = Callable[[TrainableModel, Tensor, Tensor, Tensor], Tensor]
"""A model in evaluation mode, images, labels and logits to the radii by which a training measures
itself, shape (B,)."""

Layer = tuple[Tensor, Tensor]
"""Centres and half-widths of intervals, of one shape."""


@dataclass(frozen=True)
class WorstCase:
    """What a model proves of all inputs in one ball per row.

    Attributes:
        margins: Lower bounds of how much the label leads over each class, shape (B, K),
            differentiable; 0 for the label itself.
        layers: Where the bound is made of intervals: the normalised pixels, then what enters each
            relu.
    """

    margins: Tensor
    layers: tuple[Layer, ...] = ()


class Proof(ABC):
    """Worst-case margins of one batch, by a bound that training can differentiate.

    The bound is that of exact arithmetic at the exact equilibrium. What rounding and an unfinished
    solve add is not charged: a certificate is what ``deqcert certify`` writes.

    Attributes:
        norm: Of the balls.
    """

    norm: ClassVar[Norm]

    @property
    @abstractmethod
    def logits(self) -> Tensor:
        """Of the images themselves, shape (B, K), differentiable."""

    @abstractmethod
    def radii(self, cap: float, steps: int) -> Tensor:
        """Return the largest proven radius up to a cap per row, without gradient.

        Args:
            cap: In pixel units, above 0.
            steps: Most evaluations per row where it takes a search.

        Returns:
            Shape (B,); 0 where the label is not the class.
        """

    @abstractmethod
    def worst_case(self, radii: Tensor) -> WorstCase:
        """Bound what happens anywhere in a ball.

        Args:
            radii: One per row, in pixel units, shape (B,); no gradient goes through them.
        """

    def relaxed(self, worst: WorstCase) -> Tensor:
        """Return the margins in the same balls by lines, shape (B, K), where there is such a bound.

        Neither is always the better one. Where there is none it is the bound that is known.

        Args:
            worst: What :meth:`worst_case` returned.
        """
        return worst.margins


class LipschitzProof(Proof):
    """Margins that fall with the radius at the rate of a Lipschitz constant per pair of classes.

    Args:
        logits: Shape (B, K).
        y: Labels, shape (B,).
        slopes: Shape (K, K), as :class:`deqcert.models.LipschitzModel` has them.
    """

    norm = "l2"

    def __init__(self, logits: Tensor, y: Tensor, slopes: Tensor) -> None:
        self._logits, self._y = logits, y
        self._leads = logits.gather(1, y[:, None]) - logits
        self._slopes = slopes.to(logits)[y]

    @property
    def logits(self) -> Tensor:
        """Return what was given."""
        return self._logits

    @torch.no_grad()
    def radii(self, cap: float, steps: int) -> Tensor:
        """Return the least quotient of a lead and its slope per row, from 0 to the cap."""
        reach = self._leads / self._slopes.clamp_min(NOTHING)
        return _nearest(reach, self._y).clamp(0.0, cap)

    def worst_case(self, radii: Tensor) -> WorstCase:
        """Return each lead less its slope times the radius."""
        return WorstCase(self._leads - self._slopes * radii.detach()[:, None])


class IntervalProof(Proof):
    """Margins of an interval model over boxes that are cut off at 0 and 1.

    Every solve on the same images begins where the one before it ended.

    Args:
        model: In training mode its batch normalisation uses the images' own statistics.
        forward: The same as a function from images to logits, called when they are asked for.
        x: Images, shape (B, C, H, W).
        y: Labels, shape (B,).
    """

    norm = "linf"

    def __init__(
        self, model: IntervalDEQ, forward: Callable[[Tensor], Tensor], x: Tensor, y: Tensor
    ) -> None:
        self._x, self._y, self._forward = x.detach(), y, forward
        self._form = model.interval_form(self._x if model.training else None)
        self._start: Tensor | None = None

    @cached_property
    def logits(self) -> Tensor:
        """Return the logits at the equilibria of the images."""
        return self._forward(self._x)

    @torch.no_grad()
    def radii(self, cap: float, steps: int) -> Tensor:
        """Return the largest radius up to the cap that was seen to be proven, by a root search."""

        def least(rows: Tensor, radii: Tensor) -> Tensor:
            start = None if self._start is None else self._start[rows]
            found = self._form.bound(self._x[rows], self._y[rows], radii, start=start, stop=ROUGH)
            if self._start is None:
                self._start = found.state.new_zeros(len(self._x), found.state.shape[1])
            self._start[rows] = found.state
            return _nearest(found.margins, self._y[rows])

        leads = self.logits.gather(1, self._y[:, None]) - self.logits
        return roots(least, _nearest(leads, self._y), cap, steps)

    def worst_case(self, radii: Tensor) -> WorstCase:
        """Return the bounds over the boxes of those radii, and their layers."""
        found = self._form.bound(self._x, self._y, radii, start=self._start)
        self._start = found.state
        normalize = self._form.normalize
        centre, half = pixel_box(self._x, radii)
        return WorstCase(found.margins, ((normalize(centre), half / normalize.std), *found.layers))

    def relaxed(self, worst: WorstCase) -> Tensor:
        """Return the margins by lines through one cell and the input block."""
        return relaxed_margins(self._form, self._y, worst.layers)


def proven_norm(model: nn.Module) -> Norm | None:
    """Return the norm in which a model proves something while it is trained; None for nothing."""
    if isinstance(model, IntervalDEQ):
        return IntervalProof.norm
    return LipschitzProof.norm if isinstance(model, LipschitzModel) else None


def prove(model: ImplicitModel, forward: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Proof:
    """Prove what there is to be proven of images.

    Args:
        model: One whose :func:`proven_norm` is not None.
        forward: The same as a function from images to logits.
        x: Images, shape (B, C, H, W).
        y: Labels, shape (B,).
    """
    if isinstance(model, IntervalDEQ):
        return IntervalProof(model, forward, x, y)
    assert isinstance(model, LipschitzModel)
    return LipschitzProof(forward(x), y, model.pairwise_lipschitz())


def _nearest(values: Tensor, y: Tensor) -> Tensor:
    """Return the least value of any class but the label, (B, K) to (B,)."""
    return values.scatter(1, y[:, None], torch.inf).amin(dim=1)
