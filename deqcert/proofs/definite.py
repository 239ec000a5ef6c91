"""A proof that a symmetric matrix has no negative eigenvalue, in floating point."""

from __future__ import annotations

import torch
from torch import Tensor

from deqcert.models.spectral import TINY, UNIT, rounding_constant

MARGIN = 1.0 + 1e-9
"""More than the rounding of the few sums and products that bounds are put together from."""


def is_semidefinite(matrix: Tensor, error: float) -> bool:
    """Prove that every symmetric matrix near this one is positive semidefinite.

    If the Cholesky factorisation of B = A - s I runs to its end in floating point, R'R = B + E
    with ||E||_2 <= gamma / (1 - gamma) trace(B), gamma = gamma_(n+1), in whatever order its sums
    are taken. So no eigenvalue of A is below s - ||E|| - (rounding of the diagonal), and s is
    chosen such that this is the error.

    Args:
        matrix: A, shape (n, n), float64; of its two halves the lower one is read.
        error: Largest l2 distance (spectral norm of the difference) that is covered, from 0.

    Returns:
        True only where it is proven; False says nothing.

    **Guarantee:** deterministic, in the standard model of floating-point arithmetic.

    **Source:** S. M. Rump, "Verification of Positive Definiteness", BIT 46 (2006); N. J. Higham,
    "Accuracy and Stability of Numerical Algorithms" (2002), theorem 10.3.
    """
    lower = torch.tril(matrix.detach().double().cpu())
    diagonal = lower.diagonal()
    if not bool(torch.isfinite(lower).all()) or not 0.0 <= error < float("inf"):
        return False
    gamma = rounding_constant(len(lower) + 1)
    # The trace and the diagonal of what is factorised are no larger than those of A.
    trace = diagonal.clamp_min(0.0).sum().item()
    shift = error + gamma / (1.0 - gamma) * trace + UNIT * diagonal.abs().max().item()
    shift = MARGIN * (shift + error * 4.0 * UNIT) + TINY
    lower.diagonal().sub_(shift)
    factor, failed = torch.linalg.cholesky_ex(lower)
    return int(failed) == 0 and bool(torch.isfinite(factor).all())
