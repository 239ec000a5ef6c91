"""A proven upper bound of a matrix's spectral norm, in floating point."""

from __future__ import annotations

import math

import torch
from torch import Tensor

SQUARINGS = 14
"""Each halves the logarithm of the overestimate; 14 leave D^(2^-15), 1.00013 for D = 64."""

UNIT = 2.0**-53
"""Largest relative rounding error of one operation in float64."""

TINY = 1e-290
"""More than all underflow together can take away from a sum or a product here."""


def rounding_constant(operations: int) -> float:
    """Return gamma_k = k u / (1 - k u): k roundings in float64 change a result by no more.

    Args:
        operations: Additions and multiplications in a row, below 2^50.

    **Source:** N. J. Higham, "Accuracy and Stability of Numerical Algorithms" (2002), lemma 3.1;
    for an inner product it holds in any order of summation and with fused multiplications.
    """
    return operations * UNIT / (1.0 - operations * UNIT)


def spectral_norm_bound(matrix: Tensor) -> float:
    """Bound ||A||_2 from above, rounding included.

    With A_0 = A and A_(i+1) = A_i^T A_i, ||A_i||_2 is the square root of ||A_(i+1)||_2, and the
    last norm is at most the Frobenius norm. Each product is computed with an error E of
    ||E||_2 <= gamma ||A_i||_F^2, which is added on the way back.

    Args:
        matrix: Shape (M, N), any floating type; taken as exact.

    Returns:
        A number that is at least ||A||_2 and at most about min(M, N)^(2^-15) times it; infinity
        where the matrix is not finite.

    **Guarantee:** deterministic, for every matrix, in the standard model of floating-point
    arithmetic. Nothing rests on the convergence of an eigenvalue method.

    **Source:** the iteration is that of B. Delattre, Q. Barthelemy, A. Araujo, A. Allauzen,
    "Efficient Bound of Lipschitz Constant for Convolutional Layers by Gram Iteration" (2023).
    """
    power = matrix.detach().double().cpu()
    if not bool(torch.isfinite(power).all()):
        return math.inf
    if not bool(power.any()):
        return 0.0
    if power.shape[0] < power.shape[1]:
        power = power.T.contiguous()
    up = 1.0 + 2.0 * rounding_constant(power.numel() + 8)
    steps: list[tuple[int, float]] = []
    for _ in range(SQUARINGS):
        # The exponent of the largest entry is taken out, exactly, so that nothing overflows.
        exponent = max(math.frexp(power.abs().max().item())[1], -1000)
        power = power * math.ldexp(1.0, -exponent)
        size = up * power.square().sum().item()
        steps.append((exponent, rounding_constant(power.shape[0]) * size))
        power = power.T @ power
    bound = up * math.sqrt(power.square().sum().item()) + TINY
    for exponent, error in reversed(steps):
        bound = up * math.ldexp(math.sqrt(up * (bound + up * error) + TINY), exponent)
    return bound
