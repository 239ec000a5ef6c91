"""Latents that are nearly Gaussian, around means as far apart as they can be."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from deqcert.errors import ConfigError
from deqcert.options import number
from deqcert.training.objectives.base import Objective, TrainingBatch

SCALES = (0.1, 0.3, 1.0, 3.0, 10.0)
"""Widths of the kernel that tells latents from a Gaussian, over the distance of two draws of it."""


@dataclass(frozen=True)
class GaussianLatent(Objective):
    """Cross-entropy of a noisy copy, and latents drawn to the vertices of a simplex.

    With ``d_k = ||z - mu_k||^2 / 2`` for the latent z of the noisy copy: the cross-entropy of the
    model's own logits, plus ``weight`` times (the cross-entropy of ``-d_k``, in which the own
    distance counts ``1 + margin`` times, plus ``likelihood * d_y``), plus ``isotropy`` times how
    far the covariance within the classes of the batch is from a multiple of the identity, plus
    ``mmd`` times how well a kernel tells latents within their classes from a Gaussian. The means
    are fixed: mu_k is ``distance / sqrt(2)`` long and constant on the k-th part of the latent's
    elements, 0 elsewhere. So all are equally far apart, and a latent that comes out of a relu can
    reach them. For models that offer their latents; then fit a head with ``deqcert fit-latent``.

    Args:
        sigma: Standard deviation of the noise.
        distance: Between any two means.
        weight: Of the two terms about the means.
        margin: By how much more than its own distance counts an image must be nearer to its mean.
        likelihood: Of the own distance.
        isotropy: Of the covariance's distance from a multiple of the identity.
        mmd: Of the squared maximum mean discrepancy to a round Gaussian; with it classes of a batch
            need several images.

    **Source:** the loss is that of W. Wan, Y. Zhong, T. Li, J. Chen, "Rethinking Feature
    Distribution for Loss Functions in Image Classification" (2018), the means at a simplex those
    of T. Pang, C. Du, J. Zhu (2018), placed in the positive orthant; the discrepancy is A.
    Gretton's et al. (2012) with the kernel of I. Tolstikhin et al., "Wasserstein Auto-Encoders"
    (2018); the term for isotropy is ours.
    """

    distance: float = number(6.0, above=0.0, high=1e6)
    weight: float = number(1.0, low=0.0, high=1e6)
    margin: float = number(0.3, low=0.0, high=100.0)
    likelihood: float = number(0.1, low=0.0, high=1e6)
    isotropy: float = number(0.0, low=0.0, high=1e6)
    mmd: float = number(0.0, low=0.0, high=1e6)

    def loss(self, batch: TrainingBatch) -> Tensor:
        """Return the loss of a batch, a scalar.

        Raises:
            ConfigError: If the model does not say what its latents are, or has fewer of them than
                classes.
        """
        noisy = batch.x + self.noise(batch, 1)[0]
        logits = batch.forward(noisy)
        z = batch.latents(noisy)
        own = F.cross_entropy(logits, batch.y)
        means = vertices(logits.shape[1], z.shape[1], self.distance).to(z)
        apart = 0.5 * (z[:, None] - means).square().sum(dim=2)
        mine = apart.gather(1, batch.y[:, None])
        nearer = F.cross_entropy(
            -apart.scatter(1, batch.y[:, None], (1.0 + self.margin) * mine), batch.y
        )
        found = own + self.weight * (nearer + self.likelihood * mine.mean())
        if self.isotropy > 0.0:
            found = found + self.isotropy * anisotropy(z, batch.y, logits.shape[1])
        if self.mmd > 0.0:
            normal = torch.randn(z.shape, generator=batch.generator).to(z)
            found = found + self.mmd * discrepancy(z, batch.y, logits.shape[1], normal)
        return found


def vertices(classes: int, latents: int, distance: float) -> Tensor:
    """Return means with equal distances in the positive orthant, shape (K, m).

    Args:
        classes: K.
        latents: m, at least K.
        distance: Between any two.

    Raises:
        ConfigError: If there are more classes than elements of a latent.
    """
    if latents < classes:
        raise ConfigError(
            f"the model's latents have {latents} elements, but {classes} classes need as many; "
            "train a wider model."
        )
    parts = torch.tensor_split(torch.arange(latents), classes)
    found = torch.zeros(classes, latents)
    for k, part in enumerate(parts):
        found[k, part] = distance / (2.0 * len(part)) ** 0.5
    return found


def within(z: Tensor, y: Tensor, classes: int) -> Tensor:
    """Return latents, shape (B, m), minus the mean of their class in the batch."""
    member = F.one_hot(y, classes).to(z)
    counts = member.sum(dim=0).clamp_min(1.0)
    return z - (member.T @ z / counts[:, None])[y]


def anisotropy(z: Tensor, y: Tensor, classes: int) -> Tensor:
    """Return ||C / (tr C / m) - I||_F^2 / m^2 of the covariance C within classes, a scalar."""
    centred = within(z, y, classes)
    covariance = centred.T @ centred / len(z)
    size = covariance.diagonal().mean().clamp_min(1e-12)
    identity = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
    return (covariance / size - identity).square().mean()


def discrepancy(z: Tensor, y: Tensor, classes: int, normal: Tensor) -> Tensor:
    """Return the squared maximum mean discrepancy of latents within classes to a Gaussian.

    Latents are taken minus the mean of their class and over their root mean square, so that neither
    means nor scale count. The kernel is the mean of c / (c + ||a - b||^2) over c = 2 m times each
    of :data:`SCALES`.

    Args:
        z: Shape (B, m), B at least 2.
        y: Classes, shape (B,).
        classes: K.
        normal: Standard normal draws, shape (B, m).
    """
    centred = within(z, y, classes)
    centred = centred / centred.square().mean().clamp_min(1e-12).sqrt()
    others = 1.0 - torch.eye(len(z), dtype=z.dtype, device=z.device)

    def likeness(a: Tensor, b: Tensor) -> Tensor:
        # Not torch.cdist: its gradient is not a number where two rows are equal.
        apart = a.square().sum(1)[:, None] + b.square().sum(1) - 2.0 * a @ b.T
        sizes = [scale * 2.0 * z.shape[1] for scale in SCALES]
        return torch.stack([size / (size + apart.clamp_min(0.0)) for size in sizes]).mean(dim=0)

    pairs = others.sum()
    own = (likeness(centred, centred) * others).sum() / pairs
    theirs = (likeness(normal, normal) * others).sum() / pairs
    return own + theirs - 2.0 * likeness(centred, normal).mean()
