"""Where a falling function of a radius crosses zero, for every row of a batch at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Least = Callable[[Tensor, Tensor], Tensor]
"""Rows, as indices of shape (R,), and a radius for each, shape (R,), to a value for each."""

ENOUGH = 5e-3
"""Share of the limit within which a root is found; then its row is done."""


@torch.no_grad()
def roots(least: Least, start: Tensor, limit: float, steps: int) -> Tensor:
    """Find the radius per row at which a value becomes negative, from below.

    Regula falsi with the Illinois rule, which halves the value of an end that stays, between 0 and
    the limit; every third step is a bisection. Rows that are done cost nothing.

    Args:
        least: The value, which falls with the radius; what is not finite counts as negative.
        start: The value at 0 per row, shape (B,); its root is 0 where that is not above 0 or not
            finite.
        limit: Largest radius.
        steps: Most evaluations per row, from 1; the first is at the limit.

    Returns:
        Shape (B,): the largest radius at which a value from 0 up was seen; 0 where there was none,
        the limit itself where the value there is not negative.

    **Source:** M. Dowell, P. Jarratt, "A modified regula falsi method for computing the root of an
    equation" (1971).
    """
    found = torch.zeros_like(start)
    rows = torch.nonzero((start > 0.0) & torch.isfinite(start)).squeeze(1)
    low, below = found[rows], start[rows]
    high, above = torch.full_like(low, limit), -below
    side = torch.zeros_like(rows)
    for step in range(steps):
        if not len(rows):
            break
        width = high - low
        quotient = below / (below - above)
        at = high if step == 0 else low + width * (0.5 if step % 3 == 0 else quotient)
        value = least(rows, at)
        proven = value >= 0.0
        found[rows[proven]] = at[proven]
        value = torch.where(torch.isfinite(value), value, -below)
        # The end that stays a second time counts half.
        above = torch.where(proven, torch.where(side > 0, 0.5, 1.0) * above, value)
        below = torch.where(proven, value, torch.where(side < 0, 0.5, 1.0) * below)
        low, high = torch.where(proven, at, low), torch.where(proven, high, at)
        side = torch.where(proven, 1, -1)
        wide = (high - low > ENOUGH * limit) & (below > 0.0)
        rows, low, high, below, above, side = (
            part[wide] for part in (rows, low, high, below, above, side)
        )
    return found
