"""Gaussian noise as a pure function of (seed, index, stage, sample, element)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deqcert import kernels
from deqcert.errors import ConfigError
from deqcert.smoothing.seed import BITS, noise_key

LIMIT = 2**32
"""Index, stage and sample indices are 32-bit counters of the generator."""


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
) -> Tensor:
    """Return x + sigma * noise for the given sample indices.

    Args:
        x: One input, shape (C, H, W), float32, in [0, 1]; noisy copies are not clipped.
        samples: Indices of the samples, shape (b,), 0 to 2^32 - 1.
        sigma: Standard deviation, in input units.
        seed: Seed of the run; see :func:`deqcert.smoothing.seed.noise_key`.
        index: Index of the input in its data set.
        stage: What the samples are for; different stages never share noise.

    Returns:
        Shape (b, C, H, W), float32. A row depends on its own sample index alone.

    **Source:** Philox-4x32-10 of J. Salmon, M. Moraes, R. Dror, D. Shaw (2011); see
    :func:`deqcert.kernels.philox_normal`.
    """
    out = torch.empty((len(samples), x.numel()), dtype=torch.float32, device=x.device)
    key = noise_key(seed, index, stage)
    # One call per run of consecutive indices: a plain range is a single call.
    breaks = np.flatnonzero(np.diff(samples) != 1) + 1
    for run in np.split(np.arange(len(samples)), breaks):
        if run.size:
            kernels.philox_normal(
                out[run[0] : run[-1] + 1],
                seed=key,
                index=index,
                stage=stage,
                first=int(samples[run[0]]),
            )
    return out.mul_(sigma).add_(x.reshape(1, -1)).view(len(samples), *x.shape)
