"""Readouts of latents that are given, not trained: linear scores, and quadratic ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deqcert.models.quadratic import Quadratics

HEAD_KINDS = ("linear", "quadratic")
"""What a head computes: c_k'z + b_k, or b_k - (z - mu_k)' P_k (z - mu_k)."""


class LinearHead(nn.Module):
    """c_k'z + b_k.

    Args:
        latents: Elements of a latent.
        classes: Number of classes.
    """

    def __init__(self, latents: int, classes: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(classes, latents))
        self.register_buffer("bias", torch.zeros(classes))
        self.weight: Tensor
        self.bias: Tensor

    def forward(self, z: Tensor) -> Tensor:
        """Map latents, shape (B, m), to scores, shape (B, K)."""
        return nn.functional.linear(z, self.weight, self.bias)

    def scores(self) -> Quadratics:
        """Return the head's numbers in float64."""
        weight = self.weight.detach().double().cpu()
        bias = self.bias.detach().double().cpu()
        return Quadratics(torch.zeros_like(weight), None, weight, bias)

    def take(self, scores: Quadratics) -> None:
        """Take the numbers of another head.

        Args:
            scores: Of the same sizes, without quadratic parts.
        """
        self.weight.copy_(scores.linear)
        self.bias.copy_(scores.offsets)


class QuadraticHead(nn.Module):
    """b_k - (z - mu_k)' P_k (z - mu_k).

    Args:
        latents: Elements of a latent.
        classes: Number of classes.
    """

    def __init__(self, latents: int, classes: int) -> None:
        super().__init__()
        self.register_buffer("means", torch.zeros(classes, latents))
        self.register_buffer("precisions", torch.zeros(classes, latents, latents))
        self.register_buffer("bias", torch.zeros(classes))
        self.means: Tensor
        self.precisions: Tensor
        self.bias: Tensor

    def forward(self, z: Tensor) -> Tensor:
        """Map latents, shape (B, m), to scores, shape (B, K)."""
        away = z[:, None] - self.means
        return self.bias - torch.einsum("bki,kij,bkj->bk", away, self.precisions, away)

    def scores(self) -> Quadratics:
        """Return the head's numbers in float64."""
        means = self.means.detach().double().cpu()
        precisions = self.precisions.detach().double().cpu()
        bias = self.bias.detach().double().cpu()
        return Quadratics(means, precisions, torch.zeros_like(means), bias)

    def take(self, scores: Quadratics) -> None:
        """Take the numbers of another head.

        Args:
            scores: Of the same sizes, without linear parts.
        """
        assert scores.precisions is not None
        self.means.copy_(scores.means)
        self.precisions.copy_(scores.precisions)
        self.bias.copy_(scores.offsets)
