"""One solve per image: class, logits, latents, and what the solve itself tells."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.special
import torch
from numpy.typing import NDArray

from deqcert.models import ImplicitModel
from deqcert.models.base import LatentModel
from deqcert.models.shaped import ShapedModel
from deqcert.smoothing import Predictor
from deqcert.solvers import Status, bind


@dataclass(frozen=True)
class Solved:
    """Images, each solved once without noise; arrays have an entry per image.

    Attributes:
        logits: Of the state that was read out, shape (N, K), float64; zeros where they are not
            finite.
        answered: Whether the solve ended as it should, and the logits are finite.
        nfe: Evaluations of the cell.
        residual: Relative residual of the state read out; NaN at a fixed depth.
        latent: What the last layer takes, shape (N, m); None where the model does not say.
    """

    logits: NDArray[np.float64]
    answered: NDArray[np.bool_]
    nfe: NDArray[np.int64]
    residual: NDArray[np.float64]
    latent: NDArray[np.float64] | None

    @property
    def answer(self) -> NDArray[np.int64]:
        """The class per image; -1 where a solve did not end as it should."""
        return np.where(self.answered, self.logits.argmax(axis=1), -1)

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """The softmax of the logits, shape (N, K)."""
        return np.asarray(scipy.special.softmax(self.logits, axis=1))


@torch.no_grad()
def solve_images(
    model: ImplicitModel,
    predictor: Predictor,
    images: NDArray[np.float32],
    *,
    rows: int,
    device: str,
    plain: ImplicitModel | None = None,
) -> Solved:
    """Solve images from a cold start.

    Args:
        model: In its form, on the device.
        predictor: Solver and stop rule.
        images: Shape (N, C, H, W), in [0, 1].
        rows: Rows of every evaluation.
        device: Where the model is.
        plain: The model that says what its latents are; None for no latents.
    """
    shaped = ShapedModel(model, rows)
    dtype = _dtype(model)
    latents = plain if isinstance(plain, LatentModel) else None
    parts: list[tuple[NDArray[np.float64], ...]] = []
    for first in range(0, len(images), rows):
        x = torch.from_numpy(images[first : first + rows]).to(device=device, dtype=dtype)
        injection = shaped.inject(x)
        start = shaped.initial_state(injection)
        found = predictor.solver.solve(bind(shaped.cell, injection), start, predictor.stop)
        logits = shaped.readout(found.z).double()
        ended = found.status != Status.NONFINITE
        if not predictor.stop.fixed_depth:
            ended = found.converged
        finite = torch.isfinite(logits).all(dim=1)
        logits = torch.where(finite[:, None], logits, 0.0)
        latent = torch.empty(len(x), 0)
        if latents is not None:
            z = found.z.to(_dtype(latents))
            latent = ShapedModel(latents, rows).apply(latents.latent, z)
        tensors = (logits, ended & finite, found.nfe, found.residual, latent.double())
        parts.append(tuple(tensor.cpu().numpy() for tensor in tensors))
    logits_, answered, nfe, residual, latent_ = (
        np.concatenate([part[i] for part in parts]) for i in range(5)
    )
    return Solved(
        logits_,
        answered.astype(bool),
        nfe.astype(np.int64),
        residual,
        None if latents is None else latent_,
    )


def _dtype(model: ImplicitModel) -> torch.dtype:
    found = next(iter(model.parameters()), None) if isinstance(model, torch.nn.Module) else None
    return torch.float32 if found is None else found.dtype
