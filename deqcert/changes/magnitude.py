"""Unstructured pruning: the smallest weights of the whole model become zero."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils import prune

from deqcert.errors import ConfigError
from deqcert.models.prunable import Prunable


def prune_by_magnitude(weights: Sequence[Prunable], sparsity: float) -> None:
    """Set the smallest weights to zero, all layers held against each other.

    Args:
        weights: Of the model, which is changed.
        sparsity: Share of them that are zero afterwards, up to one weight; zeros that were there
            count.

    Raises:
        ConfigError: If that is none or all of them.
    """
    values = [weight.value() for weight in weights]
    sizes = torch.cat([value.flatten() for value in values])
    count = round(sparsity * len(sizes))
    if count in (0, len(sizes)):
        raise ConfigError(
            f"sparsity {sparsity:g} of {len(sizes)} weights is {'all' if count else 'none'} of "
            "them; give another."
        )
    mask: Tensor = prune.L1Unstructured(amount=count).compute_mask(  # type: ignore[no-untyped-call]
        sizes, torch.ones_like(sizes)
    )
    parts = torch.split(mask, [value.numel() for value in values])
    for weight, value, part in zip(weights, values, parts, strict=True):
        weight.keep(part.view_as(value))
