"""Intervals of monotone networks: a ball that is there a priori, narrowed by intervals."""

from __future__ import annotations

import torch
from torch import Tensor

from deqcert.models.base import ProvenModel
from deqcert.models.spectral import TINY, rounding_constant
from deqcert.proofs.adjoint import Adjoint
from deqcert.proofs.ball import Ball, ball
from deqcert.proofs.definite import MARGIN
from deqcert.proofs.enclosure import in_float64
from deqcert.proofs.intervals import Intervals, Leads
from deqcert.proofs.relaxed import Relaxed

LITTLE = 1e-3
"""Share of its width; where no interval loses more, narrowing ends."""

SHARES = (*(2.0**-place for place in range(10)), 0.0)
"""Multipliers of the ball that are tried, as shares of the one that is best where the box is no
bound; 0 leaves the box alone."""


class APriori(Intervals):
    """Intervals of a monotone network's equilibria, whose interval fixed point need not exist.

    No matter how wide it is, the ball of :func:`deqcert.proofs.ball.ball` holds all equilibria of
    a box of inputs. So does what follows from it: if S holds them, so does the image of S under
    every cell of the box. S is narrowed to where the two meet, again and again, and every step is
    sound; nothing has to be shown to map into itself. In the images, the diagonal of W is
    eliminated: z_i = relu((sum_(j != i) W_ij z_j + (U x + u)_i) / (1 - W_ii)).

    Args:
        model: The model.
        max_nfe: Most steps of narrowing.

    Raises:
        ConfigError: If nothing is proven of the model's weights.
    """

    @torch.no_grad()
    def __init__(self, model: ProvenModel, *, max_nfe: int) -> None:
        exact = in_float64(model)
        exact.error_bound(torch.zeros(1, dtype=torch.float64))
        self._form = exact.relu_form()
        self._relaxed, self._adjoint = Relaxed(self._form), Adjoint(self._form)
        self._others = self._form.state - torch.diag(self._form.state.diagonal())
        self._steps = max_nfe
        super().__init__(getattr(exact, "input_shape", None))

    @torch.no_grad()
    def classes(self, x: Tensor) -> Tensor:
        """Return the likely classes; see :meth:`Intervals.classes`."""
        before = self._adjoint.nfe
        logits = self._adjoint.equilibria(x.flatten(1)) @ self._form.readout.T + self._form.offset
        self.nfe += self._adjoint.nfe - before
        return logits.argmax(dim=1)

    @torch.no_grad()
    def leads(self, x: Tensor, eps: Tensor, classes: Tensor, start: Tensor | None = None) -> Leads:
        """Bound leads; see :meth:`Intervals.leads`."""
        before = self._adjoint.nfe
        found = ball(self._relaxed, self._adjoint, x.flatten(1), eps)
        low = (found.centre - MARGIN * found.radius[:, None] - TINY).clamp_min(0.0)
        high = MARGIN * (found.centre + found.radius[:, None])
        low, high = self._narrowed(found, low, high)
        self.nfe += self._adjoint.nfe - before
        rows, offset = self._form.readout, self._form.offset
        ahead = rows[classes][:, None] - rows
        gaps = least(ahead, found, low, high) + (offset[classes][:, None] - offset)
        gamma = rounding_constant(rows.shape[1] + 8)
        size = torch.linalg.vector_norm(ahead, dim=2) * found.size[:, None]
        size = size + offset.abs()[classes][:, None] + offset.abs()
        return Leads(gaps - MARGIN * gamma * size - TINY, x.new_empty(len(x), 0))

    def _narrowed(self, found: Ball, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Intersect with images until little is gained; shapes (B, D)."""
        others, size, norm = self._others, self._others.abs(), torch.linalg.vector_norm
        lengths, error = norm(others, dim=1), self._form.state_error
        around = found.centre @ others.T + found.entering
        spread = found.half @ self._form.input.abs().T
        ends = found.radius[:, None] * lengths + spread
        # 1 - W_ii, which is at least m: below and above.
        rest = 1.0 - self._form.state.diagonal()
        most = MARGIN * (rest + error)
        least = torch.maximum(rest - error, torch.tensor(self._form.monotone)) / MARGIN
        gamma = rounding_constant(len(others) + 8)
        # An element of an error is at most its norm; those of W z and U x are about any z and x.
        inexact = (found.shift + found.inexact)[:, None]
        for _ in range(self._steps):
            self.nfe += len(low)
            centre, half = (high + low) * 0.5, (high - low) * 0.5
            middle, reach = centre @ others.T + found.entering, half @ size.T + spread
            rounding = (norm(centre, dim=1) + norm(half, dim=1))[:, None] * lengths
            charge = MARGIN * (inexact + gamma * rounding) + TINY
            below = torch.maximum(middle - MARGIN * reach, around - MARGIN * ends) - charge
            above = torch.minimum(middle + MARGIN * reach, around + MARGIN * ends) + charge
            before = high - low
            low = torch.maximum(low, below.clamp_min(0.0) / most)
            high = torch.minimum(high, above.clamp_min(0.0) / least)
            if not bool((before - (high - low) > LITTLE * before).any()):
                break
        return low, high


def least(ahead: Tensor, found: Ball, low: Tensor, high: Tensor) -> Tensor:
    """Bound d'z from below over states that lie in a ball and in a box.

    For any a, d'z = a'z + (d - a)'z is at least the sum of the least values that the first has in
    the ball and the second in the box. The best a is 2 k (v - z), z the minimiser of
    d'z + k ||z - v||^2 in the box, for a k that is tried out; none of it need be exact.

    Args:
        ahead: d, shape (B, K, D).
        found: The balls.
        low: Lower ends of the boxes, shape (B, D).
        high: Upper ends, shape (B, D).

    Returns:
        Shape (B, K), float64, rounded down.
    """
    v, radius = found.centre[:, None], found.radius[:, None]
    centre, half = ((high + low) * 0.5)[:, None], ((high - low) * 0.5)[:, None]
    norm = torch.linalg.vector_norm
    gamma = rounding_constant(ahead.shape[2] + 16)
    plain = norm(ahead, dim=2) / (2.0 * radius)
    best: Tensor | None = None
    for share in SHARES:
        factor = (2.0 * share * plain)[:, :, None]
        z = (v - ahead / factor.clamp_min(TINY)).clamp(low[:, None], high[:, None])
        a = factor * (v - z)
        b = ahead - a
        value = (a * v).sum(2) - MARGIN * norm(a, dim=2) * radius
        value = value + (b * centre).sum(2) - MARGIN * (b.abs() * half).sum(2)
        size = ((a.abs() + ahead.abs()) * v).sum(2) + (b.abs() * (centre + half)).sum(2)
        value = value - MARGIN * gamma * (size + norm(a, dim=2) * radius) - TINY
        best = value if best is None else torch.maximum(best, value)
    assert best is not None
    return best
