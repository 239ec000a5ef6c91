"""A Gaussian per class, fitted to latents; NumPy, SciPy and scikit-learn only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike, NDArray

from deqcert.errors import ConfigError, DataError

Array = NDArray[np.float64]

WORST_CONDITION = 1e10
"""Largest ratio of a covariance's eigenvalues that is inverted in float64."""


@dataclass(frozen=True)
class Mixture:
    """A law of latents and classes: class k with probability pi_k, then N(mu_k, S_k).

    Attributes:
        means: mu, shape (K, m).
        covariances: S, shape (K, m, m), or (1, m, m) where all classes share one.
        priors: pi, shape (K,), positive, with sum 1.
    """

    means: Array
    covariances: Array
    priors: Array

    @property
    def shared(self) -> bool:
        """Whether all classes have one covariance."""
        return len(self.covariances) == 1

    def covariance(self, k: int) -> Array:
        """Return the covariance of a class, shape (m, m)."""
        found: Array = self.covariances[0 if self.shared else k]
        return found

    def sample(self, n: int, seed: int) -> tuple[Array, NDArray[np.int64]]:
        """Draw latents, shape (n, m), and their classes, shape (n,)."""
        draw = np.random.default_rng(seed)
        y = draw.choice(len(self.means), size=n, p=self.priors)
        z = draw.standard_normal((n, self.means.shape[1]))
        for k in range(len(self.means)):
            rows = y == k
            z[rows] = self.means[k] + z[rows] @ np.linalg.cholesky(self.covariance(k)).T
        return z, y

    def log_density(self, z: ArrayLike) -> Array:
        """Return ln pi_k + ln N(z; mu_k, S_k) of latents, shape (n, m) to (n, K)."""
        rows = np.asarray(z, dtype=np.float64)
        found = np.empty((len(rows), len(self.means)))
        for k, mean in enumerate(self.means):
            root = np.linalg.cholesky(self.covariance(k))
            whitened = scipy.linalg.solve_triangular(root, (rows - mean).T, lower=True)
            constant = len(mean) * np.log(2.0 * np.pi) + 2.0 * np.log(np.diag(root)).sum()
            found[:, k] = np.log(self.priors[k]) - 0.5 * (
                constant + np.square(whitened).sum(axis=0)
            )
        return found


def divergence(law: Mixture, fitted: Mixture) -> float:
    """Return KL(law || fitted) of latent and class together, in nats, in closed form.

    The sum over classes of pi_k (ln(pi_k / pi'_k) + KL(N(mu_k, S_k) || N(mu'_k, S'_k))).

    Args:
        law: The true law.
        fitted: Another one, of as many classes and elements.
    """
    total, size = 0.0, law.means.shape[1]
    for k, prior in enumerate(law.priors):
        mine, root = law.covariance(k), np.linalg.cholesky(fitted.covariance(k))
        whitened = scipy.linalg.solve_triangular(root, np.linalg.cholesky(mine), lower=True)
        apart = scipy.linalg.solve_triangular(root, fitted.means[k] - law.means[k], lower=True)
        volumes = -2.0 * np.log(np.abs(np.diag(whitened))).sum()
        gaussian = 0.5 * (np.square(whitened).sum() - size + np.square(apart).sum() + volumes)
        total += prior * (np.log(prior / fitted.priors[k]) + gaussian)
    return float(total)


def fit_mixture(
    z: ArrayLike, y: ArrayLike, *, shared: bool, shrinkage: float | None = None
) -> Mixture:
    """Fit a mixture to labelled latents.

    Args:
        z: Latents, shape (n, m).
        y: Classes from 0, shape (n,).
        shared: Whether all classes have one covariance, the mean of theirs weighted by size.
        shrinkage: Weight from 0 to 1 of a multiple of the identity with the same trace; None finds
            it by the formula of Ledoit and Wolf (2004).

    Raises:
        DataError: If a class has fewer than two latents, or one is not finite.
        ConfigError: If a covariance cannot be inverted; the remedy is more shrinkage.
    """
    from sklearn.covariance import ledoit_wolf, shrunk_covariance

    latents, classes = np.asarray(z, dtype=np.float64), np.asarray(y, dtype=np.int64)
    if not np.isfinite(latents).all():
        raise DataError("some latents are not finite; the model does not converge on those images.")
    counts = np.bincount(classes)
    if len(counts) < 2:
        raise DataError("all latents are of class 0; a head needs those of two classes or more.")
    if counts.min() < 2:
        scarce = int(np.argmin(counts))
        raise DataError(
            f"class {scarce} has fewer than two images to fit a Gaussian to; give more images."
        )
    means = np.stack([latents[classes == k].mean(axis=0) for k in range(len(counts))])
    centred = latents - means[classes]
    groups = [centred] if shared else [centred[classes == k] for k in range(len(counts))]
    covariances = []
    for group in groups:
        if shrinkage is None:
            found, _ = ledoit_wolf(group, assume_centered=True)
        else:
            found = shrunk_covariance(group.T @ group / len(group), shrinkage)
        eigenvalues = np.linalg.eigvalsh(found)
        if not eigenvalues[0] * WORST_CONDITION > eigenvalues[-1]:
            raise ConfigError(
                "a covariance of the latents cannot be inverted (some of their directions hardly "
                "vary); give a larger shrinkage, as in --shrinkage 0.1, or a model that is trained."
            )
        covariances.append((found + found.T) / 2.0)
    return Mixture(means, np.stack(covariances), counts / counts.sum())
