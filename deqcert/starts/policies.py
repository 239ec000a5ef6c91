"""Start policies: where a noisy solve starts, and whether its samples are still independent."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from deqcert.errors import ConfigError
from deqcert.models.shaped import ShapedModel

Equilibrium = Callable[[], Tensor]
"""Solve the noiseless input cold and return its equilibrium, shape (D,)."""


class Chain(ABC):
    """The memory of a start policy while it works on one image."""

    @property
    def ready(self) -> bool:
        """Whether a warm start can be given; until then the engine solves cold."""
        return True

    @abstractmethod
    def start(self, cold: Tensor) -> Tensor:
        """Return start states for a batch, given its initial ones; shape (b, D)."""

    def learn(self, z: Tensor, usable: Tensor) -> None:  # noqa: B027 - most chains learn nothing
        """Take in the states a batch ended in, shape (b, D), and which may be used, shape (b,)."""


class StartPolicy(ABC):
    """Say where the solve of a noisy sample starts.

    Attributes:
        name: What the registry calls it.
        independent: Whether the start is a function of that row's noisy input alone. Then a fixed
            solve from it is an ordinary base classifier; otherwise only an audit is sound.
        cost: What :meth:`initial` costs a row, in cell evaluations.
    """

    name: ClassVar[str]
    independent: ClassVar[bool]
    cost: float = 0.0

    def describe(self) -> str:
        """Say in words where a solve starts."""
        return f"a {self.name} start"

    def initial(self, model: ShapedModel, injection: Tensor) -> Tensor:
        """Return where rows start by themselves, shape (b, D): the model's cold start.

        Args:
            model: The model in its declared shape, in which everything a row depends on is
                evaluated.
            injection: The rows' injections, shape (b, ...).
        """
        return model.initial_state(injection)

    @abstractmethod
    def begin(self, batch: int, equilibrium: Equilibrium) -> Chain:
        """Begin a chain for one image, with ``batch`` slots."""


class _ColdChain(Chain):
    def start(self, cold: Tensor) -> Tensor:
        return cold


class Cold(StartPolicy):
    """Start every solve from the model's initial state."""

    name = "cold"
    independent = True

    def begin(self, batch: int, equilibrium: Equilibrium) -> Chain:
        """Begin without memory."""
        return _ColdChain()


class Learned(StartPolicy):
    """Start every solve from what a network makes of that row's injection.

    Args:
        net: Maps injections, shape (b, ...), to states, shape (b, D), rows independent; see
            :mod:`deqcert.starts.network`.
        cost: Measured time of the network in times of one cell evaluation, at least 0.
        sha256: Hash of the file that it comes from, for descriptions.

    Raises:
        ConfigError: If the cost is out of range.

    **Source:** in the spirit of Bai, Koltun, Kolter, "Neural Deep Equilibrium Solvers" (ICLR 2022).
    """

    name = "learned"
    independent = True

    def __init__(self, net: Callable[[Tensor], Tensor], cost: float, sha256: str = "") -> None:
        if not 0.0 <= cost < float("inf"):
            raise ConfigError(f"the cost of a start is {cost}, but it must be at least 0.")
        self.net, self.cost, self.sha256 = net, float(cost), sha256

    def describe(self) -> str:
        """Say which network it is."""
        file = f", file {self.sha256[:12]}" if self.sha256 else ""
        return f"a learned start ({self.cost:.2f} evaluations{file})"

    def initial(self, model: ShapedModel, injection: Tensor) -> Tensor:
        """Return the network's states, shape (b, D), evaluated in the declared shape."""
        return model.apply(self.net, injection)

    def begin(self, batch: int, equilibrium: Equilibrium) -> Chain:
        """Begin without memory."""
        return _ColdChain()


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


_STARTS: dict[str, type[StartPolicy]] = {
    start.name: start for start in (Cold, Previous, Mean, Clean)
}


def start_names() -> tuple[str, ...]:
    """Return the names that :func:`get_start` knows: those that need nothing else."""
    return tuple(_STARTS)


def get_start(name: str) -> StartPolicy:
    """Make the start policy of that name.

    Raises:
        ConfigError: If there is none.
    """
    if name == Learned.name:
        raise ConfigError(
            "start 'learned' is a network in a file; read it with deqcert.starts.load_start and "
            "make a deqcert.smoothing.Learned of it."
        )
    if name not in _STARTS:
        names = ", ".join([*_STARTS, Learned.name])
        raise ConfigError(f"there is no start policy '{name}'; there are {names}.")
    return _STARTS[name]()
