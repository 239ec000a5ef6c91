"""What a trained model can do on the test split, measured at its equilibrium."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from deqcert.data import Dataset
from deqcert.models import ImplicitModel, TrainableModel
from deqcert.solvers import Anderson, SolveResult, StopRule, bind
from deqcert.training.progress import TrainingProgress
from deqcert.training.proof import OwnRadii

ROWS = 500
STOP = StopRule(tol=1e-3, max_nfe=30)


@torch.no_grad()
def measure(
    model: ImplicitModel,
    data: Dataset,
    *,
    sigma: float,
    draws: int,
    seed: int,
    device: str,
    progress: TrainingProgress,
    radii: OwnRadii | None = None,
) -> dict[str, float]:
    """Measure accuracy and how quickly the equilibrium is found.

    Args:
        model: The model, in evaluation mode.
        data: Test images.
        sigma: Standard deviation of the noise.
        draws: Noisy copies of each image.
        seed: Seed of the noise.
        device: Where the model is.
        progress: Is told how many images are done.
        radii: What the training proved of its images, to be looked at on these.

    Returns:
        Accuracy on clean images and on noisy copies, share of noisy copies that reach a relative
        residual of 1e-3, and mean and 95th percentile of the evaluations that they need; with
        ``radii`` their mean on clean images, too. Without noise the copies are the clean images.
    """
    generator = torch.Generator().manual_seed(seed)
    y = torch.from_numpy(data.labels())
    clean, noisy, nfe, converged, own = [], [], [], [], []
    draws = draws if sigma > 0.0 else 0
    for first in range(0, len(data), ROWS):
        rows = np.arange(first, min(first + ROWS, len(data)))
        x, labels = torch.from_numpy(data.batch(rows)), y[first : first + ROWS]
        found = solve(model, x.to(device))
        logits = model.readout(found.z)
        clean.append(logits.argmax(dim=1).cpu() == labels)
        if radii is not None:
            assert isinstance(model, TrainableModel)
            own.append(radii(model, x.to(device), labels.to(device), logits).cpu())
        for _ in range(max(draws, 1)):
            if draws:
                noise = sigma * torch.randn(x.shape, generator=generator)
                found = solve(model, (x + noise).to(device))
            classes = model.readout(found.z).argmax(dim=1)
            noisy.append(classes.cpu() == labels)
            nfe.append(found.nfe.cpu())
            converged.append(found.converged.cpu())
        done = min(first + ROWS, len(data))
        progress.tell(done / len(data), f"measured on {done} of {len(data)} test images")
    spent = torch.cat(nfe).double()
    measured = {
        "clean_accuracy": torch.cat(clean).double().mean().item(),
        "noisy_accuracy": torch.cat(noisy).double().mean().item(),
        "converged": torch.cat(converged).double().mean().item(),
        "nfe_mean": spent.mean().item(),
        "nfe_p95": spent.quantile(0.95).item(),
    }
    if own:
        measured["acr_own_bound"] = torch.cat(own).double().mean().item()
    return measured


def solve(model: ImplicitModel, x: Tensor) -> SolveResult:
    """Solve images, shape (B, C, H, W)."""
    injection = model.inject(x)
    return Anderson().solve(bind(model.cell, injection), model.initial_state(injection), STOP)


def classify(model: ImplicitModel, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Solve images, shape (B, C, H, W); return class, evaluations and convergence, each (B,)."""
    result = solve(model, x)
    return model.readout(result.z).argmax(dim=1), result.nfe, result.converged
