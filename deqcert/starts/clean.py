"""Start clean: the equilibrium of the input without noise."""

from __future__ import annotations

from torch import Tensor

from deqcert.starts.base import Chain, Equilibrium, StartPolicy


class _CleanChain(Chain):
    def __init__(self, equilibrium: Equilibrium) -> None:
        self.state = equilibrium()

    def start(self, cold: Tensor) -> Tensor:
        return self.state.to(cold.dtype).expand_as(cold).contiguous()


class Clean(StartPolicy):
    """Start from the equilibrium of the noiseless input.

    Not independent: the base classifier would be another one for every input certified.
    """

    name = "clean"
    independent = False

    def begin(self, batch: int, equilibrium: Equilibrium) -> Chain:
        """Solve the noiseless input once."""
        return _CleanChain(equilibrium)
