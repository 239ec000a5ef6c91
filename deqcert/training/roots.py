"""Where a falling function of a radius crosses zero, for every row of a batch at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Least = Callable[[Tensor, Tensor], Tensor]
"""Rows, as indices of shape (R,), and a radius for each, shape (R,), to a value for each."""

ENOUGH = 1e-3
"""Share of the limit within which a root is found."""


@torch.no_grad()
def roots(least: Least, limits: Tensor, steps: int) -> Tensor:
    """Find the radius per row at which a value becomes negative, from below.

    Regula falsi with the Illinois rule, which halves the value of an end that stays, between 0 and
    the limit; every other step that has not halved the bracket is a bisection. Rows that are done
    cost nothing.

    Args:
        least: The value, which falls with the radius; not finite counts as negative.
        limits: Largest radius per row, shape (B,).
        steps: Most evaluations, the first at the limit and the second at 0 included.

    Returns:
        Shape (B,): the largest radius at which a value from 0 up was seen; 0 where there was none,
        the limit itself where its value is not negative.

    **Source:** M. Dowell, P. Jarratt, "A modified regula falsi method for computing the root of an
    equation" (1971).
    """
    found = torch.zeros_like(limits)
    rows = torch.arange(len(limits), device=limits.device)
    high, above = limits.clone(), least(rows, limits)
    done = above >= 0.0
    found[done] = limits[done]
    rows, high, above = rows[~done], high[~done], above[~done]
    if not len(rows) or steps < 2:
        return found
    low = torch.zeros_like(high)
    below = least(rows, low)
    keep = (below > 0.0) & torch.isfinite(below)
    rows, low, high, below, above = (part[keep] for part in (rows, low, high, below, above))
    above = torch.where(torch.isfinite(above), above, -below)
    side = torch.zeros_like(rows)
    for step in range(steps - 2):
        if not len(rows):
            break
        width = high - low
        at = low + width * below / (below - above)
        # A bracket that shrinks from one side only is halved now and then.
        at = torch.where(torch.tensor(step % 3 == 2), low + width / 2.0, at)
        value = least(rows, at)
        proven = value >= 0.0
        found[rows[proven]] = at[proven]
        value = torch.where(torch.isfinite(value), value, above)
        above = torch.where(proven & (side > 0), above / 2.0, above)
        below = torch.where(~proven & (side < 0), below / 2.0, below)
        low, below = torch.where(proven, at, low), torch.where(proven, value, below)
        high, above = torch.where(proven, high, at), torch.where(proven, above, value)
        side = torch.where(proven, 1, -1)
        wide = (high - low > ENOUGH * limits[rows]) & (below > 0.0)
        rows, low, high, below, above, side = (
            part[wide] for part in (rows, low, high, below, above, side)
        )
    return found
