"""Structured pruning where the architecture cannot narrow: channels of zeros."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.utils import prune

from deqcert.changes.layers import Layer
from deqcert.errors import ConfigError
from deqcert.models.prunable import Prunable


def zero_channels(weights: Sequence[Prunable], sparsity: float) -> list[Layer]:
    """Set the output channels of least norm to zero, in each convolution on its own.

    Args:
        weights: Of the model, which is changed; only convolutions have channels.
        sparsity: Share of each layer's channels that goes, up to one channel.

    Returns:
        The convolutions, with their channels.

    Raises:
        ConfigError: If there is no convolution, or none loses a channel.
    """
    convolutions = [weight for weight in weights if weight.parameter.ndim == 4]
    if not convolutions:
        raise ConfigError("this model has no channels to prune; leave out structured.")
    layers = []
    for weight in convolutions:
        value = weight.value()
        count = min(round(sparsity * len(value)), len(value) - 1)
        layers.append(Layer(weight.name, count, len(value)))
        if count:
            method = prune.LnStructured(amount=count, n=2, dim=0)
            mask = method.compute_mask(  # type: ignore[no-untyped-call]
                value, torch.ones_like(value)
            )
            weight.keep(mask)
    if not any(layer.pruned for layer in layers):
        raise ConfigError(
            f"sparsity {sparsity:g} takes no channel of any layer, the widest of which has "
            f"{max(layer.of for layer in layers)}; give a larger one."
        )
    return layers
