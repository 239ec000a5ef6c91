"""From a mixture to the classifier that is certified: linear or quadratic scores."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from deqcert.errors import ConfigError
from deqcert.latents.mixture import Mixture
from deqcert.latents.names import HEADS
from deqcert.latents.prediction import linear_accuracy
from deqcert.models.quadratic import Quadratics

CHOOSING = 2**12
"""Draws that a head is chosen by, the same for all heads, so that their differences are small."""

RIDGES = 25
"""Ridges that a robust head is chosen from."""

CONSTANT = 1.01
"""A head must be so many times as good as a constant answer; less is the prediction's own error."""


def fit_head(name: str, mixture: Mixture, radius: float = 0.0) -> Quadratics:
    """Return the scores of a head, in float32 numbers.

    Args:
        name: "lda", the Bayes classifier under a shared covariance; "qda", that under one
            covariance per class; or "robust-lda", the best linear head for a radius.
        mixture: With a shared covariance for the linear heads, with one per class for "qda".
        radius: Latent radius that "robust-lda" is the best for.

    Raises:
        ConfigError: If there is no such head, or none that holds the radius.
    """
    if name == "lda":
        return linear_head(*lda(mixture))
    if name == "robust-lda":
        return linear_head(*robust_lda(mixture, radius)[:2])
    if name == "qda":
        return qda(mixture)
    raise ConfigError(f"there is no head '{name}'; there are {', '.join(HEADS)}.")


def lda(mixture: Mixture, ridge: float = 0.0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return rows w and offsets b of s_k(z) = w_k'z + b_k under the shared covariance S.

    w_k = (S + ridge I)^-1 mu_k and b_k = -mu_k' w_k / 2 + ln pi_k, with the mean of all classes
    taken as origin of mu.
    """
    size = mixture.means.shape[1]
    origin = mixture.priors @ mixture.means
    centred = mixture.means - origin
    ridged = mixture.covariance(0) + ridge * np.eye(size)
    rows = np.asarray(np.linalg.solve(ridged, centred.T).T, dtype=np.float64)
    offsets = np.log(mixture.priors) - 0.5 * (centred * rows).sum(axis=1) - rows @ origin
    return rows, offsets


def robust_lda(
    mixture: Mixture, radius: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Return the linear head with the largest certified accuracy at a latent radius, and its ridge.

    For two classes at +-mu the best direction is S^-1 (mu - z*) with z* = (S^-1 + l I)^-1 S^-1 mu
    and l such that ||z*|| is the radius. That is a multiple of (S + I / l)^-1 mu: LDA with a ridge.
    For more classes it is the ridge whose head the mixture predicts the largest certified accuracy
    for; the scale of the head, which the offsets' priors need, is that of LDA.

    Args:
        mixture: With a shared covariance.
        radius: Latent radius, from 0.

    Raises:
        ConfigError: If no head holds the radius better than one that always answers one class.

    **Source:** for two classes it is the robust linear classifier of a known Gaussian law (H.
    Dobriban, H. Hassani, D. Hong, A. Robey 2020); the rule for more classes is ours.
    """
    scale = float(np.trace(mixture.covariance(0))) / mixture.means.shape[1]
    ridges = [0.0, *(scale * np.logspace(-3.0, 4.0, RIDGES - 1))]
    heads = [(*lda(mixture, ridge), ridge) for ridge in ridges]
    shares = [
        float(linear_accuracy(mixture, *head[:2], [radius], draws=CHOOSING)[0]) for head in heads
    ]
    best = int(np.argmax(shares))
    if shares[best] <= CONSTANT * float(mixture.priors.max()):
        raise ConfigError(
            f"at a latent radius of {radius:g} no linear head is better than one that always "
            "answers the same class; give a smaller reach."
        )
    return heads[best]


def linear_head(rows: NDArray[np.float64], offsets: NDArray[np.float64]) -> Quadratics:
    """Return linear scores, rounded to float32 numbers."""
    linear = _rounded(rows)
    return Quadratics(torch.zeros_like(linear), None, linear, _rounded(offsets))


def qda(mixture: Mixture) -> Quadratics:
    """Return s_k(z) = 2 ln pi_k - ln det S_k - (z - mu_k)' S_k^-1 (z - mu_k), rounded likewise."""
    means, precisions, offsets = [], [], []
    for k, mean in enumerate(mixture.means):
        precision = np.linalg.inv(mixture.covariance(k))
        means.append(mean)
        precisions.append((precision + precision.T) / 2.0)
        _, logarithm = np.linalg.slogdet(mixture.covariance(k))
        offsets.append(2.0 * np.log(mixture.priors[k]) - logarithm)
    rounded = _rounded(np.stack(means))
    return Quadratics(
        rounded, _rounded(np.stack(precisions)), torch.zeros_like(rounded), _rounded(offsets)
    )


def _rounded(values: object) -> torch.Tensor:
    """Return numbers of float32, in which checkpoints are stored, as float64."""
    return torch.from_numpy(np.asarray(values, dtype=np.float32)).double()
