"""How deep a solve must go: every depth on the same noisy images, then the cheapest rule."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import scipy
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
from deqcert.training.starts.checks import outcome, tried_checks

REFERENCE = StopRule(tol=1e-4, max_nfe=100)
"""The converged solve that disagreement is measured against."""

KINDS = ("fixed", "early", "margin", "checks")
"""Rules that a depth may be chosen by."""

TRIED = 40
"""Residuals that are tried for an early stop, spread evenly over those that occur."""

CONFIDENCE = 0.95
"""Probability with which a stated disagreement is at least the true one."""

STRICTNESS = tuple(np.linspace(0.0, 1.0, 9).tolist())
"""Shares of a stated disagreement that rules are chosen for, the most cautious first."""

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

    def part(self, rows: slice) -> Trajectories:
        """Return some of the images."""
        return Trajectories(
            self.truth[rows], self.labels[rows], self.logits[rows], self.residuals[rows]
        )

    @property
    def classes(self) -> NDArray[np.int64]:
        """Class after each step, shape (n, steps)."""
        found: NDArray[np.int64] = self.logits[:, 1:].argmax(axis=2)
        return found

    @property
    def wrong(self) -> NDArray[np.bool_]:
        """Whether the class at the start and after each step is another, shape (n, steps + 1)."""
        found: NDArray[np.bool_] = self.logits.argmax(axis=2) != self.truth[:, None]
        return found

    @property
    def gaps(self) -> NDArray[np.float64]:
        """Gap between the two largest logits there, shape (n, steps + 1)."""
        leading = np.sort(self.logits, axis=2).astype(np.float64)
        found: NDArray[np.float64] = leading[:, :, -1] - leading[:, :, -min(2, leading.shape[2])]
        return found

    @property
    def drifts(self) -> NDArray[np.float64]:
        """What each step changed in any logit, shape (n, steps)."""
        steps = np.diff(self.logits.astype(np.float64), axis=1)
        found: NDArray[np.float64] = np.abs(steps).max(axis=2)
        return found


@dataclass(frozen=True)
class Depth:
    """A rule for the depth, and what it did.

    Attributes:
        steps: Most cell evaluations.
        early: Relative residual of an :class:`EarlyStop` before them, or None.
        margin: Margin of a :class:`DecidedStop` before them, or None.
        checks: Depth and gap of each check of a :class:`CheckedStop` before them; empty for none.
        nfe: Cell evaluations per row, on average, a decided stop's readouts included by their time.
        disagreement: Share of the rows whose class is not that of the converged solve.
    """

    steps: int
    early: float | None
    margin: float | None
    checks: tuple[tuple[int, float], ...]
    nfe: float
    disagreement: float


@dataclass(frozen=True)
class Held:
    """A rule for the depth, and what it did on images that it was not chosen on.

    Attributes:
        depth: The rule, its evaluations and its disagreement measured on those images.
        images: How many they were.
        bound: Bound of its disagreement on such images, at :data:`CONFIDENCE`.
    """

    depth: Depth
    images: int
    bound: float


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
    kinds: Sequence[str] = KINDS,
) -> Depth:
    """Choose the cheapest rule whose disagreement is at most the one stated.

    Every fixed depth is tried, and with each as the most evaluations an early stop at each of some
    residuals, a decided stop at each of some margins, and checks at up to four depths with gaps
    for each of some risks. Where none is good enough, the deepest
    fixed depth is taken. Rows whose converged solve did not converge are left out.

    Args:
        trajectories: What was followed; use training images.
        disagreement: Largest share of rows that may differ from the converged solve, 0 to 1.
        readout: Time of a readout in times of a cell evaluation.
        kinds: Rules that may be chosen.
    """
    return _cheapest(_tried(trajectories, readout, kinds), disagreement)


def hold_depth(
    trajectories: Trajectories,
    disagreement: float,
    *,
    readout: float,
    kinds: Sequence[str] = KINDS,
) -> Held:
    """Choose a rule on one half of the images and hold it to its disagreement on the other.

    On the first half the cheapest rule is found for each of some shares of the disagreement. On the
    second they are tested in that order, the most cautious first, until one cannot be shown to keep
    to it; the one before is kept. Such a chain of tests needs no correction: that what is kept
    exceeds the disagreement has the probability of one test. Where not even the first passes, it is
    kept with the bound that it has.

    Args:
        trajectories: What was followed; use training images.
        disagreement: Largest share of rows that may differ from the converged solve, 0 to 1.
        readout: Time of a readout in times of a cell evaluation.
        kinds: Rules that may be chosen.

    **Source:** A. N. Angelopoulos, S. Bates, E. J. Candès, M. I. Jordan, L. Lei, "Learn then Test"
    (2021), fixed sequence testing; C. J. Clopper and E. S. Pearson (1934).
    """
    # One image in two: neighbours in a data set may be of one class.
    first, second = trajectories.part(slice(0, None, 2)), trajectories.part(slice(1, None, 2))
    tried, kept = _tried(first, readout, kinds), None
    for share in STRICTNESS:
        held = _held(second, _cheapest(tried, share * disagreement), readout)
        if kept is None or held.bound <= disagreement:
            kept = held
        if held.bound > disagreement:
            break
    assert kept is not None
    return kept


def _tried(trajectories: Trajectories, readout: float, kinds: Sequence[str]) -> list[Depth]:
    """Return every rule with what it did; the fixed depths come first, and are always there."""
    known = trajectories.truth >= 0
    wrong = trajectories.classes[known] != trajectories.truth[known, None]
    n, most = wrong.shape
    if n == 0:
        return [Depth(most, None, None, (), float(most), 1.0)]
    tried = [
        Depth(k, None, None, (), float(k), float(wrong[:, k - 1].mean()))
        for k in (range(1, most + 1) if "fixed" in kinds else (most,))
    ]
    if "early" in kinds:
        residuals = trajectories.residuals[known]
        finite = residuals[np.isfinite(residuals)]
        values = np.quantile(finite, np.linspace(0, 1, TRIED)) if finite.size else np.zeros(0)
        for value in (float(f"{value:.3g}") for value in values if value > 0):
            for steps, cells, missed in _ended(residuals <= value, wrong):
                tried.append(Depth(steps, value, None, (), cells, missed))
    if "margin" in kinds:
        gap, drift = trajectories.gaps[known, 1:], trajectories.drifts[known]
        for value in (float(f"{value:.3g}") for value in MARGINS):
            for steps, cells, missed in _ended(gap > value * drift, wrong):
                tried.append(Depth(steps, None, value, (), cells * (1.0 + readout), missed))
    if "checks" in kinds:
        gap, everywhere = trajectories.gaps[known], trajectories.wrong[known]
        for rule in tried_checks(gap, everywhere, readout):
            checks = tuple(zip(rule.depths, rule.gaps, strict=True))
            tried.append(Depth(rule.steps, None, None, checks, rule.nfe, rule.disagreement))
    return tried


def _cheapest(tried: Sequence[Depth], disagreement: float) -> Depth:
    good = [depth for depth in tried if depth.disagreement <= disagreement]
    if not good:
        # The deepest fixed depth, which is the last of the rules that have no stop.
        return max((d for d in tried if not (d.early or d.margin or d.checks)), key=_steps)
    # Among equals the simplest rule: a fixed depth was tried first, then the smallest depth.
    return min(good, key=lambda depth: depth.nfe)


def _steps(depth: Depth) -> int:
    return depth.steps


def _held(trajectories: Trajectories, depth: Depth, readout: float) -> Held:
    """Measure a rule on images that it was not chosen on."""
    known = trajectories.truth >= 0
    n = int(known.sum())
    if n == 0:
        return Held(depth, 0, 1.0)
    wrong, gap = trajectories.wrong[known], trajectories.gaps[known]
    if depth.checks:
        depths, gaps = zip(*depth.checks, strict=True)
        nfe, missed = outcome(gap, wrong, depths, gaps, depth.steps, readout)
    else:
        settled = np.zeros((n, depth.steps), dtype=bool)
        if depth.early is not None:
            settled = trajectories.residuals[known, : depth.steps] <= depth.early
        elif depth.margin is not None:
            drift = trajectories.drifts[known, : depth.steps]
            settled = gap[:, 1 : depth.steps + 1] > depth.margin * drift
        first = np.where(settled.any(axis=1), settled.argmax(axis=1), depth.steps - 1)
        nfe = float((first + 1).mean()) * (1.0 + (readout if depth.margin is not None else 0.0))
        missed = float(wrong[np.arange(n), first + 1].mean())
    count = round(missed * n)
    # Clopper and Pearson's upper bound.
    bound = 1.0 if count == n else float(scipy.stats.beta.ppf(CONFIDENCE, count + 1, n - count))
    return Held(dataclasses.replace(depth, nfe=nfe, disagreement=missed), n, bound)


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
