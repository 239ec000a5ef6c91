"""Phantom gradients: a few damped evaluations at the equilibrium, differentiated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from deqcert.options import check_options, number
from deqcert.solvers.base import Solver
from deqcert.solvers.result import SolveResult, StopRule
from deqcert.solvers.transforms import solve_rows


@dataclass(frozen=True)
class Phantom:
    """Phantom gradients: a few damped steps from the equilibrium, differentiated.

    ``z <- damping * f(z) + (1 - damping) * z``, ``steps`` times. Cheap, and usually a descent
    direction; memory of those few evaluations.

    Args:
        steps: Evaluations differentiated through.
        damping: Share of each new evaluation.

    Raises:
        ConfigError: If a value is out of range.

    **Source:** Geng, Zhang, Bai, Wang, Lin 2021, "On Training Implicit Models", section 3.
    """

    name: ClassVar[str] = "phantom"
    solves: ClassVar[bool] = True
    steps: int = number(5, low=1)
    damping: float = number(0.5, above=0.0, high=1.0)

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
        """Solve without a graph, then take the damped steps."""
        result = solve_rows(f, z0, context, solver, stop)
        z = result.z.detach()
        for _ in range(self.steps):
            z = self.damping * f(z, *context) + (1.0 - self.damping) * z
        return z, result
