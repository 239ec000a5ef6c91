"""Unrolling: plain evaluations from the start, all differentiated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from deqcert.options import check_options, number
from deqcert.solvers.base import Solver
from deqcert.solvers.result import SolveResult, StopRule


@dataclass(frozen=True)
class Unroll:
    """Plain evaluations from the start state, all differentiated; the solver is not used.

    Memory grows with their number; for pre-training, and to check the other methods.

    Args:
        steps: Evaluations.

    Raises:
        ConfigError: If the number is below 1.
    """

    name: ClassVar[str] = "unroll"
    solves: ClassVar[bool] = False
    steps: int = number(8, low=1)

    def __post_init__(self) -> None:
        check_options(self)

    def solve(
        self,
        f: Callable[..., Tensor],
        z0: Tensor,
        context: tuple[Tensor, ...],
        solver: Solver[Any],
        stop: StopRule,
    ) -> tuple[Tensor, SolveResult | None]:
        """Evaluate ``steps`` times."""
        z = z0
        for _ in range(self.steps):
            z = f(z, *context)
        return z, None
