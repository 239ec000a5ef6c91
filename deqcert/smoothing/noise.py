"""Gaussian noise as a pure function of (seed, index, stage, sample, element): float or exact."""

from __future__ import annotations

import functools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deqcert import kernels
from deqcert.errors import ConfigError, DataError
from deqcert.smoothing.grid import grid_law
from deqcert.smoothing.seed import BITS, noise_key

LIMIT = 2**32
"""Index, stage and sample indices are 32-bit counters of the generator."""

ROUNDING = 2.0**-23
"""How far a float32 pixel may be from the grid point that it stands for: one step of it below 1."""


def check_counters(*, seed: int, index: int, stage: int) -> None:
    """Refuse counters that the generator cannot hold.

    Args:
        seed: Seed of the run, 0 to 2^128 - 1.
        index: Index of the input, 0 to 2^32 - 1.
        stage: What the samples are for, 0 to 2^32 - 1.

    Raises:
        ConfigError: If the seed is not in [0, 2^128), or index or stage not in [0, 2^32).
    """
    for name, value, limit in (("seed", seed, 2**BITS), ("index", index, LIMIT)):
        if not 0 <= value < limit:
            raise ConfigError(f"{name} is {value}, but it must be from 0 to {limit - 1}.")
    if not 0 <= stage < LIMIT:
        raise ConfigError(f"stage is {stage}, but it must be from 0 to {LIMIT - 1}.")


def noisy_copies(
    x: Tensor,
    samples: NDArray[np.int64],
    *,
    sigma: float,
    seed: int,
    index: int,
    stage: int,
    levels: int | None = None,
) -> Tensor:
    """Return noisy copies of an input for the given sample indices.

    Float noise is ``x + sigma * n`` in float32 numbers, whose last bits tell about x. Exact noise
    is g(x + sigma * n) for real Gaussian n, where g rounds to the input's grid and clips: it is
    drawn from the law of :class:`deqcert.smoothing.grid.GridLaw`, in integers.

    Args:
        x: One input, shape (C, H, W), float32, in [0, 1]; noisy copies are not clipped
            by float noise.
        samples: Indices of the samples, shape (b,), 0 to 2^32 - 1.
        sigma: Standard deviation, in input units.
        seed: Seed of the run; see :func:`deqcert.smoothing.seed.noise_key`.
        index: Index of the input in its data set.
        stage: What the samples are for; different stages never share noise.
        levels: L for exact noise on the grid 0, 1/L, ..., 1 that x lies on; None for float noise.

    Returns:
        Shape (b, C, H, W), float32. A row depends on its own sample index alone.

    Raises:
        ConfigError: If there are no tables for so fine a grid or so large a sigma.
        DataError: If x does not lie on the grid.

    **Source:** Philox-4x32-10 of J. Salmon, M. Moraes, R. Dror, D. Shaw (2011); see
    :func:`deqcert.kernels.philox_normal` and :func:`deqcert.kernels.philox_grid`.
    """
    out = torch.empty((len(samples), x.numel()), dtype=torch.float32, device=x.device)
    place = {"seed": noise_key(seed, index, stage), "index": index, "stage": stage}
    if levels is not None:
        points = grid_points(x, levels).flatten()
        table = _table(levels, sigma, x.device)
    # One call per run of consecutive indices: a plain range is a single call.
    breaks = np.flatnonzero(np.diff(samples) != 1) + 1
    for run in np.split(np.arange(len(samples)), breaks):
        if not run.size:
            continue
        part, first = out[run[0] : run[-1] + 1], int(samples[run[0]])
        if levels is None:
            kernels.philox_normal(part, **place, first=first)
        else:
            kernels.philox_grid(part, points, table, **place, first=first)
    if levels is not None:
        return out.view(len(samples), *x.shape)
    return out.mul_(sigma).add_(x.reshape(1, -1)).view(len(samples), *x.shape)


def grid_points(x: Tensor, levels: int) -> Tensor:
    """Return the grid points that pixels stand for, in steps of the grid, int32.

    Args:
        x: Pixels, any shape.
        levels: L, steps between 0 and 1.

    Raises:
        DataError: If one is not within float32 rounding of a grid point in [0, 1].
    """
    steps = x.double() * levels
    nearest = steps.round()
    off = (steps - nearest).abs()
    if bool((~(off <= ROUNDING * levels) | (nearest < 0) | (nearest > levels)).any()):
        raise DataError(
            f"the image has values besides 0, 1/{levels}, ..., 1, which exact noise needs; "
            "give images on that grid, another number of levels, or noise float."
        )
    return nearest.int()


def on_grid(x: Tensor, levels: int) -> Tensor:
    """Return the grid points nearest to pixels, as the floats that exact noise is made of.

    Args:
        x: Pixels in [0, 1], any shape.
        levels: L, steps between 0 and 1.
    """
    return (x.double() * levels).round().float() / levels


def describe_noise(levels: int | None, sigma: float, charge: float = 0.0) -> str:
    """Say in words what noise a statement is about, and what it assumes of it.

    Args:
        levels: Steps of the grid of exact noise; None for float noise.
        sigma: Standard deviation, in input units.
        charge: Part of alpha that pays for the draw, where some does.
    """
    if levels is None:
        return (
            "noise float: takes x + sigma n in float32 numbers for real Gaussian noise, that is, "
            "assumes that the model does not read the image out of their last bits, and leaves out "
            "what lies beyond 6.76 sigma (1.4e-11 of the law of a value)"
        )
    law = grid_law(levels, sigma)
    paid = f"; {charge:.1e} of alpha pays for drawing 60 bits a value" if charge else ""
    return (
        f"noise exact: the classifier rounds its noisy input to multiples of 1/{levels} and clips "
        f"it to [{law.low // levels}, {law.high // levels}]{paid}"
    )


@functools.lru_cache(maxsize=8)
def _table(levels: int, sigma: float, device: torch.device) -> kernels.GridTable:
    law = grid_law(levels, sigma)
    values = np.arange(law.low, law.high + 1, dtype=np.float32) / np.float32(levels)
    return kernels.GridTable.of(
        law.thresholds, lowest=law.lowest, low=law.low, values=values, device=device
    )
