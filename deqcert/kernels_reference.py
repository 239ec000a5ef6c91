"""The torch reference of every kernel: the definition that the compiled ones are tested against.

Arguments are those of :mod:`deqcert.kernels`, already validated there. Everything here is made of
elementwise operations and of sums folded in a fixed order, so that the numbers of a row depend
neither on the other rows nor on the number of threads, on any device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# A difference column whose squared length is this small against the residuals it was formed from
# is rounding noise; a pivot this small means that the column is a combination of earlier ones.
DROP_COLUMN = 1e-14
DROP_PIVOT = 1e-12

# Armijo's constant, the shortest share of a step, and the smallest pivot of a Broyden update.
SUFFICIENT_DECREASE = 1e-4
SHORTEST_STEP = 0.0625
SMALLEST_PIVOT = 1e-8

# Columns of a watch's progress, and values of its status; csrc/watch.h has the same.
RESIDUAL, SCALE, NFE, WAITED, STATUS, FRESH = range(6)
RUNNING, CONVERGED, MAX_NFE, STALLED, DIVERGED, NONFINITE = range(-1, 5)

START = (math.inf, 0.0, 0.0, 0.0, -1.0, 0.0)
"""The progress of a row that has not been evaluated; its status says that it runs."""


@dataclass(slots=True)
class Watch:
    """What a solve keeps of its rows between evaluations; the steps below judge rows by it.

    A step that is given a watch judges each row before it steps: a row that has ended is left
    alone, and one that ends puts its answer into ``best`` and does not step, or, where its depth is
    fixed, steps into ``best``. The ``out`` of such a step must hold the states that were evaluated
    before: a best state is copied only when it would be lost. Status values are those of
    :class:`deqcert.solvers.Status`, -1 while the row runs.

    Args:
        progress: (B, 6) float64; a row is the best residual, the size of the first evaluation, the
            evaluations, those since the residual last fell, the status, and whether the best state
            is the one evaluated last. Begins as :data:`START`.
        best: (B, D) best states, answers once the rows have ended.
        tol: Residual at which a row has converged; 0 asks for exactly ``max_nfe`` evaluations.
        relative: Whether residuals are divided by ``||fz||``.
        max_nfe: Most evaluations of a row.
        divergence: A row has diverged when its residual is more than this times its first size.
        patience: A row stalls when this many evaluations have not lowered its residual.
    """

    progress: Tensor
    best: Tensor
    tol: float
    relative: bool
    max_nfe: int
    divergence: float
    patience: int

    @property
    def rule(self) -> tuple[float, bool, float, float, float]:
        """The numbers that a kernel judges by."""
        return (
            float(self.tol),
            self.relative,
            float(self.max_nfe),
            float(self.divergence),
            float(self.patience),
        )


def _row_sum(x: Tensor) -> Tensor:
    """Sum the rows of ``x`` (B, D) by folding halves: (B,), in an order that only D decides."""
    while x.shape[1] > 1:
        half = x.shape[1] // 2
        folded = x[:, :half] + x[:, half : 2 * half]
        if x.shape[1] % 2:
            folded[:, 0] += x[:, -1]
        x = folded
    return x[:, 0]


def residual_norms(z: Tensor, fz: Tensor) -> tuple[Tensor, Tensor]:
    """See :func:`deqcert.kernels.residual_norms`."""
    fz64 = fz.double()
    # The difference is taken in the state's own precision: it is the residual that a solver uses.
    difference = (fz - z).double()
    return _row_sum(difference * difference), _row_sum(fz64 * fz64)


def judge(z: Tensor, before: Tensor, square: Tensor, image: Tensor, watch: Watch | None) -> Tensor:
    """See :func:`deqcert.kernels.judge`; the squared norms are those of this evaluation."""
    if watch is None:
        return torch.zeros(z.shape[0], dtype=torch.bool, device=z.device)
    progress = watch.progress
    running = progress[:, STATUS] < 0
    nfe = progress[:, NFE] + 1
    finite = square.isfinite() & image.isfinite()
    status = torch.where(nfe >= watch.max_nfe, MAX_NFE, RUNNING).double()
    status[~finite] = NONFINITE
    new = progress.clone()
    new[:, NFE] = nfe
    fresh = torch.zeros_like(running)
    if watch.tol > 0:
        size, length = square.sqrt(), image.sqrt()
        residual = size / length.clamp_min(1e-300) if watch.relative else size
        scale = torch.where(nfe == 1, torch.maximum(size, length), progress[:, SCALE])
        fresh = finite & (residual < progress[:, RESIDUAL])
        waited = torch.where(fresh, 0.0, progress[:, WAITED] + 1)
        status[finite & (waited >= watch.patience)] = STALLED
        status[finite & (size > watch.divergence * scale)] = DIVERGED
        status[finite & (residual <= watch.tol)] = CONVERGED
        new[:, SCALE], new[:, WAITED], new[:, FRESH] = scale, waited, fresh.double()
        new[:, RESIDUAL] = torch.where(fresh, residual, progress[:, RESIDUAL])
        lost = torch.nonzero(running & (progress[:, FRESH] != 0) & ~fresh).squeeze(1)
        watch.best[lost] = before[lost]
    new[:, STATUS] = status
    ended = running & (status >= 0)
    last = ended & finite & (watch.tol == 0)
    # A row that was not finite at once has no best state; it keeps its start.
    here = torch.nonzero(ended & ~last & (fresh | torch.isinf(new[:, RESIDUAL]))).squeeze(1)
    watch.best[here] = z[here]
    progress.copy_(torch.where(running[:, None], new, progress))
    return last


def finish(out: Tensor, watch: Watch | None, last: Tensor) -> None:
    """See :func:`deqcert.kernels.finish`."""
    if watch is not None:
        rows = torch.nonzero(last).squeeze(1)
        watch.best[rows] = out[rows]


def picard_step(
    z: Tensor, fz: Tensor, out: Tensor, *, damping: float, watch: Watch | None = None
) -> None:
    """See :func:`deqcert.kernels.picard_step`."""
    last = judge(z, out, *residual_norms(z, fz), watch)
    if damping == 1.0:
        out.copy_(fz)
    else:
        start = z.double()
        out.copy_(start + damping * (fz.double() - start))
    finish(out, watch, last)


def broyden_step(
    z: Tensor,
    fz: Tensor,
    directions: Tensor,
    squares: Tensor,
    lengths: Tensor,
    merit: Tensor,
    count: Tensor,
    out: Tensor,
    *,
    line_search: bool,
    watch: Watch | None = None,
) -> None:
    """See :func:`deqcert.kernels.broyden_step`."""
    m = directions.shape[1]
    square, image = residual_norms(z, fz)
    last = judge(z, out, square, image, watch)
    index = torch.arange(z.shape[0], device=z.device)
    n = count.clamp(0, m).long()
    newest = (n - 1).clamp(min=0)
    length = torch.where(n > 0, lengths[index, newest], 0.0)

    # A trial that did not lower the residual enough is shortened, or taken back altogether.
    back = torch.zeros_like(n, dtype=torch.bool)
    refused = back
    if line_search:
        enough = square <= (1.0 - 2.0 * SUFFICIENT_DECREASE * length) * merit
        refused = (n > 0) & ~enough & ~((n == 1) & (length <= SHORTEST_STEP))
        back = refused & (0.5 * length < SHORTEST_STEP)
    less = torch.where(back, length, 0.5 * length)

    # w = -H g, the factors one after the other, in the rows that have that many.
    w = fz - z
    dot = _row_sum(directions[:, 0].double() * w.double())
    for j in range(m - 1):
        factor = torch.where(j + 1 < n, dot / squares[:, j], 0.0)
        turn = factor * (1.0 - lengths[:, j])
        following = directions[:, j + 1].double()
        value = w.double() + factor[:, None] * following
        turned = value - turn[:, None] * directions[:, j].double()
        value = torch.where((turn != 0.0)[:, None], turned, value)
        active = j + 1 < n
        w = torch.where(active[:, None], value.to(w.dtype), w)
        dot = torch.where(active, _row_sum(value * following), dot)

    # The update of the last step, where it has a pivot and a place.
    newest_square = squares[index, newest]
    pivot = newest_square - dot
    updates = (pivot.abs() > SMALLEST_PIVOT * (newest_square + dot.abs())) & (n > 0) & (n < m)
    keep, turn = newest_square / pivot, dot / pivot * (1.0 - length)
    previous = directions[index, newest]
    value = keep[:, None] * w.double()
    turned = value - turn[:, None] * previous.double()
    direction = torch.where((turn != 0.0)[:, None], turned, value).to(z.dtype)
    direction = torch.where(updates[:, None], direction, fz - z)
    step = torch.where(updates[:, None], z + direction, fz)
    shorter = z - less.to(z.dtype)[:, None] * previous
    step = torch.where(refused[:, None], shorter, step)

    slot = torch.where(updates, n, 0)
    length_there = torch.where(refused, length - less, 1.0)
    square_there = torch.where(updates, _row_sum(direction.double().square()), square)
    taken = torch.nonzero(~refused).squeeze(1)
    directions[taken, slot[taken]] = direction[taken]
    squares[taken, slot[taken]] = square_there[taken]
    lengths[index, torch.where(refused, newest, slot)] = length_there
    merit.copy_(torch.where(refused, merit, square))
    held = torch.where(refused, torch.where(back, 0, n), slot + 1)
    count.copy_(held.to(count.dtype))
    out.copy_(step)
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
) -> None:
    """See :func:`deqcert.kernels.anderson_step`."""
    last = judge(z, out, *residual_norms(z, fz), watch)
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
    new = torch.stack([_row_sum(window_g[:, j].double() * g64) for j in range(m)], dim=1)
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


# ---- counter-based normals ---------------------------------------------------------------------
# The constants below are mirrored in csrc/philox.h; a test compares the bits of both.
_MASK = 0xFFFFFFFF
_MULTIPLY = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_CHUNK_BLOCKS = 1 << 17  # bounds the int64 and float64 temporaries to a few MB each

# ln m = 2 atanh(s) = 2 s (1 + s^2/3 + s^4/5 + ...), |s| <= 0.1716; sin and cos are Taylor series on
# [-pi/4, pi/4]. Truncation is below 1e-13 relative, far under a float32 step.
_LOG = tuple(2.0 / (2 * k + 1) for k in range(9))
_SIN = tuple((-1.0) ** k / math.factorial(2 * k + 1) for k in range(8))
_COS = tuple((-1.0) ** k / math.factorial(2 * k) for k in range(9))
_LN2 = 0.6931471805599453
_SQRT_HALF = 0.7071067811865476
_ANGLE = 1.4629180792671596e-09  # 2 pi / 2^32


def philox4x32(counter: tuple[Tensor, ...], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Philox-4x32-10 (Salmon, Moraes, Dror, Shaw 2011), elementwise.

    Args:
        counter: Four int64 tensors of one shape, values 0..2^32-1.
        key: Two integers 0..2^32-1.

    Returns:
        Four int64 tensors, values 0..2^32-1.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        # The product of two 32-bit numbers wraps in int64, but all its 64 bits are right.
        p0, p1 = c0 * _MULTIPLY[0], c2 * _MULTIPLY[1]
        c0, c1, c2, c3 = (
            ((p1 >> 32) & _MASK) ^ c1 ^ k0,
            p1 & _MASK,
            ((p0 >> 32) & _MASK) ^ c3 ^ k1,
            p0 & _MASK,
        )
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def _horner(x: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    # A product and a sum apart: a fused multiply-add would round differently.
    value = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value = value * x
        value = value + coefficient
    return value


def _normal_pair(u0: Tensor, u1: Tensor) -> tuple[Tensor, Tensor]:
    """Box and Muller (1958) on two 32-bit integers: two float32 normals, the same bits anywhere.

    The radius uses (u0 + 1) / 2^32, the angle (u1 + 1/2) / 2^32 of a turn; magnitudes end at 6.66.
    """
    mantissa, exponent = torch.frexp((u0 + 1).double())
    low = mantissa < _SQRT_HALF
    mantissa = torch.where(low, mantissa + mantissa, mantissa)
    power = (exponent - 32 - low.to(exponent.dtype)).double()
    s = (mantissa - 1.0) / (mantissa + 1.0)
    log = s * _horner(s * s, _LOG)
    log = power * _LN2 + log
    radius = torch.sqrt(-2.0 * log)

    quadrant = ((u1 + (1 << 29)) >> 30) & 3
    # The representative of u1 in [-2^29, 2^29) around its quadrant, exact in float64.
    offset = ((u1 + (1 << 29)) & 0x3FFFFFFF) - (1 << 29)
    angle = (offset.double() + 0.5) * _ANGLE
    square = angle * angle
    sin = angle * _horner(square, _SIN)
    cos = _horner(square, _COS)
    swap = (quadrant & 1) == 1
    first = torch.where(swap, sin, cos)
    second = torch.where(swap, cos, sin)
    first = torch.where((quadrant == 1) | (quadrant == 2), -first, first)
    second = torch.where(quadrant >= 2, -second, second)
    return (radius * first).float(), (radius * second).float()


def philox_normal(out: Tensor, *, seed: int, image: int, stage: int, first: int) -> None:
    """See :func:`deqcert.kernels.philox_normal`."""
    n, d = out.shape
    blocks = (d + 3) // 4
    key = (seed & _MASK, seed >> 32)
    step = max(1, _CHUNK_BLOCKS // blocks)
    block = torch.arange(blocks, dtype=torch.int64, device=out.device)
    for start in range(0, n, step):
        stop = min(n, start + step)
        sample = torch.arange(first + start, first + stop, dtype=torch.int64, device=out.device)
        shape = (stop - start, blocks)
        c0 = block.expand(shape)
        c1 = sample[:, None].expand(shape)
        u = philox4x32((c0, c1, torch.full_like(c0, image), torch.full_like(c0, stage)), key)
        normals = torch.stack((*_normal_pair(u[0], u[1]), *_normal_pair(u[2], u[3])), dim=2)
        out[start:stop] = normals.reshape(stop - start, 4 * blocks)[:, :d]
