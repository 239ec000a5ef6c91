"""What a start policy is: where a noisy solve starts, and whether its samples stay independent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from torch import Tensor

from deqcert.errors import ConfigError
from deqcert.models.shaped import ShapedModel

if TYPE_CHECKING:
    from deqcert.starts.file import StartFile

Equilibrium = Callable[[], Tensor]
"""Solve the noiseless input cold and return its equilibrium, shape (D,)."""


class Chain:
    """The memory of a start policy while it works on one image; this one remembers nothing."""

    @property
    def ready(self) -> bool:
        """Whether a warm start can be given; until then the engine solves cold."""
        return True

    def start(self, cold: Tensor) -> Tensor:
        """Return start states for a batch, given its initial ones; shape (b, D)."""
        return cold

    def learn(self, z: Tensor, usable: Tensor) -> None:
        """Take in the states a batch ended in, shape (b, D), and which may be used, shape (b,)."""


class StartPolicy:
    """Say where the solve of a noisy sample starts.

    Attributes:
        name: What the registry calls it.
        independent: Whether the start is a function of that row's noisy input alone. Then a fixed
            solve from it is an ordinary base classifier; otherwise only an audit is sound.
        takes: What may follow its name and a colon, in capitals, such as "FILE"; "" for nothing.
        cost: What :meth:`initial` costs per row, in cell evaluations.
        tuned: What was tuned together with it (depth, early stop), or None.
    """

    name: ClassVar[str]
    independent: ClassVar[bool]
    takes: ClassVar[str] = ""
    cost: float = 0.0
    tuned: StartFile | None = None

    @classmethod
    def make(cls, argument: str, *, model: str | Path | None, device: str) -> Self:
        """Make the policy.

        Args:
            argument: What follows the name and a colon; "" for nothing.
            model: Checkpoint of the model that it is for: a file or a builtin name; None if the
                model has none.
            device: Where the model runs, as torch names it.

        Raises:
            ConfigError: If it takes nothing after its name, or needs a checkpoint.
            CheckpointError: If a file cannot be used.
        """
        if argument:
            raise ConfigError(f"start '{cls.name}' takes no file; write {cls.name} alone.")
        return cls()

    @property
    def follows_input(self) -> bool:
        """Whether rows start where their own input says: gradients then go through the start."""
        return type(self).initial is not StartPolicy.initial

    def describe(self) -> str:
        """Say in words where a solve starts."""
        return f"a {self.name} start"

    def facts(self) -> Mapping[str, Any]:
        """Return what else identifies it in a record, as JSON values by key."""
        return {}

    def initial(self, model: ShapedModel, injection: Tensor) -> Tensor:
        """Return where rows start by themselves, shape (b, D): the model's cold start.

        Args:
            model: The model in its declared shape, in which everything a row depends on is
                evaluated.
            injection: The rows' injections, shape (b, ...).
        """
        return model.initial_state(injection)

    def begin(self, batch: int, equilibrium: Equilibrium) -> Chain:
        """Begin a chain for one image, with ``batch`` slots; one without memory by default."""
        return Chain()
