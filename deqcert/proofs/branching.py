"""Prove one class over boxes of inputs: bounds with chosen slopes, then branch and bound."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from deqcert.models.spectral import TINY, UNIT
from deqcert.proofs.adjoint import Adjoint
from deqcert.proofs.relaxed import Region, Relaxed

PACE = 0.5
"""First step of the slopes, in units of the interval that enters the relu."""

ATTACKS = 12
"""Steps of the attack that boxes must withstand before branches are spent on them."""

CHUNK = 2**21
"""Numbers per array of one batch of bounds."""


@dataclass(frozen=True)
class Decision:
    """What is known of one class over boxes, per box.

    Attributes:
        proven: Whether no other class is the answer anywhere in the box, shape (B,).
        refuted: Whether an input of the box was found that has another class, shape (B,).
        rival: The class that comes nearest by the bounds before any branching, shape (B,).
        bounds: Bounds computed, branches included, shape (B,).
    """

    proven: Tensor
    refuted: Tensor
    rival: Tensor
    bounds: Tensor

    @staticmethod
    def joined(parts: Sequence[Decision]) -> Decision:
        """Return the boxes of several."""
        return Decision(*_joined(parts))


@dataclass(frozen=True)
class _Branches:
    """Bounds to be computed: per row a pair of classes, and which relus are taken to be on or off.

    Attributes:
        image: Row of the region, shape (N,).
        rival: The class that must not win, shape (N,).
        sides: 1 where a relu is taken to be on, -1 where off, 0 where nothing is, shape (N, D).
        lines: Slopes of the lower bounds of relus that the search begins with, shape (N, D).
        pushes: Multipliers of the sides, likewise.
    """

    image: Tensor
    rival: Tensor
    sides: Tensor
    lines: Tensor
    pushes: Tensor

    def __len__(self) -> int:
        return len(self.image)

    def rows(self, index: Tensor | slice) -> _Branches:
        """Return some of the rows."""
        return _Branches(*(part[index] for part in vars(self).values()))

    @staticmethod
    def joined(parts: Sequence[_Branches]) -> _Branches:
        """Return all rows of several."""
        return _Branches(*_joined(parts))


@dataclass(frozen=True)
class _Searched:
    """Where a search for slopes and multipliers ended, per row.

    Attributes:
        value: A proven upper bound of the rival's lead, shape (N,).
        lines: The slopes that gave it, shape (N, D).
        pushes: The multipliers that gave it.
        loose: How much of the bound is owed to each relu's relaxation, shape (N, D).
        corner: The input at which the relaxed equilibrium takes it, shape (N, C*H*W).
    """

    value: Tensor
    lines: Tensor
    pushes: Tensor
    loose: Tensor
    corner: Tensor


class Branching:
    """Decides whether a class is the answer everywhere in a box.

    A pair of classes is bounded through one adjoint equilibrium, w = f(c + W'w): f has the slope
    u / (u - l) where a relu's upper bound counts, and any slope in [0, 1] where its lower one
    does. These are improved by a few subgradient steps. A pair that is still not proven is split:
    the relu whose relaxation is loosest is on in one branch and off in the other, with a
    multiplier for p >= 0 or p <= 0. A pair is proven once all of its branches are.

    Args:
        relaxed: The network.
        adjoint: What solves for weights.
        steps: Subgradient steps per bound, from 0.
        most: Bounds that may be spent per box on branches, from 0.

    **Source:** S. Wang, H. Zhang, K. Xu, X. Lin, S. Jana, C.-J. Hsieh, J. Z. Kolter, "Beta-CROWN"
    (2021), for slopes and multipliers of split relus in networks of layers; here the layers'
    backward pass is an adjoint equilibrium.
    """

    def __init__(self, relaxed: Relaxed, adjoint: Adjoint, *, steps: int, most: int) -> None:
        self._relaxed, self._adjoint = relaxed, adjoint
        self._steps, self._most = steps, most

    def decide(self, region: Region, best: Tensor) -> Decision:
        """Try to prove that a class is the answer in each box.

        Args:
            region: The boxes, and bounds that hold there.
            best: The class per box, shape (B,).
        """
        images, classes = len(best), len(self._relaxed.form.readout)
        todo = self._pairs(region, best, classes)
        spent = torch.zeros(images, dtype=torch.int64)
        proven, refuted = torch.ones(images).bool(), torch.zeros(images).bool()
        nearest = torch.full((images, classes), -math.inf, dtype=torch.float64)
        rows = max(1, CHUNK // (region.centre.shape[1] + region.lower.shape[1]))
        while len(todo):
            spent += torch.bincount(todo.image, minlength=images)
            left = []
            for begin in range(0, len(todo), rows):
                some = todo.rows(slice(begin, begin + rows))
                found = self._search(region.rows(some.image), best[some.image], some)
                if bool((some.sides == 0).all()):
                    nearest[some.image, some.rival] = found.value
                # Anything that is not a number is not proven.
                unproven = ~(found.value < 0.0)
                asked = some.image[unproven]
                refuted[asked[self._wrong(found.corner[unproven], best[asked])]] = True
                whole = unproven & ~(region.open[some.image] & (some.sides == 0)).any(dim=1)
                proven[some.image[whole]] = False
                left.append(_split(some, found, region, unproven & ~whole))
            first, todo = bool((todo.sides == 0).all()), _Branches.joined(left)
            if first and self._most:
                some = todo.image.unique()
                refuted[some] |= self._attacked(region.rows(some), best[some])
            waiting = torch.bincount(todo.image, minlength=images)
            over = spent + waiting > classes - 1 + self._most
            proven &= ~(refuted | ((waiting > 0) & over))
            todo = todo.rows(proven[todo.image])
        return Decision(proven, refuted, nearest.argmax(dim=1), spent)

    def _pairs(self, region: Region, best: Tensor, classes: int) -> _Branches:
        """Return every class but the best per box, nothing split."""
        image = torch.arange(len(best)).repeat_interleave(classes)
        rival = torch.arange(classes).repeat(len(best))
        pairs = rival != best[image]
        image, rival = image[pairs], rival[pairs]
        lines = _upper_slope(region)[image]
        sides = torch.zeros(lines.shape, dtype=torch.int8)
        return _Branches(image, rival, sides, lines, torch.zeros_like(lines))

    def _wrong(self, x: Tensor, best: Tensor) -> Tensor:
        """Return which inputs, shape (N, C*H*W), have another class in float64, shape (N,)."""
        form = self._relaxed.form
        logits = self._adjoint.equilibria(x) @ form.readout.T + form.offset
        return logits.argmax(dim=1) != best

    def _attacked(self, region: Region, best: Tensor) -> Tensor:
        """Return where ascent by signs of gradients finds another class, shape (B,)."""
        form, x = self._relaxed.form, region.centre
        found = torch.zeros(len(best), dtype=torch.bool)
        for step in range(ATTACKS):
            z = self._adjoint.equilibria(x)
            logits = z @ form.readout.T + form.offset
            found |= logits.argmax(dim=1) != best
            logits.scatter_(1, best[:, None], -math.inf)
            objective = form.readout[logits.argmax(dim=1)] - form.readout[best]
            active = (z > 0.0).double()
            weights = self._adjoint.weights(objective, active, active, torch.zeros_like(active))
            move = region.half * (weights @ form.input).sign() * (2.0 if step == 0 else 0.5)
            x = torch.minimum(x + move, region.centre + region.half)
            x = torch.maximum(x, region.centre - region.half)
        return found

    def _search(self, region: Region, best: Tensor, branches: _Branches) -> _Searched:
        """Bound the rival's lead per row, and improve slopes and multipliers by a few steps."""
        form = self._relaxed.form
        on, off = branches.sides > 0, branches.sides < 0
        region = replace(
            region,
            lower=torch.where(on, region.lower.clamp_min(0.0), region.lower),
            upper=torch.where(off, region.upper.clamp_max(0.0), region.upper),
        )
        objective = form.readout[branches.rival] - form.readout[best]
        offset = form.offset[branches.rival] - form.offset[best]
        open_, above = region.open, _upper_slope(region)
        width = (region.upper - region.lower).clamp_min(TINY)
        lines, pushes = branches.lines, branches.pushes
        found = None
        for step in range(self._steps + 1):
            below = torch.where(open_, lines, above)
            shift = torch.where(on, pushes, torch.where(off, -pushes, 0.0))
            weights = self._adjoint.weights(objective, above, below, shift)
            weighed = self._relaxed.weigh(weights, objective)
            value = self._relaxed.maximum(weighed, region)
            value = value + offset + 4.0 * UNIT * (value.abs() + offset.abs())
            # Where the relaxed equilibrium takes the bound.
            corner = region.centre + region.half * weighed.slopes.sign()
            upper = weighed.factors > 0.0
            slope = torch.where(upper, above, below)
            lifted = torch.where(open_ & upper, -above * region.lower, 0.0)
            z = self._adjoint.states(corner, slope, lifted)
            p = z @ form.state.T + corner @ form.input.T + form.bias
            loose = (weighed.factors * (z - p.clamp_min(0.0))).clamp_min(0.0)
            now = _Searched(value, lines, pushes, torch.where(open_, loose, 0.0), corner)
            found = now if found is None else _better(found, now)
            if step == self._steps:
                break
            # The bound's slope by a line or a multiplier is p times a factor.
            move = PACE / math.sqrt(1.0 + step) * p / width
            lines = torch.where(open_ & ~upper, (lines + 4.0 * move).clamp(0.0, 1.0), lines)
            scale = 4.0 * weighed.factors.abs().mean(dim=1, keepdim=True)
            move = torch.where(on, -move, move) * scale
            pushes = torch.where(on | off, (pushes + move).clamp_min(0.0), pushes)
        assert found is not None
        return found


def _joined(parts: Sequence[Decision] | Sequence[_Branches]) -> Iterator[Tensor]:
    """Return field by field the rows of several."""
    return map(torch.cat, zip(*(vars(part).values() for part in parts), strict=True))


def _upper_slope(region: Region) -> Tensor:
    """Return u / (u - l) where the sign of p is open; else 1 or 0; shape (B, D)."""
    width = torch.where(region.open, region.upper - region.lower, 1.0)
    return torch.where(region.open, region.upper / width, (region.lower >= 0.0).double())


def _better(a: _Searched, b: _Searched) -> _Searched:
    """Return per row the one with the smaller bound."""
    first = ~(b.value < a.value)
    chosen = [
        torch.where(first if x.dim() == 1 else first[:, None], x, y)
        for x, y in zip(vars(a).values(), vars(b).values(), strict=True)
    ]
    return _Searched(*chosen)


def _split(branches: _Branches, found: _Searched, region: Region, which: Tensor) -> _Branches:
    """Return two branches for each of some rows: its loosest relu on, and off."""
    some = branches.rows(which)
    free = region.open[some.image] & (some.sides == 0)
    unit = torch.where(free, found.loose[which], -1.0).argmax(dim=1)
    lines, pushes = found.lines[which], found.pushes[which]
    both = []
    for side in (1, -1):
        sides = some.sides.clone()
        sides[torch.arange(len(sides)), unit] = side
        both.append(_Branches(some.image, some.rival, sides, lines, pushes))
    return _Branches.joined(both)
