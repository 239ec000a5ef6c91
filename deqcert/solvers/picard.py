"""Damped Picard iteration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from deqcert.solvers.base import Solver, State
from deqcert.solvers.checks import in_range


@dataclass(frozen=True)
class Picard(Solver[State]):
    """Iterate z <- z + damping * (f(z) - z).

    Args:
        damping: Share of the step taken, in (0, 1]; lower it where the plain iteration oscillates.

    Raises:
        ConfigError: If damping is outside its range.

    Source: E. Picard (1890); the damped form is Krasnoselskii (1955) and Mann (1953).
    """

    damping: float = 1.0
    name: ClassVar[str] = "picard"

    def __post_init__(self) -> None:
        in_range("damping", self.damping, 0.0, 1.0)

    def init(self, z: Tensor) -> State:
        """Remember nothing."""
        return State()

    def step(self, z: Tensor, fz: Tensor, state: State, out: Tensor) -> None:
        """Take one damped step."""
        if self.damping == 1.0:
            out.copy_(fz)
        else:
            torch.lerp(z, fz, self.damping, out=out)
