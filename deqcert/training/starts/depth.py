"""How deep a solve must go: every depth on the same noisy images, then the cheapest rule."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deqcert.data import Dataset
from deqcert.models import ImplicitModel
from deqcert.smoothing.early import WatchedCell
from deqcert.smoothing.noise import noisy_copies
from deqcert.smoothing.stage import Stage
from deqcert.solvers import Anderson, StopRule, bind
from deqcert.solvers.loop import SolveLoop

REFERENCE = StopRule(tol=1e-4, max_nfe=100)
"""The converged solve that disagreement is measured against."""

TRIED = 40
"""Residuals that are tried for an early stop, spread evenly over those that occur."""

MARGINS = np.geomspace(0.05, 200.0, TRIED)
"""Margins that are tried for a decided stop."""


@dataclass(frozen=True)
class Trajectories:
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
        early: Relative residual of an :class:`EarlyStop` before them, or None.
        margin: Margin of a :class:`DecidedStop` before them, or None.
        nfe: Cell evaluations per row, on average, a decided stop's readouts included by their time.
        disagreement: Share of the rows whose class is not that of the converged solve.
    """

    steps: int
    early: float | None
    margin: float | None
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
) -> Trajectories:
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

    def noisy(x: NDArray[np.float32], index: int) -> Tensor:
        first, clean = np.zeros(1, dtype=np.int64), torch.from_numpy(x)
        return noisy_copies(clean, first, sigma=sigma, seed=seed, index=index, stage=Stage.TUNE)

    rows = np.unique(np.linspace(0, len(data) - 1, min(images, len(data))).round().astype(int))
    parts = []
    for first in range(0, len(rows), batch):
        part = rows[first : first + batch]
        x = torch.cat(
            [noisy(one, int(row)) for one, row in zip(data.batch(part), part, strict=True)]
        )
        injection = model.inject(x.to(device))
        cold = model.initial_state(injection)
        converged = Anderson().solve(bind(model.cell, injection), cold, REFERENCE)
        truth = torch.where(converged.converged, model.readout(converged.z).argmax(dim=1), -1)
        loop = SolveLoop(
            Anderson(),
            cold.clone() if net is None else net(injection),
            StopRule(tol=0.0, max_nfe=steps + 1),  # a row that ended would have no next state
        )
        cell = WatchedCell(bind(model.cell, injection))
        logits, residuals = [model.readout(loop.z)], []
        for _ in range(steps):
            loop.advance(cell)
            logits.append(model.readout(loop.z))
            residuals.append(cell.residual)
        columns = (truth, torch.stack(logits, dim=1), torch.stack(residuals, dim=1))
        parts.append(tuple(column.cpu().numpy() for column in columns))
    truths, logits_, residuals_ = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Trajectories(truths, data.labels()[rows].astype(np.int64), logits_, residuals_)


def choose_depth(
    trajectories: Trajectories,
    disagreement: float,
    *,
    readout: float,
    kinds: Sequence[str] = ("fixed", "early", "margin"),
) -> Depth:
    """Choose the cheapest rule whose disagreement is at most the one stated.

    Every fixed depth is tried, and with each as the most evaluations an early stop at each of some
    residuals and a decided stop at each of some margins. Where none is good enough, the deepest
    fixed depth is taken. Rows whose converged solve did not converge are left out.

    Args:
        trajectories: What was followed; use training images.
        disagreement: Largest share of rows that may differ from the converged solve, 0 to 1.
        readout: Time of a readout in times of a cell evaluation.
        kinds: Rules that may be chosen.
    """
    known = trajectories.truth >= 0
    wrong = trajectories.classes[known] != trajectories.truth[known, None]
    n, most = wrong.shape
    if n == 0:
        return Depth(most, None, None, float(most), 1.0)
    fixed = [
        Depth(k, None, None, float(k), float(wrong[:, k - 1].mean())) for k in range(1, most + 1)
    ]
    tried = list(fixed) if "fixed" in kinds else []
    if "early" in kinds:
        residuals = trajectories.residuals[known]
        finite = residuals[np.isfinite(residuals)]
        values = np.quantile(finite, np.linspace(0, 1, TRIED)) if finite.size else np.zeros(0)
        for value in (float(f"{value:.3g}") for value in values if value > 0):
            for steps, cells, missed in _ended(residuals <= value, wrong):
                tried.append(Depth(steps, value, None, cells, missed))
    if "margin" in kinds:
        logits = trajectories.logits[known]
        drift = np.abs(np.diff(logits, axis=1)).max(axis=2)
        leading = np.sort(logits[:, 1:], axis=2)
        gap = leading[:, :, -1] - leading[:, :, -min(2, leading.shape[2])]
        for value in (float(f"{value:.3g}") for value in MARGINS):
            for steps, cells, missed in _ended(gap > value * drift, wrong):
                tried.append(Depth(steps, None, value, cells * (1.0 + readout), missed))
    good = [depth for depth in tried if depth.disagreement <= disagreement]
    if not good:
        return fixed[-1]
    # Among equals the simplest rule: a fixed depth was tried first, then the smallest depth.
    return min(good, key=lambda depth: (depth.nfe, tried.index(depth), depth.steps))


def _ended(
    settled: NDArray[np.bool_], wrong: NDArray[np.bool_]
) -> Iterator[tuple[int, float, float]]:
    """Yield most evaluations, mean evaluations and disagreement of a rule; shapes (n, steps)."""
    n, most = wrong.shape
    first = np.where(settled.any(axis=1), settled.argmax(axis=1), most)
    for steps in range(2, most + 1):
        last = np.minimum(first, steps - 1)
        yield steps, float((last + 1).mean()), float(wrong[np.arange(n), last].mean())


@torch.no_grad()
def costs(
    model: ImplicitModel, net: Callable[[Tensor], Tensor], injection: Tensor, repeats: int = 9
) -> tuple[float, float]:
    """Measure a start and a readout in times of one cell evaluation on the same rows.

    Args:
        model: The model, in evaluation mode.
        net: The start network.
        injection: What enters them, shape (B, ...).
        repeats: Measurements of each, of which the shortest counts: other work on the machine only
            adds.
    """
    z = net(injection)
    calls: tuple[Callable[[], Tensor], ...] = (
        lambda: net(injection),
        lambda: model.readout(z),
        lambda: model.cell(z, injection),
    )
    shortest = [math.inf] * len(calls)
    for repeat in range(repeats + 2):
        for index, call in enumerate(calls):
            began = time.perf_counter()
            call()
            if injection.is_cuda:
                torch.cuda.synchronize(injection.device)
            if repeat >= 2:  # the first ones warm up
                shortest[index] = min(shortest[index], time.perf_counter() - began)
    start, readout, cell = shortest
    return start / cell, readout / cell
