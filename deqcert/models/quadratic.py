"""Scores of a Gaussian head: a quadratic per class, the shared covariance as a special case."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deqcert.errors import ConfigError


@dataclass(frozen=True)
class Quadratics:
    """s_i(z) = b_i + c_i'z - (z - mu_i)' P_i (z - mu_i), as exact real numbers.

    Args:
        means: mu, shape (K, m), float64.
        precisions: P, shape (K, m, m), float64, symmetric; None where no class has a quadratic
            part, as under a shared covariance.
        linear: c, shape (K, m), float64.
        offsets: b, shape (K,), float64.

    Raises:
        ConfigError: If shapes do not fit, a value is not finite, or a precision is not symmetric.
    """

    means: Tensor
    precisions: Tensor | None
    linear: Tensor
    offsets: Tensor

    def __post_init__(self) -> None:
        classes, size = self.means.shape
        wanted = {"linear": (classes, size), "offsets": (classes,), "means": (classes, size)}
        if self.precisions is not None:
            wanted["precisions"] = (classes, size, size)
            if not torch.equal(self.precisions, self.precisions.mT):
                raise ConfigError("a head's precisions must be symmetric matrices.")
        for name, shape in wanted.items():
            value = getattr(self, name)
            if tuple(value.shape) != shape or value.dtype != torch.float64:
                raise ConfigError(f"a head's {name} must be float64 of shape {shape}.")
            if not bool(torch.isfinite(value).all()):
                raise ConfigError(f"a head's {name} hold values that are not finite.")

    def scores(self, z: Tensor) -> Tensor:
        """Return the scores of latents, shape (B, m) to (B, K); the largest is the class."""
        found = self.offsets + z @ self.linear.T
        if self.precisions is not None:
            away = z[:, None] - self.means
            found = found - torch.einsum("bki,kij,bkj->bk", away, self.precisions, away)
        return found
