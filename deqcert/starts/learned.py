"""Start learned: a small network's guess from each row's own injection."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from deqcert.errors import ConfigError
from deqcert.models.checkpoints import file_hash
from deqcert.models.shaped import ShapedModel
from deqcert.starts.base import StartPolicy
from deqcert.starts.file import load_start, start_path


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
    takes = "FILE"

    def __init__(self, net: Callable[[Tensor], Tensor], cost: float, sha256: str = "") -> None:
        if not 0.0 <= cost < float("inf"):
            raise ConfigError(f"the cost of a start is {cost}, but it must be at least 0.")
        self.net, self.cost, self.sha256 = net, float(cost), sha256

    @classmethod
    def make(cls, argument: str, *, model: str | Path | None, device: str) -> Self:
        """Read the network of a file, or else of the one beside the checkpoint.

        Raises:
            ConfigError: If there is no checkpoint to see that it fits.
            CheckpointError: If the file cannot be read or belongs to another model.
        """
        if model is None:
            raise ConfigError(
                "start 'learned' is a network in a file, fitted to one checkpoint; name the "
                "checkpoint as the model, or make a deqcert.starts.Learned of your own network."
            )
        path = argument or start_path(model)
        found = load_start(path, model)
        made = cls(found.net.to(device), found.cost, file_hash(path))
        made.tuned = found
        return made

    def describe(self) -> str:
        """Say which network it is."""
        file = f", file {self.sha256[:12]}" if self.sha256 else ""
        return f"a learned start ({self.cost:.2f} evaluations{file})"

    def facts(self) -> Mapping[str, Any]:
        """Return the hash of the file."""
        return {"start_sha256": self.sha256}

    def initial(self, model: ShapedModel, injection: Tensor) -> Tensor:
        """Return the network's states, shape (b, D), evaluated in the declared shape."""
        return model.apply(self.net, injection)
