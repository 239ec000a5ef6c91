"""What a perturbation can do to a probability under Gaussian noise."""

from __future__ import annotations

import math

import numpy as np
from scipy import special

SAFE = 1e-9
"""Share that is given away for the rounding of SciPy's quantiles."""


def steps(radius: float, sigma: float) -> float:
    """Return radius over sigma, rounded up; noise is scaled by a float32 near sigma."""
    if radius == 0.0:
        return 0.0
    return radius / min(sigma, float(np.float32(sigma))) * (1.0 + SAFE)


def shifted(p: float, radius: float, sigma: float) -> float:
    """Return the least that a probability can become: Phi(Phi^-1(p) - radius/sigma).

    Args:
        p: Probability of an event under noise around the clean input.
        radius: l2 size of the perturbation, at least 0.
        sigma: Standard deviation of the noise, above 0.

    **Guarantee:** an event of probability at least p under N(x, sigma^2 I) has at least this one
    under N(x + d, sigma^2 I) for every ||d|| <= radius. Rounded down.

    **Source:** Neyman and Pearson; J. Cohen, E. Rosenfeld, J. Z. Kolter (2019).
    """
    if radius == 0.0:
        return p
    if not p > 0.0:
        return 0.0
    return float(special.ndtr(special.ndtri(p) - steps(radius, sigma))) * (1.0 - SAFE)


def clean_level(alpha: float, radius: float, sigma: float) -> float:
    """Return how seldom to miss clean inputs so as to miss attacked ones at most at rate alpha.

    1 - alpha' = Phi(Phi^-1(1 - alpha) + radius/sigma), in small numbers
    alpha' = Phi(Phi^-1(alpha) - radius/sigma), rounded down.
    """
    return shifted(alpha, radius, sigma) if math.isfinite(radius) else 0.0
