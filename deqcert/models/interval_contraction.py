"""A proof that intervals of an equilibrium contract."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from deqcert.models.outward import MARGIN
from deqcert.models.spectral import rounding_constant, spectral_norm_bound


@dataclass(frozen=True)
class Contraction:
    """What is proven of N by the sums S of |N| over its kernel, all in float64.

    What holds for S holds for the convolution: at a border, zeros leave terms out, and a
    convolution's norm is at most that of its sums of absolute values.

    Attributes:
        weights: v > 0, shape (width,).
        factor: rho with |N| v <= rho v; infinity if none was found.
        size: Bound of the norm of |N|.
        gain: Bound of the norm of (I - |N|)^-1, if rho < 1.
    """

    weights: Tensor
    factor: float
    size: float
    gain: float


def prove_contraction(state: Tensor, roundings: int) -> Contraction:
    """Verify that N contracts.

    v is an approximate solution of (I - S) v = 1. With an approximate inverse V of I - S and
    E = I - (I - S) V, the norm of (I - S)^-1 is at most ||V|| / (1 - ||E||).
    """
    sums = state.abs()
    sums = sums.sum(dim=(2, 3)) if sums.dim() == 4 else sums
    width, up = len(sums), MARGIN * (1.0 + rounding_constant(roundings + state[0].numel() + 4))
    identity = torch.eye(width, dtype=torch.float64)
    inverse, failed = torch.linalg.inv_ex(identity - sums)
    v = inverse.sum(dim=1)
    size = up * torch.linalg.matrix_norm(sums).item()
    if int(failed) or not bool(torch.isfinite(v).all()) or not bool((v > 0.0).all()):
        return Contraction(torch.ones(width, dtype=torch.float64), math.inf, size, math.inf)
    factor = up * ((sums @ v) / v).max().item()
    norm = torch.linalg.matrix_norm(inverse).item()
    left = torch.linalg.matrix_norm(identity - (identity - sums) @ inverse).item()
    # Rounding of the sums themselves, of I - S and of the product.
    left += rounding_constant(roundings + state[0].numel() + width + 8) * (width + size) * norm
    gain = spectral_norm_bound(inverse) / (1.0 - MARGIN * left) if MARGIN * left < 1.0 else math.inf
    return Contraction(v, factor, size, MARGIN * gain)
