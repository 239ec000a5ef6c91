"""What pruning says of each layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deqcert.models.prunable import Prunable


@dataclass(frozen=True)
class Layer:
    """How much of a layer is pruned.

    Attributes:
        name: As in the state_dict.
        pruned: Weights that are zero, or channels that are gone or zero.
        of: Weights or channels that there were.
    """

    name: str
    pruned: int
    of: int

    @property
    def share(self) -> float:
        """The pruned share, 0 to 1."""
        return self.pruned / self.of


def zeros(weights: Sequence[Prunable]) -> list[Layer]:
    """Count the zeros of each weight."""
    return [
        Layer(weight.name, int((value == 0.0).sum()), value.numel())
        for weight in weights
        for value in [weight.value()]
    ]


def total(layers: Sequence[Layer]) -> Layer:
    """Return the sum of some layers."""
    return Layer("all", sum(layer.pruned for layer in layers), sum(layer.of for layer in layers))
