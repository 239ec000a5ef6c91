"""Anderson acceleration, type II."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from deqcert import kernels
from deqcert.options import number
from deqcert.solvers.base import Solver, State


@dataclass(slots=True)
class AndersonState(State):
    """The last evaluations of each row.

    Attributes:
        window_f: Values f(z), shape (B, window, D).
        window_g: Residual vectors f(z) - z, shape (B, window, D).
        gram: Inner products of the residual vectors, shape (B, window, window), float64.
        count: Evaluations since the row's window was last rolled back, shape (B,), int32.
        workspace: What the kernel writes on, shape (B, k), float64.
    """

    window_f: Tensor
    window_g: Tensor
    gram: Tensor
    count: Tensor
    workspace: Tensor

    def restart(self, rows: Tensor) -> None:
        """Forget the rows: an empty window is one that counts nothing."""
        self.count[rows] = 0


@dataclass(frozen=True)
class Anderson(Solver[AndersonState]):
    """Combine the last evaluations so that the combined residual is smallest.

    The next state is sum_j a_j (z_j + damping * g_j), where g_j = f(z_j) - z_j and the weights a
    minimise ||sum_j a_j g_j|| subject to sum_j a_j = 1.

    Args:
        window: Evaluations remembered (1 is Picard iteration). 5 is a good default;
            memory is 2 * window + 4 states.
        damping: Share of the combined residual that is added.
        ridge: Regularisation of the least-squares system, relative to each column's own
            length, so that behaviour does not change with the scale of z.
        growth: Safeguard. When a residual exceeds ``growth`` times the smallest in the window, the
            window is rolled back to that smallest one.
        max_weight: Safeguard. When the weights' absolute sum exceeds this, the step is a plain
            damped one.

    Raises:
        ConfigError: If an option is outside its range.

    **Source:** D. G. Anderson (1965); H. F. Walker and P. Ni, "Anderson acceleration for
    fixed-point iterations" (2011), type II; safeguards in the spirit of J. Zhang, B. O'Donoghue,
    S. Boyd (2020).
    """

    window: int = number(5, low=1)
    damping: float = number(1.0, above=0.0, high=1.0)
    ridge: float = number(1e-8, above=0.0, high=1.0)
    growth: float = number(100.0, above=1.0)
    max_weight: float = number(1e4, above=1.0)
    name: ClassVar[str] = "anderson"

    def init(self, z: Tensor) -> AndersonState:
        """Make an empty window."""
        rows, elements = z.shape
        return AndersonState(
            window_f=kernels.empty_states(z, (rows, self.window, elements), 1),
            window_g=kernels.empty_states(z, (rows, self.window, elements), 2),
            gram=z.new_zeros((rows, self.window, self.window), dtype=torch.float64),
            count=z.new_zeros((rows,), dtype=torch.int32),
            workspace=kernels.workspace("anderson", z, self.window),
        )

    def step(
        self,
        z: Tensor,
        fz: Tensor,
        state: AndersonState,
        out: Tensor,
        watch: kernels.Watch | None = None,
    ) -> None:
        """Take the newest evaluation into the window and mix."""
        kernels.anderson_step(
            z,
            fz,
            state.window_f,
            state.window_g,
            state.gram,
            state.count,
            out,
            damping=self.damping,
            ridge=self.ridge,
            growth=self.growth,
            max_weight=self.max_weight,
            watch=watch,
            workspace=state.workspace,
        )
