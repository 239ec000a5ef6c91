"""The search for what proves the largest radius around an input: an interior-point method."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

GLOBAL = 0.5
"""Share of what proves the constant of a pair in where its search begins; the rest is classical."""

STEPS = 14
"""Newton steps for a row; past them radii grow by less than a hundredth."""

BARRIER = 6.0
"""Weight of the barrier to begin with, of r^2, over all constraints together."""

DROP = 0.2
"""What the weight of the barrier is multiplied with when a step brought its row near the centre."""

CLOSE = 1e-3
"""A row ends where its barrier can cost no more than about this share of r^2."""

NEAR = 10.0
"""Newton decrements (squared) below this are near the centre."""

REACH = 0.9
"""How far a step goes, at most, to where something ends to be positive."""

BACK = 0.4
HALVINGS = 12
"""A step that gains nothing is shortened, and how often."""


@dataclass(frozen=True)
class LocalMultipliers:
    """What a radius is proven with; rows as in :class:`deqcert.proofs.local.Neighbourhood`.

    Attributes:
        gap: mu, of the gap, above 0; shape (B,).
        product: t, of the product of what is and what could be 0, above 0; shape (B, D).
        rise: a = t v+ - p, shape (B, D).
        floor: b = t v- - q, shape (B, D).
    """

    gap: Tensor
    product: Tensor
    rise: Tensor
    floor: Tensor

    def rows(self, chosen: Tensor) -> LocalMultipliers:
        """Return the chosen rows."""
        return LocalMultipliers(
            self.gap[chosen], self.product[chosen], self.rise[chosen], self.floor[chosen]
        )


def search(
    state: Tensor,
    gram: Tensor,
    monotone: float,
    readout: Tensor,
    gap: Tensor,
    entering: Tensor,
    enough: Tensor,
    constant: Tensor,
    multiplier: Tensor,
) -> tuple[Tensor, LocalMultipliers]:
    """Maximise the radius over its multipliers, in plain float64, all rows together.

    With Q the lower right block of M and l beside it, M is positive semidefinite up to

        r^2 = mu gap - q'v+ - p'v- - a'UU'a/4 - l'Q^-1 l/4,

    which is concave in (mu, t, p, q). It is maximised with a barrier ln det Q + sum(ln p + ln q)
    by Newton's method; the diagonal of the barrier of p and q is that of a primal-dual method, and
    all other derivatives are exact. Whatever is in its domain proves a radius.

    Args:
        state: W, shape (D, D), float64.
        gram: U U', shape (D, D).
        monotone: m > 0 with (I - W + (I - W)') / 2 >= m I.
        readout: c, shape (B, D).
        gap: Shape (B,), above 0.
        entering: v, shape (B, D).
        enough: Per row a radius that ends its search; shape (B,).
        constant: A Lipschitz constant L of c'z over all inputs, shape (B,), above 0.
        multiplier: The diagonal T that proves it, shape (B, D), as
            :func:`deqcert.proofs.multiplier_bound` returns it.

    Returns:
        The largest radius that was found per row, 0 where none was, shape (B,); and what with.
    """
    problem = _Problem(state, gram, readout, gap, entering)
    units = len(state)
    # With nothing known of v and the best mu, t = 2 T / L^2 proves gap / L, and one t for all units
    # the classical bound. Q is concave in t, so between them it is positive definite, as the steps
    # need it; at the best T it may be singular.
    weight = BARRIER * (gap / constant).square() / (3 * units)
    level = 2.0 * monotone / torch.linalg.matrix_norm(gram, 2)
    t = GLOBAL * 2.0 * multiplier / constant.square()[:, None] + (1.0 - GLOBAL) * level
    free = (weight / entering.abs().mean(dim=1).clamp_min(1e-300))[:, None]
    at = torch.cat(
        (
            (2.0 * gap / constant.square())[:, None],
            t,
            t * problem.above + free,
            t * problem.below + free,
        ),
        dim=1,
    )
    best, best_at = torch.zeros_like(gap), at.clone()
    rows = torch.arange(len(gap))
    dual = weight[:, None] / at[:, 1 + units :]
    point = problem.evaluate(at)
    for _ in range(STEPS):
        better = point.valid & (point.square > best[rows])
        best[rows[better]], best_at[rows[better]] = point.square[better], at[better]
        left = best[rows] < enough[rows].square()
        left &= 4 * units * weight > CLOSE * best[rows]
        left = torch.nonzero(left & point.valid).squeeze(1)
        if not len(left):
            break
        if len(left) < len(rows):
            rows, at, dual, weight = rows[left], at[left], dual[left], weight[left]
            problem, point = problem.rows(left), point.rows(left)
        step, decrement = problem.newton(at, point, weight, dual)
        free = at[:, 1 + units :]
        change = weight[:, None] / free - dual - dual / free * step[:, 1 + units :]
        at, point, length = problem.climb(at, point, weight, step, decrement)
        dual = dual + _inside(dual, change)[:, None] * change
        near = torch.where(length > 0.5, DROP**0.5, 1.0)
        weight = weight * torch.where(decrement < NEAR, DROP, near)
    better = point.valid & (point.square > best[rows])
    best[rows[better]], best_at[rows[better]] = point.square[better], at[better]
    mu, t, p, q = _parts(best_at, units)
    above, below = entering.clamp_min(0.0), (-entering).clamp_min(0.0)
    return best.sqrt(), LocalMultipliers(mu[:, 0], t, t * above - p, t * below - q)


@dataclass(frozen=True)
class _Point:
    """r^2, the barrier and what their derivatives need, at some multipliers, per row."""

    square: Tensor
    barrier: Tensor
    valid: Tensor
    factor: Tensor
    rise: Tensor
    moved: Tensor

    def rows(self, chosen: Tensor) -> _Point:
        return _Point(*(getattr(self, name)[chosen] for name in self.__dataclass_fields__))

    def where(self, mine: Tensor, other: _Point) -> _Point:
        """Return rows of this one where said so, and of the other elsewhere."""
        merged = []
        for name in self.__dataclass_fields__:
            ours, theirs = getattr(self, name), getattr(other, name)
            merged.append(torch.where(mine.view(-1, *(1,) * (ours.dim() - 1)), ours, theirs))
        return _Point(*merged)


class _Problem:
    """The function that is maximised: multipliers are rows (mu, t, p, q) of shape (B, 1 + 3 D)."""

    def __init__(
        self, state: Tensor, gram: Tensor, readout: Tensor, gap: Tensor, entering: Tensor
    ) -> None:
        self.state, self.gram = state, gram
        self.operator = torch.eye(len(state), dtype=torch.float64) - state
        self.readout, self.gap, self.entering = readout, gap, entering
        self.above, self.below = entering.clamp_min(0.0), (-entering).clamp_min(0.0)

    def rows(self, chosen: Tensor) -> _Problem:
        return _Problem(
            self.state, self.gram, self.readout[chosen], self.gap[chosen], self.entering[chosen]
        )

    def evaluate(self, at: Tensor) -> _Point:
        mu, t, p, q = _parts(at, len(self.state))
        scaled = t[:, :, None] * self.operator
        inner = (scaled + scaled.mT) / 2.0 - t[:, :, None] * self.gram * t[:, None] / 4.0
        factor, failed = torch.linalg.cholesky_ex(inner)
        a, b = t * self.above - p, t * self.below - q
        through = a @ self.gram
        line = mu * self.readout + b + a @ self.operator - t * through / 2.0
        moved = -0.5 * torch.cholesky_solve(line[:, :, None], factor)[:, :, 0]
        square = mu[:, 0] * self.gap - (q * self.above + p * self.below).sum(dim=1)
        square += 0.5 * (line * moved).sum(dim=1) - 0.25 * (a * through).sum(dim=1)
        barrier = 2.0 * factor.diagonal(dim1=1, dim2=2).log().sum(dim=1)
        barrier += p.log().sum(dim=1) + q.log().sum(dim=1)
        valid = (failed == 0) & (at > 0.0).all(dim=1) & torch.isfinite(square + barrier)
        return _Point(square, barrier, valid, factor, a, moved)

    def newton(
        self, at: Tensor, point: _Point, weight: Tensor, dual: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the step, shape (B, 1 + 3 D), and the square of its decrement, shape (B,).

        r^2 is the least value over (dx, dz) of something linear in the multipliers. So its
        gradient is what they are multiplied with there, and its second derivatives are those
        quantities' derivatives by (dx, dz), with the inverse of the form between them.
        """
        units, gram = len(self.state), self.gram
        t = at[:, 1 : 1 + units]
        inverse = torch.cholesky_inverse(point.factor)
        dz = point.moved
        mixed = self.operator - gram * t[:, None] / 2.0
        left = mixed @ inverse
        corner = left @ mixed.mT
        dv = dz @ self.state.T + (t * dz + point.rise) @ gram / 2.0
        out, over = self.above + dz, self.below + dz - dv
        gradient = torch.cat(
            (
                (self.gap + (self.readout * dz).sum(dim=1))[:, None],
                out * over,
                -over,
                -out,
            ),
            dim=1,
        )
        gradient /= weight[:, None]
        gradient[:, 1 : 1 + units] += left.diagonal(dim1=1, dim2=2)
        gradient[:, 1 + units :] += 1.0 / at[:, 1 + units :]
        by_out = torch.cat((inverse, left.mT), dim=2) / 2.0
        by_over = torch.cat((left, corner + gram), dim=2) / 2.0
        by_both = over[:, :, None] * by_out + out[:, :, None] * by_over
        by_gap = self.readout[:, None] @ by_out
        hessian = torch.empty(len(at), 1 + 3 * units, 1 + 3 * units, dtype=torch.float64)
        spans = (0, 1, 1 + units, 1 + 2 * units, 1 + 3 * units)
        signed = ((by_gap, 1.0), (by_both, 1.0), (by_over, -1.0), (by_out, -1.0))
        for (block, sign), begin, end in zip(signed, spans, spans[1:], strict=False):
            first, second = block[..., :units], block[..., units:]
            row = hessian[:, begin:end]
            row[..., :1] = first @ self.readout[:, :, None]
            row[..., 1 : 1 + units] = first * over[:, None] + second * out[:, None]
            row[..., 1 + units : 1 + 2 * units] = -second
            row[..., 1 + 2 * units :] = -first
            row *= sign
        hessian /= weight[:, None, None]
        hessian[:, 1 : 1 + units, 1 : 1 + units] += 0.5 * (
            left * left.mT + inverse * (corner + gram)
        )
        hessian.diagonal(dim1=1, dim2=2)[:, 1 + units :] += dual / (
            weight[:, None] * at[:, 1 + units :]
        )
        factor, _ = torch.linalg.cholesky_ex(hessian)
        step = torch.cholesky_solve(gradient[:, :, None], factor)[:, :, 0]
        return step, (gradient * step).sum(dim=1)

    def climb(
        self, at: Tensor, point: _Point, weight: Tensor, step: Tensor, decrement: Tensor
    ) -> tuple[Tensor, _Point, Tensor]:
        """Go along the step as far as the function grows; return where to, and how far."""
        length = _inside(at, step)
        before = point.square / weight + point.barrier
        done = torch.zeros(len(at), dtype=torch.bool)
        following, reached = at.clone(), point
        for _ in range(HALVINGS):
            tried = self.evaluate(at + length[:, None] * step)
            gained = tried.square / weight + tried.barrier - before
            good = tried.valid & (gained >= 0.01 * length * decrement) & ~done
            if good.all():
                return at + length[:, None] * step, tried, length
            following[good] = (at + length[:, None] * step)[good]
            reached = reached.where(~good, tried)
            done |= good
            if done.all():
                break
            length = torch.where(done, length, length * BACK)
        return following, reached, torch.where(done, length, 0.0)


def _inside(value: Tensor, change: Tensor) -> Tensor:
    """How far to go, at most 1, such that what is positive stays positive; shape (B,)."""
    shrinking = (-change / value).clamp_min(1e-300).amax(dim=1)
    return (REACH / shrinking).clamp_max(1.0)


def _parts(at: Tensor, units: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return mu, t, p and q, of 1 and three times D columns."""
    first, second = 1 + units, 1 + 2 * units
    return at[:, :1], at[:, 1:first], at[:, first:second], at[:, second:]
