"""Where to read rows out, and what gap lets them go: fitted to a share of votes that may change."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MOST_CHECKS = 4
"""Checks before the last depth at most; the fourth saves a twentieth at small disagreements."""

FURTHER = (1, 2, 4)
"""Evaluations from the last check to the last depth that are tried, besides the most there are."""

DEEPEST = 8
"""The deepest check that is tried; rows in doubt after it end at the last depth."""

RISKS = np.geomspace(1e-3, 0.5, 25)
"""Risks that are tried: at each check rows end whose class is wrong with at most this probability.

One risk for all checks, since a vote that changes costs the same wherever it does.
"""


@dataclass(frozen=True)
class Checks:
    """A rule, and what it did.

    Attributes:
        depths: Where rows are read out, before the last depth.
        gaps: For each of them the gap between the two largest logits that lets a row go.
        steps: The last depth.
        nfe: Cell evaluations per row on average, readouts that cast no vote included.
        disagreement: Share of the rows whose class is not the converged solve's.
    """

    depths: tuple[int, ...]
    gaps: tuple[float, ...]
    steps: int
    nfe: float
    disagreement: float


def outcome(
    gap: NDArray[np.float64],
    wrong: NDArray[np.bool_],
    depths: tuple[int, ...],
    gaps: tuple[float, ...],
    steps: int,
    readout: float,
) -> tuple[float, float]:
    """Return the mean evaluations and the disagreement of a rule.

    Args:
        gap: Gap between the two largest logits at the start and after each step, shape (n, T + 1).
        wrong: Whether the class there is not the converged solve's, shape (n, T + 1).
        depths: Where rows are read out, each below ``steps``.
        gaps: What lets a row go there.
        steps: The last depth, at most T.
        readout: Time of a readout in times of a cell evaluation.
    """
    every = (*depths, steps)
    clear = np.ones((len(gap), len(every)), dtype=bool)
    clear[:, :-1] = gap[:, list(depths)] > np.array(gaps)
    first = clear.argmax(axis=1)
    cost = np.array([depth + readout * number for number, depth in enumerate(every)])
    ended = wrong[np.arange(len(gap)), np.array(every)[first]]
    return float(cost[first].mean()), float(ended.mean())


def tried_checks(
    gap: NDArray[np.float64], wrong: NDArray[np.bool_], readout: float
) -> Iterator[Checks]:
    """Yield rules of up to four checks, each risk's gaps fitted depth by depth; see `outcome`."""
    most = gap.shape[1] - 1
    fits = {depth: _fit(gap[:, depth], wrong[:, depth]) for depth in range(min(DEEPEST, most) + 1)}
    for count in range(1, MOST_CHECKS + 1):
        for depths in itertools.combinations(fits, count):
            ends = {depths[-1] + more for more in FURTHER} | {most}
            for steps in sorted(end for end in ends if depths[-1] < end <= most):
                for risk in RISKS:
                    gaps = tuple(_gap(*fits[depth], float(risk)) for depth in depths)
                    yield Checks(
                        depths, gaps, steps, *outcome(gap, wrong, depths, gaps, steps, readout)
                    )


def _fit(gap: NDArray[np.float64], wrong: NDArray[np.bool_]) -> tuple[float, float]:
    """Fit P[wrong] = 1 / (1 + exp(b gap - a)) by Newton's method; return a and b, b above 0.

    Two rows are added, a wrong one without gap and a right one with the largest: so that there is
    a maximum, and the probability falls, whatever the rows are.
    """
    finite = np.isfinite(gap)
    gap, wrong = gap[finite], wrong[finite]
    largest = max(float(gap.max(initial=0.0)), 1e-6)
    x = np.concatenate([gap, [0.0, largest]]) / largest
    y = np.concatenate([wrong, [True, False]]).astype(np.float64)
    a, b = 0.0, 1.0
    for _ in range(60):
        p = 1.0 / (1.0 + np.exp(np.clip(b * x - a, -50, 50)))
        slope = np.array([(y - p).sum() - 1e-3 * a, ((p - y) * x).sum() - 1e-3 * b])
        weight = p * (1.0 - p)
        curve = np.array(
            [
                [weight.sum() + 1e-3, -(weight * x).sum()],
                [-(weight * x).sum(), (weight * x * x).sum() + 1e-3],
            ]
        )
        step = np.linalg.solve(curve, slope)
        step *= min(1.0, 5.0 / max(1e-12, float(np.abs(step).max())))
        a, b = a + float(step[0]), max(1e-3, b + float(step[1]))
        if float(np.abs(step).max()) < 1e-6:
            break
    return a, b / largest


def _gap(a: float, b: float, risk: float) -> float:
    """Return the gap at which the probability of a wrong class is a risk, to three digits."""
    found = (a + float(np.log((1.0 - risk) / risk))) / b
    return float(f"{max(found, 0.0):.3g}")
