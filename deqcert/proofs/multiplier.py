"""The multiplier bound: a Lipschitz constant of a logit difference, optimised, then verified."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import scipy.linalg
import scipy.optimize
import torch
from numpy.typing import NDArray
from torch import Tensor

from deqcert.models.relu_form import ReluForm
from deqcert.models.spectral import TINY, UNIT, rounding_constant
from deqcert.proofs.definite import MARGIN, is_semidefinite

Array = NDArray[np.float64]
Multipliers = dict[tuple[int, int], tuple[float, Tensor]]
"""Per pair of classes (i, j), j < i, a bound and the diagonal of T that proves it."""

INFEASIBLE = 1e3
"""Stands for an infinite logarithm where a multiplier bounds nothing; the search turns back."""

LARGEST = 300.0
"""Largest logarithm of a multiplier that is tried: a step too far must not overflow."""

STEPS = 300
"""Most steps of the search; past it little is gained."""

WIDENINGS = 40
"""How often a bound is widened, each time twice as far, before its proof is given up."""


def multiplier_bound(form: ReluForm, readout: Tensor) -> tuple[float, Tensor]:
    """Bound how fast ``readout @ z*`` changes with the input, in l2, over all inputs.

    relu is slope-restricted, so two equilibria with difference dz for inputs with difference dx
    satisfy dz' T (W dz + U dx - dz) >= 0 for every diagonal T > 0. If

        G = L^2 (2 T - T W - W' T - c' c) - T U U' T

    is positive semidefinite, adding that inequality to L^2 |dx|^2 - |c dz|^2 shows |c dz| <= L |dx|
    (the Schur complement of the quadratic form in dx and dz). L is minimised over T by L-BFGS, and
    the L that is returned is proven by :func:`verified_bound`, whatever the search did.

    Args:
        form: The matrices W and U.
        readout: The row c, shape (D,), float64; or several, shape (k, D), whose products with z*
            are bounded together, as a vector in l2. The identity bounds z* itself.

    Returns:
        L, in logits per pixel unit, and the diagonal of T, shape (D,); (infinity, ones) where
        nothing could be proven.

    **Guarantee:** deterministic, for exact arithmetic on the stored weights.

    **Source:** the bound is of the family of M. Revay, R. Wang, I. Manchester, "Lipschitz Bounded
    Equilibrium Networks" (2020); used here for a network that is given, one bound per pair.
    """
    anything = torch.ones(readout.shape[-1], dtype=torch.float64)
    if not bool(readout.any()):  # two rows of C that are equal, exactly
        return 0.0, anything
    found = _search(form, readout)
    if found is None:
        return float("inf"), anything
    bound, multiplier = found
    for doubling in range(WIDENINGS):
        wider = bound * (1.0 + 1e-12 * 2.0**doubling)
        if verified_bound(form, readout, multiplier, wider):
            return wider, multiplier
    return float("inf"), multiplier


def multiplier_bounds(
    form: ReluForm, known: Mapping[tuple[int, int], tuple[float, Tensor]] | None = None
) -> tuple[Multipliers, int]:
    """Bound every difference of two logits; see :func:`multiplier_bound`.

    Args:
        form: The network as matrices.
        known: Bounds and multipliers from an earlier search, by pair. They are verified first, and
            searched for again where that fails; None for none.

    Returns:
        Bounds and multipliers by pair, and how many of them were known.
    """
    rows, found, held = form.readout, Multipliers(), 0
    for i in range(len(rows)):
        for j in range(i):
            readout, before = rows[i] - rows[j], (known or {}).get((i, j))
            if before is not None and verified_bound(form, readout, before[1], before[0]):
                found[i, j], held = before, held + 1
            else:
                found[i, j] = multiplier_bound(form, readout)
    return found, held


def verified_bound(form: ReluForm, readout: Tensor, multiplier: Tensor, bound: float) -> bool:
    """Prove a multiplier bound.

    Args:
        form: The matrices W and U, and how far they are from the exact ones.
        readout: The row c, shape (D,), float64: a difference of two rows of C, rounded; or several
            such rows, shape (k, D).
        multiplier: Diagonal of T, shape (D,), float64, above 0.
        bound: L.

    Returns:
        True only if the exact G is proven to be positive semidefinite.

    **Guarantee:** deterministic, in the standard model of floating-point arithmetic: the rounding
    of W, U and c, and of every product that G is made of, is added up and charged.
    """
    t = multiplier
    if not bool((t > 0.0).all()) or not 0.0 < bound < float("inf"):
        return False
    square = bound * bound * (1.0 - 4.0 * UNIT)  # L^2, rounded down
    scaled, entering = t[:, None] * form.state, t[:, None] * form.input
    rows = readout.reshape(-1, readout.shape[-1])
    moment = rows.T @ rows
    gram = entering @ entering.T
    matrix = square * (2.0 * torch.diag(t) - scaled - scaled.T - moment) - gram

    largest = t.max().item()
    size_state = torch.linalg.matrix_norm(scaled).item()
    size_entering = torch.linalg.matrix_norm(entering).item()
    size_input = torch.linalg.matrix_norm(form.input).item()
    size_readout = readout.square().sum().item()
    # What the stored, rounded matrices differ by from the exact ones.
    error = square * (2.0 * largest * form.state_error + 4.0 * UNIT * size_readout)
    error += largest**2 * form.input_error * (2.0 * size_input + form.input_error)
    # What rounding changes in the products and sums above.
    terms = 2.0 * torch.linalg.vector_norm(t).item() + 2.0 * size_state + size_readout
    error += rounding_constant(len(rows) + 12) * square * terms
    error += rounding_constant(form.input.shape[1] + 12) * size_entering**2
    up = MARGIN * (1.0 + 2.0 * rounding_constant(form.input.numel()))
    return is_semidefinite(matrix, up * error + TINY)


def _search(form: ReluForm, readout: Tensor) -> tuple[float, Tensor] | None:
    """Minimise L over T in plain float64; None where no T was found that bounds anything."""
    w, c = form.state.numpy(), np.atleast_2d(readout.numpy())
    moment, size = c.T @ c, w.shape[0]
    p = form.input.numpy() @ form.input.numpy().T

    def logarithm(log_t: Array) -> tuple[float, Array]:
        """Return ln L^2 and its gradient, from the largest generalised eigenvalue."""
        t = np.exp(np.minimum(log_t, LARGEST))
        scaled = t[:, None] * w
        k = 2.0 * np.diag(t) - scaled - scaled.T - moment
        try:
            top, vector = scipy.linalg.eigh(
                t[:, None] * p * t, k, subset_by_index=[len(t) - 1, len(t) - 1]
            )
        except (np.linalg.LinAlgError, ValueError):  # not positive definite, or not finite
            return INFEASIBLE, np.zeros_like(t)
        value, v = top[0], vector[:, 0]
        if not 0.0 < value < np.inf:
            return INFEASIBLE, np.zeros_like(t)
        slope = 2.0 * v * (p @ (t * v) - value * (v - w @ v)) * t
        return float(np.log(value)), slope / value

    # T = t I: with t above ||c||^2 / (2 m) the form is positive definite.
    least = float(np.log(np.linalg.norm(c, 2) ** 2 / (2.0 * form.monotone)))
    offsets = [0.01 * 2.0**k for k in range(12)]
    start = min(offsets, key=lambda offset: logarithm(np.full(size, least + offset))[0])
    begun = np.full(size, least + start)
    found = scipy.optimize.minimize(
        logarithm, begun, jac=True, method="L-BFGS-B", options={"maxiter": STEPS}
    )
    value, at = float(found.fun), np.asarray(found.x, dtype=np.float64)
    if not value < INFEASIBLE:
        value, at = logarithm(begun)[0], begun
    if not value < INFEASIBLE:
        return None
    return float(np.exp(0.5 * value)), torch.from_numpy(np.exp(at))
