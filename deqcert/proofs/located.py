"""Where the exact equilibrium of an input is: a state, and a proven distance to it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from deqcert.errors import DataError
from deqcert.models.base import ProvenModel
from deqcert.proofs.enclosure import Enclosure
from deqcert.solvers import StopRule, bind, get_solver


@dataclass(frozen=True)
class Located:
    """States near exact equilibria, float64.

    Attributes:
        z: States, shape (B, D).
        distance: Bound of ||z - z*|| per row, shape (B,).
        nfe: Cell evaluations per row, shape (B,).
    """

    z: Tensor
    distance: Tensor
    nfe: Tensor


@torch.no_grad()
def locate(enclosure: Enclosure, x: ArrayLike | Tensor, *, tol: float, depth: int) -> Located:
    """Solve for inputs in float64, and bound what is left of the error.

    Args:
        enclosure: Of a model that also bounds the rounding of its injection.
        x: Inputs, shape (B, C, H, W), in [0, 1].
        tol: Relative residual that ends a solve.
        depth: Most cell evaluations per row.

    Raises:
        DataError: If an input does not fit the model or is not finite.
    """
    images = torch.as_tensor(x, dtype=torch.float64)
    if not bool(torch.isfinite(images).all()):
        raise DataError("the image has values that are not finite; pixels are in [0, 1].")
    model = enclosure.model
    assert isinstance(model, ProvenModel)
    injection = model.inject(images)
    solved = get_solver("anderson").solve(
        bind(model.cell, injection),
        model.initial_state(injection),
        StopRule(tol=tol, max_nfe=depth),
    )
    z = solved.z
    inexact = model.injection_rounding(images)
    _, _, distance = enclosure.gaps(z, model.cell(z, injection), injection, inexact)
    return Located(z, distance, torch.as_tensor(solved.nfe) + 1)
