"""Proven Lipschitz constants of every difference of two logits, by one rule of several."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from deqcert.models import ReluForm
    from deqcert.proofs.multiplier import Multipliers

RULES = ("multiplier", "classical", "published")
"""The smallest constants first."""

LOCAL = "local"
"""Not a rule of constants: the smallest of them, and then what holds around each input."""


def pairwise_bounds(form: ReluForm, rule: str) -> Tensor:
    """Bound how fast logit i minus logit j changes with the input in l2.

    Args:
        form: The model as matrices.
        rule: "multiplier", the smallest (:func:`deqcert.proofs.multiplier_bound`); "classical",
            ||c_i - c_j|| ||U|| / m; or "published", 2 ||C|| ||U|| / m for every pair, which is how
            these constants were first used.

    Returns:
        Shape (K, K), float64, logits per pixel unit; 0 on the diagonal.

    **Guarantee:** deterministic, for exact arithmetic on the stored weights, in the standard model
    of floating-point arithmetic.

    **Source:** C. Pabbaraju, E. Winston, J. Z. Kolter, "Estimating Lipschitz constants of monotone
    deep equilibrium models" (2021), for "published" and, per pair, "classical".
    """
    import torch

    from deqcert.models.spectral import spectral_norm_bound
    from deqcert.proofs.definite import MARGIN
    from deqcert.proofs.multiplier import multiplier_bounds

    rows = form.readout
    if rule == RULES[0]:
        return bounds_matrix(len(rows), multiplier_bounds(form)[0])
    state = MARGIN * (spectral_norm_bound(form.input) + form.input_error) / form.monotone
    distances: Tensor = torch.linalg.vector_norm(rows[:, None] - rows[None], dim=2)
    if rule == "published":
        distances = torch.full_like(distances, 2.0 * spectral_norm_bound(rows))
    return (MARGIN * MARGIN * state * distances).fill_diagonal_(0.0)


def bounds_matrix(classes: int, found: Multipliers) -> Tensor:
    """Return bounds by pair as a symmetric matrix, shape (K, K), float64; 0 on the diagonal."""
    import torch

    bounds = torch.zeros(classes, classes, dtype=torch.float64)
    for (i, j), (bound, _) in found.items():
        bounds[i, j] = bounds[j, i] = bound
    return bounds
