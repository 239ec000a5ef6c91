"""Broyden's good method with limited memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from deqcert import kernels
from deqcert.options import flag, number
from deqcert.solvers.base import Solver, State


@dataclass(slots=True)
class BroydenState(State):
    """The directions of each row, from which the inverse Jacobian is applied.

    Attributes:
        directions: Full steps -H g of the accepted states, oldest first, shape (B, window, D).
        squares: Their squared lengths, shape (B, window), float64.
        lengths: Share of each that was stepped, shape (B, window), float64.
        merit: Squared residual of the last accepted state, shape (B,), float64.
        count: Directions held, shape (B,), int32.
        workspace: What the kernel writes on, shape (B, k), float64.
    """

    directions: Tensor
    squares: Tensor
    lengths: Tensor
    merit: Tensor
    count: Tensor
    workspace: Tensor

    def restart(self, rows: Tensor) -> None:
        """Forget the rows: an empty window is one that counts nothing."""
        self.count[rows] = 0


@dataclass(frozen=True)
class Broyden(Solver[BroydenState]):
    """Step along -H g(z), where the secant equation H (g - g') = z - z' holds for the last step.

    One direction an evaluation is kept and each is read once a step (see
    :func:`deqcert.kernels.broyden_step`). When the window is full the row begins again with
    H = -I: dropping or overwriting a factor would lose the secant equations of those that were
    computed on top of it.

    Args:
        window: Directions remembered (1 is Picard iteration). Evaluations after which
            H begins anew; memory is window + 4 states.
        line_search: Halve a step that does not lower the residual enough (Armijo), down to one
            sixteenth; where that does not help either, start again from H = -I at the last accepted
            state. Every trial is one evaluation and is counted as one.

    Raises:
        ConfigError: If an option is outside its range.

    **Source:** C. G. Broyden (1965), first method; C. T. Kelley, "Iterative Methods for Linear and
    Nonlinear Equations" (1995), section 7.3, for the form with one vector an iteration; S. Bai,
    V. Koltun, J. Z. Kolter (2020) for its use in deep equilibrium models.
    """

    window: int = number(20, low=1)
    line_search: bool = flag(False)
    name: ClassVar[str] = "broyden"

    def init(self, z: Tensor) -> BroydenState:
        """Start from H = -I, so that the first step is a Picard step."""
        rows, elements = z.shape
        return BroydenState(
            directions=kernels.empty_states(z, (rows, self.window, elements), 1),
            squares=z.new_zeros((rows, self.window), dtype=torch.float64),
            lengths=z.new_zeros((rows, self.window), dtype=torch.float64),
            merit=z.new_zeros((rows,), dtype=torch.float64),
            count=z.new_zeros((rows,), dtype=torch.int32),
            workspace=kernels.workspace("broyden", z),
        )

    def step(
        self,
        z: Tensor,
        fz: Tensor,
        state: BroydenState,
        out: Tensor,
        watch: kernels.Watch | None = None,
    ) -> None:
        """Accept the trial and update H, or shorten it; then propose the next state."""
        kernels.broyden_step(
            z,
            fz,
            state.directions,
            state.squares,
            state.lengths,
            state.merit,
            state.count,
            out,
            line_search=self.line_search,
            watch=watch,
            workspace=state.workspace,
        )
