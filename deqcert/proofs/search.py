"""The largest radius that a proof reaches, per input: a batched search by halving."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def largest_radius(
    proves: Callable[[Tensor, Tensor], Tensor],
    limit: Tensor,
    *,
    resolution: float = 1e-4,
    proven: Tensor | None = None,
    split: int = 2,
) -> Tensor:
    """Find per row the largest radius that a proof reaches.

    ``limit`` is tried first; rows where it fails are bisected until the gap between what was
    proven and what was not is at most ``resolution``. Rows are asked together, and those that are
    done no more.

    Args:
        proves: Takes rows, shape (b,), int64, and a radius for each, shape (b,), float64; returns
            which are proven, shape (b,), bool. What is proven at a radius should be so at smaller
            ones; where it is not, the result is still a radius at which it said yes.
        limit: Largest radius looked for, per row, shape (B,), above 0.
        resolution: Largest difference to a radius that was tried and failed, above 0.
        proven: Radii that are known to be proven, per row, shape (B,); None for none.
        split: In how many parts an interval is cut at a time, from 2. With more, a row is asked
            about several radii at once, so fewer rounds are needed: quicker for few rows.

    Returns:
        Shape (B,), float64: per row the last radius that ``proves`` accepted, or what ``proven``
        said, or 0 where nothing was accepted.
    """
    high = limit.detach().double().cpu().clone()
    low = torch.zeros_like(high) if proven is None else proven.detach().double().cpu().clone()
    low = torch.minimum(low, high)
    rows = torch.nonzero(low < high).squeeze(1)
    places = torch.arange(1, split, dtype=torch.float64)[None] / split
    trials = high[rows][:, None]
    for _ in range(_rounds(high, resolution, split) + 1):
        if not len(rows):
            break
        asked = rows.repeat_interleave(trials.shape[1])
        accepted = proves(asked, trials.flatten()).cpu().view(trials.shape)
        below = torch.where(accepted, trials, 0.0).amax(dim=1)
        low[rows] = torch.maximum(low[rows], below)
        beyond = ~accepted & (trials > low[rows][:, None])
        above = torch.where(beyond, trials, torch.inf).amin(dim=1)
        high[rows] = torch.minimum(high[rows], above)
        rows = rows[high[rows] - low[rows] > resolution]
        trials = low[rows][:, None] + (high[rows] - low[rows])[:, None] * places
    return low


def _rounds(high: Tensor, resolution: float, split: int) -> int:
    """Return how many cuts bring the widest interval down to the resolution."""
    widest = max(high.max().item(), resolution) if len(high) else resolution
    return math.ceil(math.log(widest / resolution) / math.log(split)) + 1
