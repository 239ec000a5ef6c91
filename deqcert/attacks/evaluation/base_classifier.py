"""The base classifier at given points, exactly as it classifies noisy copies."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deqcert.smoothing import NO_VOTE, Predictor, SmoothingEngine
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
        Class per point, shape (B,); -1 where the solve ends in no class.
    """
    found = np.full(len(points), NO_VOTE, dtype=np.int16)

    def blocks() -> Iterator[tuple[NDArray[np.int64], Tensor]]:
        for first in range(0, len(points), engine.batch):
            part = engine.seen(points[first : first + engine.batch].to(engine.device))
            samples = np.arange(first, first + len(part), dtype=np.int64)
            yield samples, engine.model.inject(part.to(engine.dtype))

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
            classes = torch.where(usable, logits.argmax(dim=1), NO_VOTE)
            found[solved.samples] = classes.cpu().numpy().astype(np.int16)
    return found


def base_distances(
    engine: SmoothingEngine,
    predictor: Predictor,
    x: Tensor,
    own: NDArray[np.int16],
    points: Tensor,
) -> list[float]:
    """Return the smallest norm at which the base classifier was seen to answer another class.

    It is looked for on the segments from each image to each of its points.

    Args:
        engine: The engine of the certificate.
        predictor: The base classifier.
        x: Images, shape (N, C, H, W).
        own: The base classifier's class per image, shape (N,).
        points: Points per image, shape (N, P, C, H, W).

    Returns:
        An l2 norm per image, infinite where no other class was seen.
    """
    each = points.shape[1]
    start = x.double().repeat_interleave(each, dim=0)
    way = points.double().flatten(0, 1) - start
    classes = torch.from_numpy(own.astype(np.int64)).repeat_interleave(each)
    image = torch.arange(len(x)).repeat_interleave(each)
    best = torch.full((len(x),), torch.inf, dtype=torch.float64)
    low, high = torch.zeros(len(way)).double(), torch.ones(len(way)).double()
    shares = torch.linspace(0, 1, GRID + 1, dtype=torch.float64)[1:]
    for _ in range(2):
        at = low[:, None] + (high - low)[:, None] * shares  # (segments, GRID)
        tried = start[:, None] + at[:, :, None, None, None] * way[:, None]
        found = torch.from_numpy(base_classes(engine, predictor, tried.flatten(0, 1).to(x.dtype)))
        found = found.view(at.shape)
        other = (found != classes[:, None]) & (found != NO_VOTE)
        norms = (tried.to(x.dtype).double() - start[:, None]).flatten(2).norm(dim=2)
        nearest = torch.where(other, norms, torch.inf).amin(dim=1)
        best = best.scatter_reduce(0, image, nearest, "amin")
        # Between the first point of another class and the one before it.
        seen, first = other.any(dim=1), other.int().argmax(dim=1)
        if not bool(seen.any()):
            break
        rows = torch.arange(len(at))
        low = torch.where(first > 0, at[rows, (first - 1).clamp(min=0)], low)[seen]
        high = at[rows, first][seen]
        start, way, classes, image = (part[seen] for part in (start, way, classes, image))
    return [float(norm) for norm in best]
