"""Layers of an input block: a linear map with batch normalisation, which folds into one map."""

from __future__ import annotations

import math

from torch import Tensor, nn

from deqcert.models.interval_form import Affine


class Layer(nn.Module):
    """A linear map without a bias, and batch normalisation."""

    def __init__(self, linear: nn.Conv2d | nn.Linear, norm: nn.BatchNorm1d | nn.BatchNorm2d):
        super().__init__()
        self.linear, self.norm = linear, norm
        weight = linear.weight
        nn.init.normal_(weight, std=math.sqrt(2.0 * math.pi) / weight[0].numel())

    def forward(self, x: Tensor) -> Tensor:
        """Map features, shape (B, in, ...), to (B, out, ...)."""
        normalised: Tensor = self.norm(self.before(x))
        return normalised

    def before(self, x: Tensor) -> Tensor:
        """Return what is normalised."""
        dense = isinstance(self.linear, nn.Linear)
        before: Tensor = self.linear(x.flatten(1) if dense else x)
        return before

    def affine(self, before: Tensor | None) -> Affine:
        """Fold the normalisation in: by the statistics of a batch, or by running ones if None."""
        norm, weight = self.norm, self.linear.weight
        if before is None:
            assert norm.running_mean is not None and norm.running_var is not None
            mean, var = norm.running_mean, norm.running_var
        else:
            over = (0, *range(2, before.dim()))
            mean, var = before.mean(dim=over), before.var(dim=over, unbiased=False)
        scale = norm.weight / (var + norm.eps).sqrt()
        shift = mean * scale
        return Affine(
            weight=along(scale, weight) * weight,
            bias=norm.bias - shift,
            stride=self.linear.stride[0] if isinstance(self.linear, nn.Conv2d) else 1,
            roundings=6,
            size=norm.bias.abs() + shift.abs(),
        )


def convolution(inputs: int, outputs: int, kernel: int, stride: int) -> Layer:
    """Make a layer of a convolution, padded such that stride 1 keeps the size; an odd kernel."""
    linear = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)
    return Layer(linear, nn.BatchNorm2d(outputs))


def divided(affine: Affine, rest: Tensor, roundings: int) -> Affine:
    """Return a map whose outputs are divided by ``rest``, shape (out,)."""
    assert affine.size is not None
    return Affine(
        weight=affine.weight / along(rest, affine.weight),
        bias=affine.bias / rest,
        stride=affine.stride,
        roundings=affine.roundings + roundings,
        size=affine.size / rest,
    )


def along(values: Tensor, like: Tensor) -> Tensor:
    """Return values that go with the first dimensions of a tensor, to be spread over its others."""
    return values.reshape(*values.shape, *[1] * (like.dim() - values.dim()))
