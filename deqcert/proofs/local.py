"""How far an input can move before one class can overtake another: proven around that input."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from deqcert.models.relu_form import ReluForm
from deqcert.models.spectral import TINY, UNIT, rounding_constant
from deqcert.proofs.definite import MARGIN, are_semidefinite
from deqcert.proofs.local_search import LocalMultipliers, search
from deqcert.proofs.multiplier import Multipliers

SHORTER = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3)
"""By how much less than the search found is tried in turn, until a proof succeeds."""

DOWN = 1.0 - 1e-12
"""Less than the rounding of a product can take away."""

TOGETHER = 64
"""Rows that are searched together; they share what a step costs besides its arithmetic."""


class Led(Protocol):
    """An input whose class leads: its gaps, and what enters relu there."""

    @property
    def best(self) -> int:
        """The class."""
        ...

    @property
    def gaps(self) -> Tensor:
        """Per class a lower bound of how much it leads, shape (K,)."""
        ...

    @property
    def entering(self) -> Tensor | None:
        """What enters relu, shape (D,)."""
        ...

    @property
    def entering_error(self) -> float:
        """Bound of its l2 distance to the exact one."""
        ...


@dataclass(frozen=True)
class Neighbourhood:
    """What is known at inputs whose neighbourhood is to be proven, a row for an input and a pair.

    Attributes:
        readout: c, the difference of the pair's two rows of C, shape (B, D), float64, rounded.
        gap: Lower bounds of the difference of the pair's logits, above 0; shape (B,).
        entering: v, what enters relu at the exact equilibrium, shape (B, D), nearly.
        error: Bound of the l2 distance between v and the exact one, shape (B,).
        constant: A Lipschitz constant of the pair, shape (B,); the search begins at what it proves.
        multiplier: The diagonal that proves it, shape (B, D).
    """

    readout: Tensor
    gap: Tensor
    entering: Tensor
    error: Tensor
    constant: Tensor
    multiplier: Tensor

    def rows(self, chosen: Tensor) -> Neighbourhood:
        """Return the chosen rows."""
        return Neighbourhood(*(getattr(self, name)[chosen] for name in self.__dataclass_fields__))


@torch.no_grad()
def local_radii(form: ReluForm, known: Neighbourhood, enough: Tensor) -> Tensor:
    """Find and prove radii within which the gap stays above 0.

    The multipliers come from :func:`deqcert.proofs.local_search.search`; how they were found does
    not matter, because each radius is proven by :func:`verified_radii`.

    Args:
        form: The matrices W and U, and how far they are from the exact ones.
        known: What is known at the inputs.
        enough: Per row a radius past which there is no need to look; shape (B,).

    Returns:
        Radii, shape (B,), float64; 0 where nothing was proven.
    """
    found, multipliers = search(
        form.state,
        form.input @ form.input.T,
        form.monotone,
        known.readout,
        known.gap,
        known.entering,
        enough,
        known.constant,
        known.multiplier,
    )
    proven = torch.zeros_like(found)
    for less in SHORTER:
        left = torch.nonzero((proven == 0.0) & (found > 0.0)).squeeze(1)
        if not len(left):
            break
        radii = found[left] * (1.0 - less)
        holds = verified_radii(form, known.rows(left), multipliers.rows(left), radii)
        proven[left[holds]] = radii[holds]
    return proven


def verified_radii(
    form: ReluForm, known: Neighbourhood, multipliers: LocalMultipliers, radii: Tensor
) -> Tensor:
    """Prove that the gap stays above 0 at every distance below a radius.

    Let z = relu(v) at the input and z + dz = relu(v + dv) at another one, dv = W dz + U dx. With
    v = v+ - v-, each unit has s = z + dz >= 0 and h = dz - dv + v- >= 0 (what comes out of relu is
    at least what enters), and one of the two is 0. So for all mu, t, p, q >= 0 with v exact,

        mu (gap + c'dz) - (r^2 - |dx|^2) = F(dx, dz) + sum(p h + q s - t s h) >= F(dx, dz),

    where F is a quadratic form. Its least value over dx is the quadratic form in (1, dz) of

        M = [ mu gap - r^2 - q'v+ - p'v- - a'UU'a/4    l'/2                            ]
            [ l/2                                      (T A + A'T)/2 - T UU' T/4       ]

        A = I - W,  a = t v+ - p,  b = t v- - q,  l = mu c + b + A'a - T UU'a/2.

    If M is positive semidefinite, gap + c'dz > 0 wherever |dx| < r.

    Args:
        form: The matrices W and U, and how far they are from the exact ones.
        known: What is known at the inputs.
        multipliers: mu, t, a and b; any may be given, a and b are lowered to what p, q >= 0 allow
            for every v within its error.
        radii: r, shape (B,).

    Returns:
        True only where it is proven, shape (B,).

    **Guarantee:** deterministic, in the standard model of floating-point arithmetic: what v, W, U
    and c may be off, and the rounding of every product, is added up and charged.

    **Source:** the S-procedure for semialgebraic networks: A. Raghunathan, J. Steinhardt, P. Liang,
    "Semidefinite relaxations for certifying robustness to adversarial examples" (2018); T. Chen,
    J.-B. Lasserre, V. Magron, E. Pauwels, "Semialgebraic representation of monotone deep
    equilibrium models" (2021). Here around one input, with the radius itself as the objective.
    """
    mu, t = multipliers.gap, multipliers.product
    v, off = known.entering, MARGIN * known.error[:, None] + TINY
    low, high = 1.0 - 8.0 * UNIT, 1.0 + 8.0 * UNIT
    # p = t v+ - a and q = t v- - b must not be negative for any v that is possible.
    a = allowed(multipliers.rise, low * t * (low * v - high * off).clamp_min(0.0))
    b = allowed(multipliers.floor, low * t * (-low * v - high * off).clamp_min(0.0))
    # q'v+ + p'v-: v+ times v- is 0, so only what lies below 0 costs.
    cost = (-b).clamp_min(0.0) * (v + off).clamp_min(0.0)
    cost = MARGIN * (cost + (-a).clamp_min(0.0) * (off - v).clamp_min(0.0)).sum(dim=1)

    state, count = form.state, len(form.state)
    operator = torch.eye(count, dtype=torch.float64) - state
    gram = form.input @ form.input.T
    through = a @ gram
    matrices = torch.empty(len(v), count + 1, count + 1, dtype=torch.float64)
    scaled = t[:, :, None] * operator
    matrices[:, 1:, 1:] = (scaled + scaled.mT) / 2.0 - t[:, :, None] * gram * t[:, None] / 4.0
    line = mu[:, None] * known.readout + b + a @ operator - t * through / 2.0
    matrices[:, 1:, 0] = matrices[:, 0, 1:] = line / 2.0
    square, bent = radii * radii, (a * through).sum(dim=1) / 4.0
    matrices[:, 0, 0] = mu * known.gap - square - cost - bent

    size_state = MARGIN * torch.linalg.matrix_norm(state).item() + math.sqrt(count)
    size_input = MARGIN * torch.linalg.matrix_norm(form.input).item() ** 2
    vague = form.input_error * (2.0 * math.sqrt(size_input) + form.input_error)
    vague += rounding_constant(form.input.shape[1] + 2) * size_input  # of U U' as computed
    largest = t.amax(dim=1)
    size_a, size_b = (torch.linalg.vector_norm(part, dim=1) for part in (a, b))
    size_line = mu * torch.linalg.vector_norm(known.readout, dim=1) + size_b
    size_line += size_a * (size_state + largest * size_input)
    # What the stored, rounded matrices differ by from the exact ones.
    error = form.state_error * (largest + size_a) + vague * (largest + size_a).square()
    # What rounding changes in the products and sums above.
    terms = largest * size_state + largest.square() * size_input + size_line
    terms += mu * known.gap + square + cost + size_a.square() * size_input
    error += rounding_constant(count + 16) * terms
    possible = (mu > 0.0) & (t > 0.0).all(dim=1) & (radii > 0.0) & torch.isfinite(cost)
    return possible & are_semidefinite(matrices, MARGIN * error + TINY)


def allowed(given: Tensor, most: Tensor) -> Tensor:
    """Lower what was given to the most that is allowed."""
    return torch.minimum(given, most)


def entering(
    form: ReluForm, images: Tensor, states: Tensor, error: Tensor
) -> tuple[Tensor, Tensor]:
    """Return W z + U x + u for z = relu(state), and bound its distance to the exact one.

    Args:
        form: The model as matrices.
        images: Shape (B, C, H, W), float64; exact.
        states: States of the cell, shape (B, D); relu of the exact one is the equilibrium.
        error: Bound of their l2 distance to the exact ones, shape (B,).

    Returns:
        Shape (B, D), float64; and the bound, shape (B,).
    """
    z, pixels = states.clamp_min(0.0), images.flatten(1)
    inside = z @ form.state.T + pixels @ form.input.T + form.bias
    size_state = torch.linalg.matrix_norm(form.state).item()
    size_input = torch.linalg.matrix_norm(form.input).item()
    of_z, of_pixels = (torch.linalg.vector_norm(part, dim=1) for part in (z, pixels))
    terms = size_state * of_z + size_input * of_pixels + torch.linalg.vector_norm(form.bias)
    off = rounding_constant(form.input.shape[1] + len(form.state) + 8) * terms
    off += (size_state + form.state_error) * error + form.state_error * of_z
    off += form.input_error * of_pixels + form.bias_error
    return inside, MARGIN * off + TINY


def beginning(
    form: ReluForm, readout: Tensor, pairs: Sequence[tuple[float, Tensor] | None]
) -> tuple[Tensor, Tensor]:
    """Return a constant per row and the diagonal that proves it, shapes (B,) and (B, D).

    Args:
        form: The model as matrices.
        readout: c, shape (B, D).
        pairs: Per row what is known; None, or an infinite constant, stands for the classical one.
    """
    squares = readout.square().sum(dim=1)
    size = torch.linalg.matrix_norm(form.input, 2)
    constants = squares.sqrt() * size / form.monotone
    multipliers = (squares / form.monotone)[:, None].expand_as(readout).clone()
    for row, pair in enumerate(pairs):
        if pair is not None and 0.0 < pair[0] < math.inf:
            constants[row], multipliers[row] = pair
    return constants, multipliers


def refined(
    form: ReluForm, leads: Sequence[Led], reach: Tensor, multipliers: Multipliers
) -> Tensor:
    """Replace the radii that limit inputs by what is proven around each, as long as it is more.

    Per input the pair with the smallest radius is looked at first, and then whichever is the
    smallest, until that is one that was looked at: no other pair can limit the input.

    Args:
        form: The model as matrices.
        leads: The inputs.
        reach: Per input and class the radius that Lipschitz constants prove, shape (B, K);
            infinite for the class itself, and 0 where nothing is proven.
        multipliers: Per pair of classes a constant and what proves it, where that is known.

    Returns:
        The radii, shape (B, K); none is smaller.
    """
    reach = reach.clone()
    looked = torch.isinf(reach)
    while True:
        nearest, rival = reach.min(dim=1)
        rows = torch.arange(len(reach))
        rows = rows[(nearest > 0.0) & torch.isfinite(nearest) & ~looked[rows, rival]]
        if not len(rows):
            return reach
        for begin in range(0, len(rows), TOGETHER):
            part = rows[begin : begin + TOGETHER]
            chosen, against = [leads[row] for row in part.tolist()], rival[part]
            best = torch.tensor([lead.best for lead in chosen])
            pairs = [
                multipliers.get((max(pair), min(pair)))
                for pair in zip(best.tolist(), against.tolist(), strict=True)
            ]
            readout = form.readout[best] - form.readout[against]
            known = Neighbourhood(
                readout,
                torch.stack([lead.gaps[j] for lead, j in zip(chosen, against, strict=True)]),
                torch.stack([lead.entering for lead in chosen if lead.entering is not None]),
                torch.tensor([lead.entering_error for lead in chosen], dtype=torch.float64),
                *beginning(form, readout, pairs),
            )
            # Past the nearest pair that was looked at there is nothing to be won.
            enough = torch.where(looked, reach, torch.inf)[part].amin(dim=1)
            found = local_radii(form, known, enough)
            looked[part, against] = True
            reach[part, against] = reach[part, against].maximum(DOWN * found)
