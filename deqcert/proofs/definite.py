"""A proof that a symmetric matrix has no negative eigenvalue, in floating point."""

from __future__ import annotations

import torch
from torch import Tensor

from deqcert.models.spectral import TINY, UNIT, rounding_constant

MARGIN = 1.0 + 1e-9
"""More than the rounding of the few sums and products that bounds are put together from."""


def is_semidefinite(matrix: Tensor, error: float) -> bool:
    """Prove that every symmetric matrix near this one is positive semidefinite.

    Args:
        matrix: Shape (n, n), float64; of its two halves the lower one is read.
        error: Largest l2 distance (spectral norm of the difference) that is covered, from 0.

    Returns:
        True only where it is proven; False says nothing. See :func:`are_semidefinite`.
    """
    return bool(are_semidefinite(matrix[None], torch.tensor([error], dtype=torch.float64)))


def are_semidefinite(matrices: Tensor, errors: Tensor) -> Tensor:
    """Prove for several matrices that every symmetric one near them is positive semidefinite.

    If the Cholesky factorisation of B = A - s I runs to its end in floating point, R'R = B + E
    with ||E||_2 <= gamma / (1 - gamma) trace(B), gamma = gamma_(n+1), in whatever order its sums
    are taken. So no eigenvalue of A is below s - ||E|| - (rounding of the diagonal), and s is
    chosen such that this is the error.

    Args:
        matrices: A, shape (B, n, n), float64; of their two halves the lower one is read.
        errors: Per matrix the largest l2 distance (spectral norm of the difference) that is
            covered, from 0; shape (B,), float64.

    Returns:
        True only where it is proven, shape (B,); False says nothing.

    **Guarantee:** deterministic, in the standard model of floating-point arithmetic.

    **Source:** S. M. Rump, "Verification of Positive Definiteness", BIT 46 (2006); N. J. Higham,
    "Accuracy and Stability of Numerical Algorithms" (2002), theorem 10.3.
    """
    lower, errors = torch.tril(matrices.detach().double().cpu()), errors.double().cpu()
    known = torch.isfinite(lower).all(dim=2).all(dim=1) & torch.isfinite(errors) & (errors >= 0.0)
    lower[~known] = -torch.eye(lower.shape[1], dtype=torch.float64)
    errors = torch.where(known, errors, 0.0)
    diagonal = lower.diagonal(dim1=1, dim2=2)
    gamma = rounding_constant(lower.shape[1] + 1)
    # The trace and the diagonal of what is factorised are no larger than those of A.
    trace = diagonal.clamp_min(0.0).sum(dim=1)
    shift = errors + gamma / (1.0 - gamma) * trace + UNIT * diagonal.abs().amax(dim=1)
    shift = MARGIN * (shift + errors * 4.0 * UNIT) + TINY
    diagonal.sub_(shift[:, None])
    factors, failed = torch.linalg.cholesky_ex(lower)
    proven: Tensor = known & (failed == 0) & torch.isfinite(factors).all(dim=2).all(dim=1)
    return proven
