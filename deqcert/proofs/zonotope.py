"""Bounds of what enters every relu at equilibrium, over boxes: a ball first, then zonotopes."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from deqcert.models.spectral import TINY, UNIT
from deqcert.proofs.adjoint import Adjoint
from deqcert.proofs.ball import ball
from deqcert.proofs.definite import MARGIN
from deqcert.proofs.relaxed import Region, Relaxed

LITTLE = 1e-3
"""Share of a width; a round that takes less than this from every one is the last."""


def enclose(relaxed: Relaxed, adjoint: Adjoint, x: Tensor, eps: Tensor) -> Region:
    """Enclose the equilibria of boxes of inputs in a ball, and what enters their relus in a box.

    Args:
        relaxed: The network.
        adjoint: What solves for the equilibria of the centres.
        x: Inputs, shape (B, C*H*W), float64.
        eps: Half-widths of the boxes, shape (B,); the boxes are cut off at 0 and 1.

    Returns:
        The regions of the B boxes.

    **Guarantee:** deterministic, for exact arithmetic on the stored weights.
    """
    form, found = relaxed.form, ball(relaxed, adjoint, x, eps)
    middle = found.centre @ form.state.T + found.entering
    reach = found.radius[:, None] * torch.linalg.vector_norm(form.state, dim=1)
    reach = reach + found.half @ form.input.abs().T
    # An element of an error is at most its norm.
    reach = MARGIN * (reach + (found.shift + found.inexact)[:, None]) + TINY
    # Where p_i is positive it is z_i, which is in the ball, too.
    upper = torch.minimum(middle + reach, (found.centre + found.radius[:, None]) * MARGIN)
    upper = upper.clamp_min(0.0)
    return Region(found.pixels, found.half, middle - reach, upper, found.size, found.reach)


def tighten(relaxed: Relaxed, region: Region, rounds: int) -> Region:
    """Narrow the bounds of what enters the relus by zonotopes.

    In a zonotope of inputs and of relu errors, z = s (W z + U x + u) + mu (1 + eta) with slopes
    s_i = u_i / (u_i - l_i) and |eta_i| <= 1, the equilibrium can be solved for exactly:

        z = (I - S W)^-1 (S (U x + u) + mu + mu eta).

    No iteration, no containment check and no consolidation of error terms: with bounds that hold,
    the zonotope holds every equilibrium, and its own bounds hold, too. Of unit i it is asked what
    p_i can be if its relu is on (z_i = p_i), and if it is off (z_i = 0); its own error term is
    then none. The inverse only gives the weights of these bounds, which
    :meth:`Relaxed.maximum` proves.

    Args:
        relaxed: The network.
        region: Bounds that hold.
        rounds: Most rounds; each begins with what the one before has proven.

    Returns:
        The same boxes with bounds that are no wider.

    **Source:** the zonotope relaxation of relu is that of M. N. Müller, R. Staab, M. Fischer, M.
    Vechev, "Abstract Interpretation of Fixpoint Iterators with Applications to Neural Networks"
    (2023), which iterates abstract states of a solver to a fixed point instead.
    """
    region = replace(region, lower=region.lower.clone(), upper=region.upper.clone())
    working = torch.arange(len(region.lower))
    for _ in range(rounds):
        working = working[region.open[working].any(dim=1)]
        if not len(working):
            break
        part = region.rows(working)
        lower, upper = _narrowed(relaxed, part)
        region.lower[working], region.upper[working] = lower, upper
        gained = (upper - lower) < (1.0 - LITTLE) * (part.upper - part.lower)
        working = working[(gained & part.open).any(dim=1)]
    return region


def _narrowed(relaxed: Relaxed, region: Region) -> tuple[Tensor, Tensor]:
    """Return bounds after one round, shapes (B, D)."""
    state, lower, upper = relaxed.form.state, region.lower, region.upper
    slope = torch.where(region.open, upper / (upper - lower), (lower >= 0.0).double())
    identity = torch.eye(len(state), dtype=torch.float64)
    # Row i solves w_j = s_j (W'w)_j for all j but i.
    rows = torch.linalg.inv(identity - slope[:, :, None] * state) * slope[:, None, :]
    image, unit = torch.nonzero(region.open, as_tuple=True)
    weights = rows[image, unit]
    own = torch.arange(len(state)) == unit[:, None]
    weights = weights / weights[own][:, None]
    weights[own] = 1.0
    weighed, part = relaxed.weigh(weights, torch.zeros_like(weights)), region.rows(image)

    # 0 = (W'w)_i z_i - p_i + rest, and z_i = p_i.
    rest = relaxed.maximum(weighed, part, own)
    share = 1.0 - weighed.factors[own]
    on = rest.clamp_min(0.0) / share * (1.0 + 8.0 * UNIT)
    # 0 = -(W'w)_i z_i + p_i + rest, and z_i = 0.
    off = -relaxed.maximum(-weighed, part, own)
    # Whatever is not a number changes nothing.
    before = lower[image, unit], upper[image, unit]
    on = torch.where((share > 0.0) & (on < before[1]), on, before[1])
    off = torch.where(off > before[0], off.clamp_max(0.0), before[0])
    lower, upper = lower.clone(), upper.clone()
    lower[image, unit], upper[image, unit] = off, on
    return lower, upper
