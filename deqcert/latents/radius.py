"""How far a latent may move until a Gaussian head changes its mind: exact, and as published."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from deqcert.errors import ConfigError
from deqcert.models.quadratic import Quadratics
from deqcert.models.spectral import TINY, UNIT, rounding_constant
from deqcert.proofs.definite import MARGIN

STEPS = 30
"""Halvings of the search for the multiplier; any multiplier proves something."""

FACTOR = 1e9
"""By how much, both ways, the multiplier may differ from where the search begins."""

NOT_QUADRATIC = "the published radius is about quadratic discriminant analysis; fit the head qda."


@dataclass(frozen=True)
class Reach:
    """How far latents are from another class.

    Attributes:
        best: Class with the largest score, shape (B,).
        rival: Class that limits the radius, shape (B,).
        radius: Latent radius within which the class is proven to stay, shape (B,), float64,
            rounded down; 0 where nothing is proven.
    """

    best: Tensor
    rival: Tensor
    radius: Tensor


class LatentRadius:
    """Proven latent radii of one head: the exact distance to the nearest boundary, rounded down.

    For the best class A and a rival i let m = s_A - s_i, W = P_i - P_A and
    g = P_i (z - mu_i) - P_A (z - mu_A) + (c_A - c_i) / 2 at the latent z. Then
    s_A - s_i at z + d is m + 2 g'd + d'W d, and the squared distance to where it is 0 is

        T_i^2 = max over nu >= 0 with I + nu W > 0 of  nu m - nu^2 g' (I + nu W)^-1 g,

    because one quadratic constraint has no duality gap. With a common covariance W = 0, and T_i is
    m / (2 ||g||). Any nu proves a radius, so the search for it need not be exact.

    Args:
        head: The scores. Its numbers are taken as exact.

    **Guarantee:** deterministic. No real latent within ``radius`` of the given one, which is taken
    as exact, has a class of a larger score. In the standard model of floating-point arithmetic;
    every rounding is charged.

    **Source:** the certificate is one of K. Emmanouilidis, T. Ding, N. Nguyen, N. Loizou, R. Vidal,
    "Certified Robustness from Approximate Gaussian Mixture Structures in Pretrained Latent Spaces"
    (2026) with their bound of T replaced by T itself; strong duality for one quadratic constraint
    is classical (S-procedure; V. A. Yakubovich 1971).
    """

    def __init__(self, head: Quadratics) -> None:
        self.head = head
        self._pairs: dict[tuple[int, int], _Pair] = {}

    @torch.no_grad()
    def at(self, z: Tensor) -> Reach:
        """Return the proven radii of latents, shape (B, m), float64, finite.

        A latent that is not finite has a radius of 0.
        """
        scores = self.head.scores(z)
        best = scores.argmax(dim=1)
        radius = torch.full((len(z),), torch.inf, dtype=torch.float64)
        rival = best.clone()
        for first in sorted(set(best.tolist())):
            rows = torch.nonzero(best == first).squeeze(1)
            for other in range(scores.shape[1]):
                if other == first:
                    continue
                found = self._pair(first, other).radius(self.head, z[rows])
                closer = ~(found >= radius[rows])
                radius[rows] = torch.where(closer, found, radius[rows])
                rival[rows] = torch.where(closer, other, rival[rows])
        proven = torch.isfinite(z).all(dim=1) & (radius > 0.0)
        return Reach(best, rival, torch.where(proven, radius, 0.0))

    def published(self, z: Tensor) -> Tensor:
        """Return latent radii by the published formula, shape (B,), never above the exact ones.

        With m the lead over the second class, lambda the least eigenvalue of any P_i - P_A, and c
        the largest ||P_A (z - mu_A) - P_i (z - mu_i)||: T >= m / (sqrt(c^2 + max(-lambda, 0) m) +
        c). For comparison; its rounding is not bounded.

        Args:
            z: Latents, shape (B, m), float64.

        Raises:
            ConfigError: If the head is not quadratic.

        **Source:** Emmanouilidis et al. (2026).
        """
        head = self.head
        if head.precisions is None or bool(head.linear.any()):
            raise ConfigError(NOT_QUADRATIC)
        top, order = head.scores(z).topk(2, dim=1)
        m, best = top[:, 0] - top[:, 1], order[:, 0]
        pulled = torch.einsum("bki,kij->bkj", z[:, None] - head.means, head.precisions)
        mine = pulled.gather(1, best[:, None, None].expand(-1, 1, z.shape[1]))
        c = torch.linalg.vector_norm(mine - pulled, dim=2).amax(dim=1)
        found: Tensor = m / (torch.sqrt(c.square() + (-self._least[best]).clamp_min(0.0) * m) + c)
        return found

    @cached_property
    def _least(self) -> Tensor:
        """Per class A the least eigenvalue of any P_i - P_A, shape (K,)."""
        precisions = self.head.precisions
        assert precisions is not None
        return torch.stack([torch.linalg.eigvalsh(precisions - one).min() for one in precisions])

    def _pair(self, first: int, other: int) -> _Pair:
        key = first, other
        if key not in self._pairs:
            self._pairs[key] = _Pair.of(self.head, first, other)
        return self._pairs[key]


@dataclass(frozen=True)
class _Pair:
    """What the radius of one pair of classes needs, whatever the latent.

    Attributes:
        first: A.
        other: i.
        values: w, shape (m,): W is V diag(w) V' up to ``apart``.
        vectors: V, shape (m, m); None where W is 0.
        apart: Bound of the spectral norm of W - V diag(w) V'.
        skew: Bound of the spectral norm of V V' - I, and of V'V - I.
    """

    first: int
    other: int
    values: Tensor
    vectors: Tensor | None
    apart: float
    skew: float

    @classmethod
    def of(cls, head: Quadratics, first: int, other: int) -> _Pair:
        size = head.means.shape[1]
        if head.precisions is None:
            return cls(first, other, torch.zeros(size, dtype=torch.float64), None, 0.0, 0.0)
        mine, theirs = head.precisions[first], head.precisions[other]
        difference = theirs - mine
        values, vectors = torch.linalg.eigh(difference)
        gamma = rounding_constant(size + 8)
        # Frobenius norms bound spectral ones; a product is off by gamma times those of its parts.
        product = (vectors * values) @ vectors.T
        parts = torch.linalg.matrix_norm(vectors) ** 2 * values.abs().max()
        apart = torch.linalg.matrix_norm(difference - product) + gamma * parts
        apart = apart + 2.0 * UNIT * torch.linalg.matrix_norm(difference)
        identity = torch.eye(size, dtype=torch.float64)
        skew = max(
            torch.linalg.matrix_norm(vectors @ vectors.T - identity).item(),
            torch.linalg.matrix_norm(vectors.T @ vectors - identity).item(),
        )
        skew += 2.0 * gamma * (torch.linalg.matrix_norm(vectors).item() ** 2 + size)
        return cls(first, other, values, vectors, MARGIN * float(apart) + TINY, MARGIN * skew)

    def radius(self, head: Quadratics, z: Tensor) -> Tensor:
        """Return the proven distance to the boundary with the other class, shape (B,)."""
        m, g, m_error, g_error = self._terms(head, z)
        # g is V a up to rounding and the skew of V.
        a = g if self.vectors is None else g @ self.vectors
        size = torch.linalg.vector_norm(g, dim=1)
        g_error = g_error + MARGIN * size * (self.skew + 2.0 * rounding_constant(z.shape[1] + 4))
        mu = self._multiplier(m, a)
        radius = self._proven(m - m_error, a, g_error, mu)
        return torch.where(m > m_error, radius, 0.0)

    def _terms(self, head: Quadratics, z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return m, g and bounds of their errors, shapes (B,), (B, m), (B,), (B,)."""
        gamma = rounding_constant(z.shape[1] ** 2 + 16)
        size = torch.linalg.vector_norm(z, dim=1)
        apart = head.linear[self.first] - head.linear[self.other]
        m = head.offsets[self.first] - head.offsets[self.other] + z @ apart
        terms = (
            head.offsets.abs().max() * 2.0
            + size * torch.linalg.vector_norm(head.linear[[self.first, self.other]], dim=1).sum()
        )
        g = (0.5 * apart).expand_as(z)
        g_terms = torch.linalg.vector_norm(head.linear[[self.first, self.other]], dim=1).sum()
        g_terms = g_terms.expand(len(z))
        if head.precisions is not None:
            for which, sign in ((self.first, -1.0), (self.other, 1.0)):
                away = z - head.means[which]
                pulled = away @ head.precisions[which]
                m = m + sign * (away * pulled).sum(dim=1)
                g = g + sign * pulled
                # `away` itself was rounded: relative to |z| + |mu|.
                reach = size + torch.linalg.vector_norm(head.means[which])
                weight = torch.linalg.matrix_norm(head.precisions[which])
                terms = terms + 3.0 * weight * reach * reach
                g_terms = g_terms + 3.0 * weight * reach
        return m, g, MARGIN * gamma * terms + TINY, MARGIN * gamma * g_terms + TINY

    def _multiplier(self, m: Tensor, a: Tensor) -> Tensor:
        """Return mu = 1 / nu near the best, shape (B,), by bisection on its derivative."""
        w = self.values
        least = float((-w).max().clamp_min(0.0))
        # Without W the best mu is 2 |a|^2 / m.
        guess = 2.0 * a.square().sum(dim=1) / m.clamp_min(1e-300)
        low, high = guess / FACTOR, guess * FACTOR + 4.0 * w.abs().max()
        for _ in range(STEPS):
            middle = torch.sqrt(low * high)
            mu = (middle + least)[:, None]
            # d/dnu of the dual: m - sum a_k^2 nu (2 + nu w_k) / (1 + nu w_k)^2, in mu = 1 / nu.
            slope = m - (a.square() * (2.0 * mu + w) / (mu + w).square()).sum(dim=1)
            high = torch.where(slope > 0.0, middle, high)
            low = torch.where(slope > 0.0, low, middle)
        return high + least

    def _proven(self, m: Tensor, a: Tensor, g_error: Tensor, mu: Tensor) -> Tensor:
        """Return the radius that a multiplier proves, rounded down.

        For |d| <= T and c = V'd, |c|^2 <= (1 + skew) T^2, the score difference is at least

            m + 2 a'c + sum_k w_k c_k^2 - 2 g_error T - apart T^2
            >= m - sum_k a_k^2 / (w_k + mu) - mu (1 + skew) T^2 - 2 g_error T - apart T^2,

        and T is the positive root of that.
        """
        shifted = self.values + mu[:, None]
        # The sum of w and mu is off by one rounding, which is far below either where it is used.
        shifted = shifted - 4.0 * UNIT * (self.values.abs() + mu[:, None])
        left = a.square() / shifted
        rest = m - MARGIN * left.sum(dim=1)
        curve = MARGIN * (mu * (1.0 + self.skew) + self.apart) + TINY
        root = rest / (g_error + torch.sqrt(g_error.square() + curve * rest.clamp_min(0.0)))
        valid = (shifted > 0.0).all(dim=1) & (rest > 0.0)
        return torch.where(valid, root / MARGIN, 0.0)
