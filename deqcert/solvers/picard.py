"""Damped Picard iteration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from deqcert import kernels
from deqcert.options import number
from deqcert.solvers.base import Solver, State


@dataclass(slots=True)
class PicardState(State):
    """Nothing but what its kernel writes on.

    Attributes:
        workspace: Shape (B, k), float64.
    """

    workspace: Tensor

    def restart(self, rows: Tensor) -> None:
        """There is nothing to forget."""


@dataclass(frozen=True)
class Picard(Solver[PicardState]):
    """Iterate z <- z + damping * (f(z) - z).

    Args:
        damping: Share of the step taken; lower it where the plain iteration oscillates.

    Raises:
        ConfigError: If damping is outside its range.

    **Source:** E. Picard (1890); the damped form is Krasnoselskii (1955) and Mann (1953).
    """

    damping: float = number(1.0, above=0.0, high=1.0)
    name: ClassVar[str] = "picard"

    def init(self, z: Tensor) -> PicardState:
        """Remember nothing."""
        return PicardState(kernels.workspace("picard", z))

    def step(
        self,
        z: Tensor,
        fz: Tensor,
        state: PicardState,
        out: Tensor,
        watch: kernels.Watch | None = None,
    ) -> None:
        """Take one damped step."""
        kernels.picard_step(
            z, fz, out, damping=self.damping, watch=watch, workspace=state.workspace
        )
