"""The step of Anderson's method."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from deqcert.kernels.residual import residual_norms, row_sum
from deqcert.kernels.step import (
    AT_LEAST_ONE,
    NOT_NEGATIVE,
    POSITIVE,
    ROWS,
    SIZE,
    WINDOW,
    Kept,
    step_kernel,
)
from deqcert.kernels.watch import Watch, finish, judge_norms

MAX_WINDOW = 64
"""The longest window: the small systems live in registers and on the stack."""

# A difference column whose squared length is this small against the residuals it was formed from
# is rounding noise; a pivot this small means that the column is a combination of earlier ones.
# csrc/anderson.h has the same.
DROP_COLUMN = 1e-14
DROP_PIVOT = 1e-12


@step_kernel(
    keeps={
        "window_f": Kept((ROWS, WINDOW, SIZE)),
        "window_g": Kept((ROWS, WINDOW, SIZE)),
        "gram": Kept((ROWS, WINDOW, WINDOW), torch.float64),
        "count": Kept((ROWS,), torch.int32),
    },
    constants={
        "damping": POSITIVE,
        "ridge": NOT_NEGATIVE,
        "growth": AT_LEAST_ONE,
        "max_weight": AT_LEAST_ONE,
    },
    max_window=MAX_WINDOW,
)
def anderson_step(
    z: Tensor,
    fz: Tensor,
    window_f: Tensor,
    window_g: Tensor,
    gram: Tensor,
    count: Tensor,
    out: Tensor,
    *,
    damping: float,
    ridge: float,
    growth: float,
    max_weight: float,
    watch: Watch | None = None,
    workspace: Tensor | None = None,
) -> None:
    """One safeguarded type II Anderson step for every row (Anderson 1965; Walker, Ni 2011).

    Slot ``s = count % m`` of the windows takes ``fz`` and ``g = fz - z``, and row and column ``s``
    of ``gram`` the inner products of ``g`` with the residuals held. If ``||g||`` exceeds ``growth``
    times the smallest residual held, the row restarts from that one (it moves to slot 0 and
    ``count`` becomes 1). Otherwise the next state is ``sum_j a_j (F_j - (1 - damping) G_j)`` with
    the weights that minimise ``||sum_j a_j G_j||`` under ``sum_j a_j = 1``, found in float64 from
    the correlation matrix of the differences plus ``ridge``; dependent columns get weight zero.
    Weights that are not finite or whose absolute sum exceeds ``max_weight`` give way to the plain
    damped step. All that a row reads and writes is its own.

    Args:
        z: (B, D) float32, float64 or bfloat16 current states.
        fz: (B, D) the cell at ``z``.
        window_f: (B, m, D) past ``fz``, 1 <= m <= 64; updated. Slots not yet filled may hold
            anything.
        window_g: (B, m, D) past residuals; updated.
        gram: (B, m, m) float64 inner products of the residuals; updated.
        count: (B,) int32 evaluations of the row since its last restart, >= 0; updated.
        out: (B, D) receives the next state; may be ``z`` or ``fz`` itself, but must not overlap
            the windows.
        damping: Mixing parameter, > 0; 1 is the undamped step.
        ridge: Regularisation relative to the unit diagonal of the correlation matrix, >= 0.
        growth: Factor of allowed growth of the residual's norm, >= 1; infinity never restarts.
        max_weight: Largest absolute sum of the weights, >= 1; infinity allows any finite weights.
        watch: Judges the rows first; ``out`` must then overlap nothing.
        workspace: What :func:`deqcert.kernels.workspace` returned; default: allocated here.

    Raises:
        KernelError: If an argument has the wrong dtype, shape, device, layout or range.
    """
    last = judge_norms(z, out, *residual_norms.reference(z, fz), watch)
    rows, m = window_f.shape[0], window_f.shape[1]
    index = torch.arange(rows, device=z.device)
    newest = (count % m).long()
    n = (count + 1).clamp(max=m).long()
    filled = torch.arange(m, device=z.device) < n[:, None]
    zero = torch.zeros((), dtype=torch.float64, device=z.device)

    g = fz - z
    window_f[index, newest] = fz
    window_g[index, newest] = g
    g64 = g.double()
    new = torch.stack([row_sum(window_g[:, j].double() * g64) for j in range(m)], dim=1)
    gram[index, newest] = torch.where(filled, new, gram[index, newest])
    gram[index, :, newest] = torch.where(filled, new, gram[index, :, newest])

    # Rollback: a residual that grew too much is dropped, and the row restarts from its best state.
    inf = torch.full((), math.inf, dtype=torch.float64, device=z.device)
    diagonal = gram.diagonal(dim1=1, dim2=2)
    diagonal = torch.where(filled & ~diagonal.isnan(), diagonal, inf)
    best = diagonal.argmin(dim=1)
    current = gram[index, newest, newest]
    back = current > growth * growth * diagonal[index, best]

    weights = _solve_weights(gram, newest, n, ridge)
    size = torch.zeros(rows, dtype=torch.float64, device=z.device)
    for j in range(m):
        size = size + weights[:, j].abs()
    bad = ~(size.isfinite() & (size <= max_weight))
    only_newest = torch.nn.functional.one_hot(newest, m).double()
    weights = torch.where(bad[:, None], only_newest, weights)

    restart = torch.nonzero(back)[:, 0]
    if restart.numel():
        window_f[restart, 0] = window_f[restart, best[restart]]
        window_g[restart, 0] = window_g[restart, best[restart]]
        gram[restart, 0, 0] = gram[restart, best[restart], best[restart]]
        weights[restart] = 0.0
        weights[restart, 0] = 1.0
    count.copy_(torch.where(back, torch.ones_like(count), count + 1))

    # A slot of weight zero may hold anything, NaN included, and must not be touched by 0 * NaN.
    mixed = torch.zeros(z.shape, dtype=torch.float64, device=z.device)
    for j in range(m):
        state = window_f[:, j].double()
        if damping != 1.0:
            state = state - (1.0 - damping) * window_g[:, j].double()
        weight = weights[:, j, None]
        mixed = mixed + torch.where(weight == 0.0, zero, weight * state)
    out.copy_(mixed)
    finish(out, watch, last)


def _solve_weights(gram: Tensor, newest: Tensor, n: Tensor, ridge: float) -> Tensor:
    """Mixing weights of the type II Anderson step, one row of ``gram`` (B, m, m) at a time.

    Minimises ``||g + sum_j gamma_j (G_j - g)||`` over gamma, with the normal equations scaled to
    unit diagonal before the ridge is added (so that the ridge is relative to the scale of the
    state). Columns run from the most recent difference to the oldest, so that the oldest is the
    one to go when they depend on each other.

    Args:
        gram: (B, m, m) float64 inner products of the residuals.
        newest: (B,) int64 slot of the current residual.
        n: (B,) int64 number of filled slots, 1..m.
        ridge: Added to the unit diagonal.

    Returns:
        (B, m) float64 weights that sum to one; zero in empty and in dropped slots.
    """
    rows, m = gram.shape[0], gram.shape[1]
    index = torch.arange(rows, device=gram.device)
    weights = torch.zeros(rows, m, dtype=torch.float64, device=gram.device)
    if m == 1:
        return weights.fill_(1.0)
    age = torch.arange(1, m, device=gram.device)
    slot = torch.remainder(newest[:, None] - age, m)
    used = age < n[:, None]

    g_ss = gram[index, newest, newest]
    g_js = gram[index[:, None], slot, newest[:, None]]
    g_ij = gram[index[:, None, None], slot[:, :, None], slot[:, None, :]]
    c = g_ij - g_js[:, :, None] - g_js[:, None, :] + g_ss[:, None, None]
    diagonal = c.diagonal(dim1=1, dim2=2)
    own = g_ij.diagonal(dim1=1, dim2=2)
    used = used & ~(diagonal <= DROP_COLUMN * (own + g_ss[:, None]))
    one = torch.ones((), dtype=torch.float64, device=gram.device)
    zero = torch.zeros((), dtype=torch.float64, device=gram.device)
    scale = torch.where(used, diagonal.sqrt(), one)
    both = used[:, :, None] & used[:, None, :]
    a = torch.where(both, c / (scale[:, :, None] * scale[:, None, :]), zero)
    eye = torch.eye(m - 1, dtype=torch.float64, device=gram.device).bool()
    a = torch.where(eye, 1.0 + ridge, a)
    x = torch.where(used, (g_ss[:, None] - g_js) / scale, zero)

    # LDL^T without pivoting; a small pivot switches its column off.
    kept = used.clone()
    for k in range(m - 1):
        kept[:, k] &= ~(a[:, k, k] < DROP_PIVOT)
        column = torch.where(kept[:, k, None], a[:, k + 1 :, k] / a[:, k, k, None], zero)
        x[:, k + 1 :] -= column * x[:, k, None]
        update = column[:, :, None] * a[:, None, k, k + 1 :]
        a[:, k + 1 :, k + 1 :] -= torch.where(kept[:, k, None, None], update, zero)
    gamma = torch.zeros_like(x)
    for k in reversed(range(m - 1)):
        value = x[:, k]
        for j in range(k + 1, m - 1):
            value = value - torch.where(kept[:, j], a[:, k, j] * gamma[:, j], zero)
        gamma[:, k] = torch.where(kept[:, k], value / a[:, k, k], zero)
    gamma = gamma / scale

    total = torch.zeros(rows, dtype=torch.float64, device=gram.device)
    for k in range(m - 1):
        total = total + gamma[:, k]
    weights.scatter_(1, slot, gamma)
    weights[index, newest] = 1.0 - total
    return weights
