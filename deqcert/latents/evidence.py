"""How nearly a mixture is the law of held-out latents: tests and estimates, none a bound."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
import scipy.spatial.distance
import scipy.stats
from numpy.typing import ArrayLike, NDArray

from deqcert.latents.mixture import Mixture

Array = NDArray[np.float64]

MOST = 300
"""Latents of a class that a two-sample test looks at."""

PERMUTATIONS = 200
"""Orders that the two-sample test's p-value rests on."""

COMPONENTS = (1, 2, 4)
"""Sizes of the flexible density that the gap is estimated against."""

METHOD = (
    "mean log density ratio of Gaussian mixtures per class to the fit, on held-out latents, in all "
    "directions or in those that part the classes, whichever is larger"
)


@dataclass(frozen=True)
class Normality:
    """Evidence for one class against its latents being Gaussian; small p-values speak against.

    Attributes:
        n: Held-out latents.
        skewness: Mardia's p-value for the skewness; NaN for no more latents than dimensions.
        kurtosis: Mardia's p-value for the kurtosis.
        excess: Mean excess kurtosis of the whitened directions; 0 for a Gaussian.
        two_sample: p-value of the energy distance to as many samples of the fit, by permutation.
    """

    n: int
    skewness: float
    kurtosis: float
    excess: float
    two_sample: float


def normality(z: ArrayLike, mean: Array, covariance: Array, seed: int = 0) -> Normality:
    """Test whether latents of one class are Gaussian with the fitted mean and covariance.

    Args:
        z: Held-out latents, shape (n, m).
        mean: Shape (m,).
        covariance: Shape (m, m).
        seed: Of the samples and the permutations.

    **Source:** K. V. Mardia (1970); G. J. Szekely, M. L. Rizzo (2004) for the energy distance.
    """
    rows = np.asarray(z, dtype=np.float64)
    n, m = rows.shape
    root = np.linalg.cholesky(covariance)
    white = scipy.linalg.solve_triangular(root, (rows - mean).T, lower=True).T
    # Mardia's statistics are of the sample itself: its own mean and covariance.
    own = rows - rows.mean(axis=0)
    skewness = kurtosis = float("nan")
    if n > m + 1:
        inner = own @ np.linalg.pinv(own.T @ own / n) @ own.T
        beta1, beta2 = float(np.mean(inner**3)), float(np.mean(np.diag(inner) ** 2))
        freedom = m * (m + 1) * (m + 2) / 6.0
        skewness = float(scipy.stats.chi2.sf(n * beta1 / 6.0, freedom))
        spread = np.sqrt(8.0 * m * (m + 2) / n)
        kurtosis = float(2.0 * scipy.stats.norm.sf(abs(beta2 - m * (m + 2)) / spread))
    varying = white[:, white.std(axis=0) > 1e-6]
    excess = float("nan")
    if n > 3 and varying.shape[1]:
        excess = float(np.mean(scipy.stats.kurtosis(varying, axis=0)))
    draw = np.random.default_rng(seed)
    taken = white[draw.permutation(n)[:MOST]]
    other = draw.standard_normal(taken.shape)
    return Normality(n, skewness, kurtosis, excess, _energy_test(taken, other, draw))


def _energy_test(a: Array, b: Array, draw: np.random.Generator) -> float:
    """Return the permutation p-value of the energy distance between two samples of one size."""
    distances = scipy.spatial.distance.squareform(scipy.spatial.distance.pdist(np.vstack((a, b))))
    n = len(a)

    def energy(order: NDArray[np.int64]) -> float:
        first, second = order[:n], order[n:]
        between = distances[np.ix_(first, second)].mean()
        within = distances[np.ix_(first, first)].mean() + distances[np.ix_(second, second)].mean()
        return float(2.0 * between - within)

    found = energy(np.arange(2 * n))
    larger = sum(energy(draw.permutation(2 * n)) >= found for _ in range(PERMUTATIONS))
    return (1 + larger) / (1 + PERMUTATIONS)


def estimate_gap(
    fitted: Mixture, z: ArrayLike, y: ArrayLike, held: ArrayLike, held_y: ArrayLike
) -> float:
    """Estimate KL(P || mixture) of latents and classes, in nats; :data:`METHOD` says how.

    A density that is flexible (per class the best of a few Gaussian mixtures, by BIC) is fitted to
    the latents that the mixture was fitted to, and the mean of its log ratio to the mixture is
    taken on held-out ones. The true divergence is that plus what the flexible density misses, so
    this is an estimate from below, and **no bound of anything**: from samples alone the divergence
    cannot be bounded from above.

    Args:
        fitted: The mixture.
        z: Latents that it was fitted to, shape (n, m).
        y: Their classes, shape (n,).
        held: Held-out latents, shape (n', m).
        held_y: Their classes, shape (n',).

    Returns:
        The estimate, at least 0.
    """
    latents, classes = np.asarray(z, dtype=np.float64), np.asarray(y)
    others, truth = np.asarray(held, dtype=np.float64), np.asarray(held_y)
    found = _gap(fitted, latents, classes, others, truth)
    if len(fitted.means) <= latents.shape[1]:
        some, basis = _discriminants(fitted)
        found = max(found, _gap(some, latents @ basis, classes, others @ basis, truth))
    return max(0.0, found)


def _discriminants(fitted: Mixture) -> tuple[Mixture, Array]:
    """Return a mixture in the K - 1 directions that part its classes, and these, (m, K - 1)."""
    pooled = np.einsum(
        "k,kij->ij", fitted.priors, [fitted.covariance(k) for k in range(len(fitted.means))]
    )
    apart = np.linalg.solve(pooled, (fitted.means[1:] - fitted.means[0]).T)
    basis, _ = np.linalg.qr(apart)
    covariances = np.stack([basis.T @ one @ basis for one in fitted.covariances])
    return Mixture(fitted.means @ basis, covariances, fitted.priors), basis


def _gap(
    fitted: Mixture,
    latents: Array,
    classes: NDArray[np.int64],
    others: Array,
    truth: NDArray[np.int64],
) -> float:
    """Return the mean log density ratio on the others, which may be below 0."""
    from sklearn.mixture import GaussianMixture

    ratio, density = np.zeros(len(others)), fitted.log_density(others)
    for k in range(len(fitted.means)):
        mine, rows = latents[classes == k], truth == k
        ridge = 1e-3 * float(np.trace(fitted.covariance(k))) / latents.shape[1]
        tried = [
            GaussianMixture(size, covariance_type="full", reg_covar=ridge, random_state=0).fit(mine)
            for size in COMPONENTS
            if size * 2 * latents.shape[1] <= len(mine) or size == 1
        ]
        best = min(tried, key=lambda law: law.bic(mine))
        if rows.any():
            flexible = best.score_samples(others[rows]) + np.log(fitted.priors[k])
            ratio[rows] = flexible - density[rows, k]
    return float(ratio.mean())
