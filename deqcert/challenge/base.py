"""The base classifier at given points, exactly as it classifies noisy copies."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deqcert.smoothing import NOBODY, Predictor, SmoothingEngine
from deqcert.smoothing.stream import solve_stream
from deqcert.solvers import Status

GRID = 16
"""Points of a segment that are looked at in each of two rounds."""


def base_classes(
    engine: SmoothingEngine, predictor: Predictor, points: Tensor
) -> NDArray[np.int16]:
    """Classify points without noise.

    Args:
        engine: The engine of the certificate.
        predictor: The base classifier; its start is independent.
        points: Shape (B, C, H, W).

    Returns:
        Class of each point, shape (B,); -1 where the solve ends in no class.
    """
    found = np.full(len(points), NOBODY, dtype=np.int16)

    def blocks() -> Iterator[tuple[NDArray[np.int64], Tensor]]:
        for first in range(0, len(points), engine.batch):
            part = points[first : first + engine.batch].to(engine.device, engine.dtype)
            samples = np.arange(first, first + len(part), dtype=np.int64)
            yield samples, engine.model.inject(part)

    with torch.no_grad():
        for solved in solve_stream(engine.model, predictor, blocks(), engine.batch):
            result = solved.result
            usable = result.converged
            if predictor.stop.fixed_depth:
                usable = result.status != Status.NONFINITE
            logits = solved.logits
            if logits is None:
                logits = engine.model.readout(result.z)
            usable = usable & torch.isfinite(logits).all(dim=1)
            classes = torch.where(usable, logits.argmax(dim=1), NOBODY)
            found[solved.samples] = classes.cpu().numpy().astype(np.int16)
    return found


def base_distance(
    engine: SmoothingEngine, predictor: Predictor, x: Tensor, own: int, points: Tensor
) -> float:
    """Return the smallest norm at which the base classifier was seen to answer another class.

    It is looked for on the segments from the image to each point.

    Args:
        engine: The engine of the certificate.
        predictor: The base classifier.
        x: The image, shape (C, H, W).
        own: Its class there.
        points: Shape (B, C, H, W).

    Returns:
        The l2 norm, infinite where no other class was seen.
    """
    way = points.double() - x.double()
    low, high = torch.zeros(len(points), dtype=torch.float64), torch.ones(len(points)).double()
    best = float("inf")
    for _ in range(2):
        shares = torch.linspace(0, 1, GRID + 1, dtype=torch.float64)[1:]
        at = low[:, None] + (high - low)[:, None] * shares  # (B, GRID)
        tried = (x.double() + at[:, :, None, None, None] * way[:, None]).flatten(0, 1).to(x.dtype)
        classes = base_classes(engine, predictor, tried).reshape(at.shape)
        other = torch.from_numpy((classes != own) & (classes != NOBODY))
        norms = (tried.double() - x.double()).flatten(1).norm(dim=1).reshape(at.shape)
        best = min(best, float(torch.where(other, norms, torch.inf).min()))
        # Between the first point of another class and the one before it.
        seen, first = other.any(dim=1), other.int().argmax(dim=1)
        if not bool(seen.any()):
            break
        way, at, first, low, high = (part[seen] for part in (way, at, first, low, high))
        rows = torch.arange(len(at))
        low = torch.where(first > 0, at[rows, (first - 1).clamp(min=0)], low)
        high = at[rows, first]
    return best
