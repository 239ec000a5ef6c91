"""Bounds of logits over l-infinity boxes of inputs, and how far they prove a class."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from deqcert.errors import ConfigError, DataError
from deqcert.models.base import ImplicitModel, IntervalModel, ProvenModel
from deqcert.models.images import check_shape
from deqcert.proofs.known import Known
from deqcert.proofs.search import largest_radius


@dataclass(frozen=True)
class Leads:
    """What is proven over boxes of inputs.

    Attributes:
        gaps: Lower bounds of a class's logit minus every logit, shape (B, K), float64, for the
            exact equilibrium of every real input in the box.
        state: What a proof for the same images over other boxes may begin with, shape (B, any).
    """

    gaps: Tensor
    state: Tensor


@dataclass(frozen=True)
class Reach:
    """How far a class is proven to stay, for one input.

    Attributes:
        best: The class with the largest logit.
        proven: Whether it is proven to be the class of the exact equilibrium, at radius 0.
        radius: Largest l-infinity radius at which it was proven to be the class of every input; 0
            if it was at none.
        rival: Class that it leads least over, at that radius.
        gap: Lower bound of that lead there; not above 0 if nothing was proven.
        nfe: Evaluations of the cell, and of the cell of boxes, in its share of the search.
    """

    best: int
    proven: bool
    radius: float
    rival: int
    gap: float
    nfe: float


class Intervals(ABC):
    """Bounds of a network's logits over l-infinity boxes of inputs, rounded outwards.

    Args:
        shape: Channels, height and width of an input; None if the model does not say.

    Attributes:
        nfe: Evaluations of the cell, and of the cell of boxes, so far; all rows counted.
    """

    def __init__(self, shape: tuple[int, ...] | None) -> None:
        self.shape, self.nfe = shape, 0.0

    @abstractmethod
    def classes(self, x: Tensor) -> Tensor:
        """Return the likely classes of images, shape (B, C, H, W), float64; shape (B,)."""

    @abstractmethod
    def leads(self, x: Tensor, eps: Tensor, classes: Tensor, start: Tensor | None = None) -> Leads:
        """Bound by how much classes lead over boxes of inputs, which are cut off at 0 and 1.

        Args:
            x: Images, shape (B, C, H, W), float64.
            eps: Half-widths of the boxes, shape (B,), float64.
            classes: Shape (B,).
            start: ``state`` of an earlier answer for the same images; None begins cold.
        """

    @torch.no_grad()
    def reach(
        self, x: Tensor, limit: float, *, resolution: float = 1e-4, split: int = 2
    ) -> list[Reach]:
        """Find per image the largest radius at which its class is proven.

        Args:
            x: Images, shape (B, C, H, W), in [0, 1].
            limit: Largest radius looked for, in (0, 1].
            resolution: See :func:`largest_radius`.
            split: See :func:`largest_radius`.

        Raises:
            DataError: If the images do not fit the model or are not finite.
        """
        images, began = self._images(x), self.nfe
        best = self.classes(images)
        gaps, rivals = torch.zeros(len(images), dtype=torch.float64), best.clone()
        at, states = torch.full_like(gaps, -1.0), torch.empty(0)

        def proves(rows: Tensor, radii: Tensor) -> Tensor:
            nonlocal states
            start = states[rows] if len(states) else None
            found = self.leads(images[rows], radii, best[rows], start)
            if start is None:  # the first question is about all rows, in their order
                states = found.state.clone()
            states[rows] = found.state
            lead, rival = found.gaps.scatter(1, best[rows, None], torch.inf).min(dim=1)
            proven = lead > 0.0  # and what is not a number proves nothing
            for place, row in enumerate(rows.tolist()):
                if proven[place] and radii[place] > at[row]:
                    at[row] = radii[place]
                elif at[row] >= 0.0:
                    continue
                gaps[row], rivals[row] = lead[place], rival[place]
            return proven

        limits = torch.full_like(gaps, limit)
        radii = largest_radius(proves, limits, resolution=resolution, split=split)
        none = torch.nonzero(at < 0.0).squeeze(1)
        if len(none):
            proves(none, torch.zeros_like(radii)[none])
        share = (self.nfe - began) / max(1, len(images))
        return [
            Reach(
                best=int(best[row]),
                proven=bool(at[row] >= 0.0),
                radius=float(radii[row]),
                rival=int(rivals[row]),
                gap=float(gaps[row]),
                nfe=share,
            )
            for row in range(len(images))
        ]

    def _images(self, x: Tensor) -> Tensor:
        images = x.detach().double().cpu()
        if self.shape is not None:
            check_shape(images, self.shape)
        if not bool(torch.isfinite(images).all()):
            raise DataError("the image has values that are not finite; pixels are in [0, 1].")
        return images


_KNOWN: Known[Intervals] = Known()


def intervals_of(model: ImplicitModel, *, tol: float, max_nfe: int) -> Intervals:
    """Return the intervals of a network; it is prepared once for the same weights.

    Args:
        model: An interval model, or a monotone one.
        tol: Relative residual that ends the solve of an interval model.
        max_nfe: Most evaluations per solve or narrowing.

    Raises:
        ConfigError: If the model has no intervals, or nothing is proven of its weights.
    """
    from deqcert.proofs.a_priori import APriori
    from deqcert.proofs.post_fixed_point import PostFixedPoint

    def make() -> Intervals:
        if isinstance(model, IntervalModel):
            return PostFixedPoint(model, tol=tol, max_nfe=max_nfe)
        if isinstance(model, ProvenModel):
            return APriori(model, max_nfe=max_nfe)
        raise ConfigError(
            "method 'interval' needs a model whose intervals hold its equilibria, but "
            f"{type(model).__name__} offers none; use a method that draws noise, or a model "
            "trained with --architecture interval or monotone, in --form eager."
        )

    return _KNOWN.of(model, tol, max_nfe, make=make)
