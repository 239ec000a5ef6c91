"""What a trained model can do on the test split, measured at its equilibrium."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from deqcert.data import Dataset
from deqcert.models import ImplicitModel
from deqcert.solvers import Anderson, StopRule, bind
from deqcert.training.progress import TrainingProgress

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

    Returns:
        Accuracy on clean images and on noisy copies, share of noisy copies that reach a relative
        residual of 1e-3, and mean and 95th percentile of the evaluations that they need.
    """
    generator = torch.Generator().manual_seed(seed)
    y = torch.from_numpy(data.labels())
    clean, noisy, nfe, converged = [], [], [], []
    for first in range(0, len(data), ROWS):
        rows = np.arange(first, min(first + ROWS, len(data)))
        x, labels = torch.from_numpy(data.batch(rows)), y[first : first + ROWS]
        clean.append(classify(model, x.to(device))[0].cpu() == labels)
        for _ in range(draws):
            noise = sigma * torch.randn(x.shape, generator=generator)
            classes, spent, arrived = classify(model, (x + noise).to(device))
            noisy.append(classes.cpu() == labels)
            nfe.append(spent.cpu())
            converged.append(arrived.cpu())
        done = min(first + ROWS, len(data))
        progress.tell(done / len(data), f"measured on {done} of {len(data)} test images")
    spent = torch.cat(nfe).double()
    return {
        "clean_accuracy": torch.cat(clean).double().mean().item(),
        "noisy_accuracy": torch.cat(noisy).double().mean().item(),
        "converged": torch.cat(converged).double().mean().item(),
        "nfe_mean": spent.mean().item(),
        "nfe_p95": spent.quantile(0.95).item(),
    }


def classify(model: ImplicitModel, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Solve images, shape (B, C, H, W); return class, evaluations and convergence, each (B,)."""
    injection = model.inject(x)
    result = Anderson().solve(bind(model.cell, injection), model.initial_state(injection), STOP)
    return model.readout(result.z).argmax(dim=1), result.nfe, result.converged
