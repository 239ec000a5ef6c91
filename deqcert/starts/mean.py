"""Start mean: the middle of where this image's samples ended."""

from __future__ import annotations

from torch import Tensor

from deqcert.starts.base import Chain, Equilibrium, StartPolicy


class _MeanChain(Chain):
    def __init__(self) -> None:
        self.total: Tensor | None = None
        self.count = 0

    @property
    def ready(self) -> bool:
        return self.count > 0

    def start(self, cold: Tensor) -> Tensor:
        assert self.total is not None
        return (self.total / self.count).to(cold.dtype).expand_as(cold).contiguous()

    def learn(self, z: Tensor, usable: Tensor) -> None:
        total = z[usable].double().sum(dim=0)
        self.total = total if self.total is None else self.total + total
        self.count += int(usable.sum())


class Mean(StartPolicy):
    """Start from the running mean of the states that this image's samples ended in."""

    name = "mean"
    independent = False

    def begin(self, batch: int, equilibrium: Equilibrium) -> Chain:
        """Begin without a mean."""
        return _MeanChain()
