"""Start previous: where that slot of a batch ended last."""

from __future__ import annotations

import torch
from torch import Tensor

from deqcert.starts.base import Chain, Equilibrium, StartPolicy


class _PreviousChain(Chain):
    def __init__(self, batch: int) -> None:
        self.batch = batch
        self.held: Tensor | None = None
        self.filled: Tensor | None = None

    @property
    def ready(self) -> bool:
        return self.held is not None

    def start(self, cold: Tensor) -> Tensor:
        assert self.held is not None
        assert self.filled is not None
        b = len(cold)
        return torch.where(self.filled[:b, None], self.held[:b], cold)

    def learn(self, z: Tensor, usable: Tensor) -> None:
        if self.held is None or self.filled is None:
            self.held = z.new_zeros((self.batch, z.shape[1]))
            self.filled = torch.zeros(self.batch, dtype=torch.bool, device=z.device)
        b = len(z)
        self.held[:b][usable] = z[usable]
        self.filled[:b] |= usable


class Previous(StartPolicy):
    """Start each slot of a batch from the state that slot held before.

    **Source:** Gao, Hou, Xu, Liu, "Certified robustness for deep equilibrium models via serialized
    random smoothing" (NeurIPS 2024).
    """

    name = "previous"
    independent = False

    def begin(self, batch: int, equilibrium: Equilibrium) -> Chain:
        """Begin with empty slots."""
        return _PreviousChain(batch)
