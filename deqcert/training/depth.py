"""How deep a solve must go: every depth on the same noisy images, then the cheapest rule."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deqcert.data import Dataset
from deqcert.models import ImplicitModel
from deqcert.smoothing.early import WatchedCell
from deqcert.solvers import Anderson, StopRule, bind
from deqcert.solvers.flight import Flight

REFERENCE = StopRule(tol=1e-4, max_nfe=100)
"""The converged solve that disagreement is measured against."""

THRESHOLDS = 40
"""Residuals that are tried for an early stop, spread evenly over those that occur."""


@dataclass(frozen=True)
class Courses:
    """What solves of n noisy images went through.

    Attributes:
        truth: Class of the converged cold solve, shape (n,); -1 where it did not converge.
        labels: True classes, shape (n,).
        logits: What is read out at the start and after each step, shape (n, steps + 1, K).
        residuals: Relative residual at which each step began, shape (n, steps).
    """

    truth: NDArray[np.int64]
    labels: NDArray[np.int64]
    logits: NDArray[np.float32]
    residuals: NDArray[np.float64]

    @property
    def classes(self) -> NDArray[np.int64]:
        """Class after each step, shape (n, steps)."""
        found: NDArray[np.int64] = self.logits[:, 1:].argmax(axis=2)
        return found


@dataclass(frozen=True)
class Depth:
    """A rule for the depth, and what it did.

    Attributes:
        steps: Most cell evaluations.
        early: Relative residual at which a row ends before them; None for a fixed depth.
        nfe: Cell evaluations a row, on average.
        disagreement: Share of the rows whose class is not that of the converged solve.
    """

    steps: int
    early: float | None
    nfe: float
    disagreement: float


@torch.no_grad()
def follow(
    model: ImplicitModel,
    net: Callable[[Tensor], Tensor] | None,
    data: Dataset,
    *,
    sigma: float,
    images: int,
    steps: int = 16,
    batch: int = 100,
    seed: int = 0,
    device: str = "cpu",
) -> Courses:
    """Solve noisy images by Anderson acceleration and write down every step.

    Args:
        model: The model, in evaluation mode.
        net: The start network; None starts cold.
        data: Images; as many as asked for are taken, evenly spread, each with one noise.
        sigma: Standard deviation of the noise.
        images: How many, at least 1.
        steps: Cell evaluations that are followed, at least 1.
        batch: Images solved together.
        seed: Of the noise.
        device: Where the model is.
    """
    rows = np.unique(np.linspace(0, len(data) - 1, min(images, len(data))).round().astype(int))
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for first in range(0, len(rows), batch):
        x = torch.from_numpy(data.batch(rows[first : first + batch]))
        x = x + sigma * torch.randn(x.shape, generator=generator)
        injection = model.inject(x.to(device))
        cold = model.initial_state(injection)
        converged = Anderson().solve(bind(model.cell, injection), cold, REFERENCE)
        truth = torch.where(converged.converged, model.readout(converged.z).argmax(dim=1), -1)
        flight = Flight(
            Anderson(),
            cold.clone() if net is None else net(injection),
            StopRule(tol=0.0, max_nfe=steps + 1),  # a row that ended would have no next state
        )
        cell = WatchedCell(bind(model.cell, injection))
        logits, residuals = [model.readout(flight.z)], []
        for _ in range(steps):
            flight.advance(cell)
            logits.append(model.readout(flight.z))
            residuals.append(cell.residual)
        columns = (truth, torch.stack(logits, dim=1), torch.stack(residuals, dim=1))
        parts.append(tuple(column.cpu().numpy() for column in columns))
    truths, logits_, residuals_ = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Courses(truths, data.labels()[rows].astype(np.int64), logits_, residuals_)


def choose_depth(courses: Courses, disagreement: float) -> Depth:
    """Choose the rule of least mean depth whose disagreement is at most the one stated.

    Every fixed depth is tried, and with each as the most evaluations an early stop at each of
    some residuals. Where none is good enough, the deepest fixed depth is taken. Rows whose
    converged solve did not converge are left out.

    Args:
        courses: What was followed; use training images.
        disagreement: Largest share of rows that may differ from the converged solve, 0 to 1.
    """
    known = courses.truth >= 0
    wrong = courses.classes[known] != courses.truth[known, None]
    residuals = courses.residuals[known]
    n, most = wrong.shape
    if n == 0:
        return Depth(most, None, float(most), 1.0)
    fixed = [Depth(k, None, float(k), float(wrong[:, k - 1].mean())) for k in range(1, most + 1)]
    finite = residuals[np.isfinite(residuals)]
    thresholds = np.quantile(finite, np.linspace(0, 1, THRESHOLDS)) if finite.size else ()
    tried = list(fixed)
    for threshold in (float(f"{value:.3g}") for value in thresholds if value > 0):
        settled = residuals <= threshold
        first = np.where(settled.any(axis=1), settled.argmax(axis=1), most)
        for steps in range(2, most + 1):
            last = np.minimum(first, steps - 1)
            missed = float(wrong[np.arange(n), last].mean())
            tried.append(Depth(steps, threshold, float((last + 1).mean()), missed))
    good = [depth for depth in tried if depth.disagreement <= disagreement]
    if not good:
        return fixed[-1]
    # Among equals the simpler rule, then the smaller depth.
    return min(good, key=lambda depth: (depth.nfe, depth.early is not None, depth.steps))


@torch.no_grad()
def start_cost(
    model: ImplicitModel, net: Callable[[Tensor], Tensor], injection: Tensor, repeats: int = 9
) -> float:
    """Measure the time of a start network in times of one cell evaluation on the same rows.

    Args:
        model: The model, in evaluation mode.
        net: The start network.
        injection: What enters both, shape (B, ...).
        repeats: Pairs of measurements, of which the shortest count: other work on the machine only
            adds.
    """
    z = net(injection)

    def timed(function: Callable[[], Tensor]) -> float:
        began = time.perf_counter()
        function()
        if injection.is_cuda:
            torch.cuda.synchronize(injection.device)
        return time.perf_counter() - began

    pairs = [
        (timed(lambda: net(injection)), timed(lambda: model.cell(z, injection)))
        for _ in range(repeats + 2)
    ][2:]
    return min(start for start, _ in pairs) / min(cell for _, cell in pairs)
