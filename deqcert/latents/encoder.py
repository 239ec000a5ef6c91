"""Latents of images: what the last, linear layer of a model takes at its equilibrium."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from deqcert.data import Dataset
from deqcert.errors import ConfigError, DataError
from deqcert.models.base import LatentModel
from deqcert.solvers import StopRule, bind, get_solver


@torch.no_grad()
def encode(
    model: LatentModel,
    data: Dataset,
    indices: Sequence[int] | NDArray[np.int64],
    *,
    sigma: float = 0.0,
    seed: int = 0,
    stop: StopRule,
    batch: int = 256,
    device: str = "cpu",
) -> NDArray[np.float64]:
    """Solve for images, with noise where asked, and return their latents.

    Args:
        model: In evaluation mode, on the device.
        data: The images.
        indices: Which of them.
        sigma: Standard deviation of the noise, in [0, 1] pixel units.
        seed: Seed of the noise.
        stop: When a cold solve ends.
        batch: Images solved together.
        device: Where the model is.

    Returns:
        Shape (n, m).

    Raises:
        ConfigError: If the model does not say what its latents are.
        DataError: If a solve ends in values that are not finite.
    """
    if not isinstance(model, LatentModel):
        raise ConfigError(
            f"{type(model).__name__} does not say what its latents are; give a model of deqcert, "
            "or one with a method latent(z)."
        )
    generator, chosen = torch.Generator().manual_seed(seed), np.asarray(indices, dtype=np.int64)
    found, solver = [], get_solver("anderson")
    for first in range(0, len(chosen), batch):
        x = torch.from_numpy(data.batch(chosen[first : first + batch]))
        if sigma > 0.0:
            x = x + sigma * torch.randn(x.shape, generator=generator)
        injection = model.inject(x.to(device))
        solved = solver.solve(bind(model.cell, injection), model.initial_state(injection), stop)
        found.append(model.latent(solved.z).double().cpu().numpy())
    latents = np.concatenate(found)
    if not np.isfinite(latents).all():
        raise DataError("some latents are not finite; the model diverges on those images.")
    return latents
