"""Certified accuracy as a mixture predicts it, and what labels and drift leave of it."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
import scipy.special
import scipy.stats
import scipy.stats.qmc
from numpy.typing import ArrayLike, NDArray

from deqcert.errors import ConfigError
from deqcert.latents.mixture import Mixture

Array = NDArray[np.float64]

DRAWS = 2**15
"""Quasi-random leads per class that a curve of three classes or more rests on, at most."""

NUMBERS = 2**22
"""Of which all leads of a class are made, so that many classes have fewer of them."""

HALVINGS = 80
"""Of the interval that a probability under drift lies in."""


def linear_accuracy(
    mixture: Mixture,
    rows: ArrayLike,
    offsets: ArrayLike,
    radii: Sequence[float],
    draws: int = DRAWS,
) -> Array:
    """Predict the certified accuracy of a linear head at latent radii.

    A latent z of class A is right with a latent radius of at least rho when
    (w_A - w_j)'z + b_A - b_j >= rho ||w_A - w_j|| for every other j. Under N(mu_A, S_A) that is a
    (K - 1)-variate normal probability, integrated by quasi-random numbers.

    Args:
        mixture: The law.
        rows: w, shape (K, m).
        offsets: b, shape (K,).
        radii: Latent radii, from 0.
        draws: Quasi-random leads per class, at most, a power of 2.

    Returns:
        Per radius a probability: exact for two classes, to about 1e-3 for up to a hundred.

    **Source:** for two classes Emmanouilidis et al. (2026); the multivariate form is elementary.
    """
    w, b = np.asarray(rows, dtype=np.float64), np.asarray(offsets, dtype=np.float64)
    found = np.zeros(len(radii))
    for k, prior in enumerate(mixture.priors):
        apart = np.delete(w[k] - w, k, axis=0)
        lead = apart @ mixture.means[k] + np.delete(b[k] - b, k)
        covariance = apart @ mixture.covariance(k) @ apart.T
        deviation = np.sqrt(np.diag(covariance))
        if not (deviation > 0.0).all():
            raise ConfigError("two classes of the head have the same scores; it cannot be used.")
        size = np.linalg.norm(apart, axis=1)
        if len(lead) == 1:
            found += prior * scipy.stats.norm.cdf((lead - np.array(radii) * size) / deviation)
            continue
        # Draws of the leads themselves: K - 1 numbers each, however long a latent is.
        values, vectors = np.linalg.eigh(covariance)
        root = vectors * np.sqrt(values.clip(min=0.0)) / size[:, None]
        reach = (_normals(len(lead), draws) @ root.T + lead / size).min(axis=1)
        found += prior * np.mean(reach[:, None] >= np.array(radii), axis=0)
    return np.clip(found, 0.0, 1.0)


@functools.cache
def _normals(numbers: int, draws: int) -> Array:
    """Return quasi-random standard normal numbers, shape (up to draws, numbers)."""
    while draws > 1 and draws * numbers > NUMBERS:
        draws //= 2
    made = scipy.stats.qmc.MultivariateNormalQMC(np.zeros(numbers), seed=0).random(draws)
    return np.asarray(made)


def simplex_accuracy(classes: int, distance: float, deviation: float, radius: float) -> float:
    """Predict the certified accuracy where the means are the vertices of a simplex.

    The integral over t of phi(t) Phi(sqrt(2) (D / 2 - rho) / s + t)^(K - 1).

    Args:
        classes: K.
        distance: D, between any two means.
        deviation: s, of every class in every direction.
        radius: Latent radius rho.
    """
    from scipy.integrate import quad

    shift = math.sqrt(2.0) * (distance / 2.0 - radius) / deviation
    normal = scipy.stats.norm
    value, _ = quad(lambda t: normal.pdf(t) * normal.cdf(shift + t) ** (classes - 1), -12.0, 12.0)
    return float(value)


def under_drift(probability: ArrayLike, kappa: float) -> Array:
    """Return how small the probability of an event can become within a divergence of kappa nats.

    kl^-(q, kappa) is the smallest p <= q with p ln(p/q) + (1-p) ln((1-p)/(1-q)) <= kappa. If an
    event has probability q under Q, and KL(P || Q) <= kappa for the joint law of all that the event
    depends on, it has at least kl^- under P (data processing). Never below q - sqrt(kappa / 2).

    Args:
        probability: q, any shape, in [0, 1].
        kappa: Divergence in nats, from 0.

    Returns:
        The same shape, rounded down.

    **Source:** the bound is the binary divergence's, as in J. Langford, M. Seeger (2001).
    """
    q = np.asarray(probability, dtype=np.float64)
    low, high = np.zeros_like(q), q.copy()
    for _ in range(HALVINGS):
        middle = (low + high) / 2.0
        within = _divergence(middle, q) <= kappa
        high = np.where(within, middle, high)
        low = np.where(within, low, middle)
    # `low` is outside of the divergence, or 0: at most what can be reached.
    return np.where(kappa > 0.0, low * (1.0 - 1e-12), q)


def _divergence(p: Array, q: Array) -> Array:
    return np.asarray(scipy.special.rel_entr(p, q) + scipy.special.rel_entr(1.0 - p, 1.0 - q))


def label_band(n: int, alpha: float) -> float:
    """Return by how much a certified-accuracy curve on n held-out labels may be too high.

    With probability 1 - alpha over the n inputs, drawn independently from the law that is asked
    about, the true curve is nowhere more than sqrt(ln(1 / alpha) / (2 n)) below the empirical one,
    for all radii at once.

    Args:
        n: Held-out inputs, none of which the head or a threshold was chosen by.
        alpha: In (0, 1), at most 1/2.

    **Source:** A. Dvoretzky, J. Kiefer, J. Wolfowitz (1956), with the constant of P. Massart
    (1990), one-sided.
    """
    if not 0.0 < alpha <= 0.5:
        raise ConfigError(f"alpha is {alpha}, but the band needs one above 0 and at most 0.5.")
    return math.sqrt(math.log(1.0 / alpha) / (2.0 * n))
