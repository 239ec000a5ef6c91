"""A look at the model while it is trained: the same noisy test images every time."""

from __future__ import annotations

import numpy as np
import torch

from deqcert.data import Dataset
from deqcert.models import TrainableModel
from deqcert.solvers import StopRule, bind, get_solver
from deqcert.solvers.jacobian import spectral_radius
from deqcert.training.config import TrainConfig
from deqcert.training.proof import OwnRadii

IMAGES = 256
"""Test images that are looked at, spread evenly: a standard error of 3% at most."""

ROWS = 8
"""Of those, how many the spectral radius is estimated on."""

WORST = 1e3
"""Residuals above this count as this."""


class Probe:
    """Noisy accuracy, residual and spectral radius at the equilibrium, in evaluation mode.

    It has noise of its own, so that looking does not change the training.

    Args:
        test: Test images.
        config: Of the training; its forward solver is used.
        radii: What the training proves of its images, to be looked at on these.
    """

    def __init__(self, test: Dataset, config: TrainConfig, radii: OwnRadii | None = None) -> None:
        count = min(IMAGES, len(test))
        rows = np.linspace(0, len(test) - 1, count).round().astype(np.int64)
        generator = torch.Generator().manual_seed(config.seed)
        x = torch.from_numpy(test.batch(rows))
        x = x + config.sigma * torch.randn(x.shape, generator=generator)
        self._x = torch.split(x.to(config.device), config.batch)
        self._y = torch.from_numpy(test.labels()[rows]).to(config.device)
        self._solver = get_solver(config.solver)
        self._seed, self._radii = config.seed, radii
        self._stop = StopRule(tol=max(config.tol, 1e-6), max_nfe=max(config.max_nfe, 2))

    def __call__(self, model: TrainableModel) -> dict[str, float]:
        """Return the columns that a look adds to a row; the model keeps its mode.

        The accuracy, the mean relative residual where the solves end, and the mean of the estimated
        spectral radius of df/dz there; and the mean of the radii, if the training proves any.
        """
        training = model.training
        model.eval()
        logits, residuals, radii, radius = [], [], [], torch.zeros(1)
        with torch.no_grad():
            for number, x in enumerate(self._x):
                injection = model.inject(x)
                z0 = model.initial_state(injection)
                result = self._solver.solve(bind(model.cell, injection), z0, self._stop)
                logits.append(model.readout(result.z))
                if self._radii is not None:
                    y = self._y[number * len(self._x[0]) :][: len(x)]
                    radii.append(self._radii(model, x, y, logits[-1]))
                residuals.append(result.residual.clamp(max=WORST))
                if number == 0:
                    radius = spectral_radius(
                        model.cell,
                        result.z[:ROWS],
                        injection[:ROWS],
                        generator=torch.Generator().manual_seed(self._seed),
                    )
        model.train(training)
        look = {
            "noisy_accuracy": (torch.cat(logits).argmax(dim=1) == self._y).double().mean().item(),
            "residual": torch.cat(residuals).mean().item(),
            "spectral_radius": radius.double().mean().item(),
        }
        if radii:
            look["acr_own_bound"] = torch.cat(radii).double().mean().item()
        return look
