"""The splitting of Peaceman and Rachford for a monotone layer, and what is proven of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from deqcert.models.spectral import UNIT, rounding_constant, spectral_norm_bound

MARGIN = 1.0 + 1e-9
"""More than the rounding of norms and quotients in float64, for states below a million elements."""

FEW = 16
"""Roundings that an element of A and B may have behind it, beside the sums counted below."""


@dataclass(frozen=True)
class Splitting:
    """v <- R |v| + H (U x + u), whose fixed point has z* = relu(v).

    Attributes:
        reflection: R = 2 V - I with V = (I + a (I - W))^-1, shape (D, D), float64.
        gain: H = 2 a V, shape (D, D), float64.
        step: a; any is right, the one chosen is near the fastest.
        factor: Bound of the spectral norm of the exact R; the map contracts by it.
        inverse_error: Bound of the spectral norm of the error of V.
    """

    reflection: Tensor
    gain: Tensor
    step: float
    factor: float = math.inf
    inverse_error: float = math.inf


def splitting(a: Tensor, b: Tensor, m: float) -> Splitting:
    """Compute R and H of W = (1 - m) I - A'A + B - B', with gradients where they are recorded.

    Args:
        a: A, shape (any, D), float64.
        b: B, shape (D, D), float64.
        m: Above 0.

    **Source:** E. Winston, J. Z. Kolter, "Monotone operator equilibrium networks" (2020), for the
    splitting and a = 1 / sqrt(m ||I - W||); with 2 relu(v) - v = |v| it takes this form.
    """
    identity = torch.eye(len(b), dtype=torch.float64, device=b.device)
    operator = m * identity + a.T @ a - b + b.T  # I - W
    step = 1.0 / math.sqrt(m * torch.linalg.matrix_norm(operator.detach(), 2).item())
    inverse = torch.linalg.inv(identity + step * operator)
    return Splitting(2.0 * inverse - identity, 2.0 * step * inverse, step)


@torch.no_grad()
def proven_splitting(a: Tensor, b: Tensor, m: float) -> Splitting:
    """Compute R and H, and bound the error of V and the contraction factor.

    ||V - V'|| for the computed V' is at most ||V|| ||I - M V'|| with M = I + a (I - W), and ||V||
    is at most 1 / (1 + a m), because I - W is monotone. Both hold for exact arithmetic on the
    stored weights; every rounding is charged.

    Args:
        a: A, shape (any, D), float64; each element within :data:`FEW` roundings of the exact one.
        b: B, shape (D, D), likewise.
        m: Above 0.
    """
    found = splitting(a, b, m)
    state, state_error = state_matrix(a, b, m)
    identity = torch.eye(len(state), dtype=torch.float64)
    inverse = (found.reflection.cpu() + identity) / 2.0
    matrix = identity + found.step * (identity - state)
    size = torch.linalg.matrix_norm(inverse).item()
    products = size * torch.linalg.matrix_norm(matrix).item()
    left = torch.linalg.matrix_norm(identity - matrix @ inverse).item()
    left += rounding_constant(len(state) + 6) * (products + math.sqrt(len(state)))
    left += found.step * state_error * size
    # R, H and V' come from one another by a sum and products of one rounding each.
    error = MARGIN * left / (1.0 + found.step * m) + 4.0 * UNIT * (1.0 + products)
    factor = MARGIN * (spectral_norm_bound(found.reflection) + 2.0 * error)
    return Splitting(found.reflection, found.gain, found.step, factor, error)


def state_matrix(a: Tensor, b: Tensor, m: float) -> tuple[Tensor, float]:
    """Return W in float64, on the CPU, and a bound of the spectral norm of its error."""
    a, b = a.detach().cpu(), b.detach().cpu()
    state = (1.0 - m) * torch.eye(len(b), dtype=torch.float64) - a.T @ a + b - b.T
    terms = a.square().sum().item() + 2.0 * torch.linalg.matrix_norm(b).item()
    terms += (1.0 + m) * math.sqrt(len(b))
    return state, MARGIN * rounding_constant(len(a) + 2 * FEW) * terms
