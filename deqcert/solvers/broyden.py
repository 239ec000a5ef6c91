"""Broyden's good method with limited memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from deqcert.errors import ConfigError
from deqcert.solvers.base import Solver, State
from deqcert.solvers.checks import whole_number

SUFFICIENT_DECREASE = 1e-4
"""Armijo's constant: the share of the predicted decrease that a step must bring."""

SHORTEST_STEP = 2.0**-4
"""The line search halves no further than this share of the full step; then it forgets H."""

SMALLEST_PIVOT = 1e-10
"""A rank-one update is skipped when its denominator is below this share of its factors' lengths."""


@dataclass(slots=True)
class BroydenState(State):
    """The rank-one factors of each row and the last accepted state.

    The inverse Jacobian of g(z) = f(z) - z is approximated by H = -I + sum_i u_i v_i^T.

    Attributes:
        u: Left factors, shape (B, window, D).
        v: Right factors, shape (B, window, D).
        count: Factors taken in so far, shape (B,), int64; the newest is in slot count - 1 mod
            window.
        base: Last accepted state, shape (B, D).
        base_g: Its residual vector, shape (B, D).
        direction: Full step from the base, shape (B, D).
        length: Share of the full step that the present trial took, shape (B,); 0 before the first.
    """

    u: Tensor
    v: Tensor
    count: Tensor
    base: Tensor
    base_g: Tensor
    direction: Tensor
    length: Tensor


@dataclass(frozen=True)
class Broyden(Solver[BroydenState]):
    """Step along -H g(z), where the secant equation H (g - g') = z - z' holds for the last step.

    When the window is full the oldest factor is dropped *before* the new one is computed, so the
    secant equation of the newest step holds exactly; overwriting it afterwards would lose it.

    Args:
        window: Rank-one factors remembered, at least 1. Memory is 2 * window + 8 states.
        line_search: Halve a step that does not lower the residual enough (Armijo), down to one
            sixteenth; where that does not help either, start again from H = -I. Every trial is one
            evaluation and is counted as one.

    Raises:
        ConfigError: If a knob is outside its range.

    Source: C. G. Broyden (1965), first method; limited memory after C. T. Kelley, "Iterative
    Methods for Linear and Nonlinear Equations" (1995), chapter 7; S. Bai, V. Koltun, J. Z. Kolter
    (2020) for its use in deep equilibrium models.
    """

    window: int = 10
    line_search: bool = False
    name: ClassVar[str] = "broyden"

    def __post_init__(self) -> None:
        whole_number("window", self.window, 1)
        if not isinstance(self.line_search, bool):
            raise ConfigError(f"line_search is {self.line_search!r}, but it must be true or false.")

    def init(self, z: Tensor) -> BroydenState:
        """Start from H = -I, so that the first step is a Picard step."""
        rows, elements = z.shape
        return BroydenState(
            u=z.new_zeros((rows, self.window, elements)),
            v=z.new_zeros((rows, self.window, elements)),
            count=z.new_zeros((rows,), dtype=torch.int64),
            base=z.new_zeros((rows, elements)),
            base_g=z.new_zeros((rows, elements)),
            direction=z.new_zeros((rows, elements)),
            length=z.new_zeros((rows,)),
        )

    def step(self, z: Tensor, fz: Tensor, state: BroydenState, out: Tensor) -> None:
        """Accept the trial and update H, or halve it; then propose the next state."""
        g = fz - z
        accepted = self._accepted(g, state)
        update = accepted & (state.length > 0)
        self._take_in(z - state.base, g - state.base_g, state, update)
        direction = self._newton(g, state)
        state.base = torch.where(accepted[:, None], z, state.base)
        state.base_g = torch.where(accepted[:, None], g, state.base_g)
        state.direction = torch.where(accepted[:, None], direction, state.direction)
        state.length = torch.where(accepted, torch.ones_like(state.length), 0.5 * state.length)
        if self.line_search:
            self._forget(state, state.length < SHORTEST_STEP)
        torch.addcmul(state.base, state.direction, state.length[:, None], out=out)

    def _accepted(self, g: Tensor, state: BroydenState) -> Tensor:
        if not self.line_search:
            return torch.ones_like(state.length, dtype=torch.bool)
        merit = g.double().square().sum(1)
        before = state.base_g.double().square().sum(1)
        enough = merit <= (1.0 - 2.0 * SUFFICIENT_DECREASE * state.length) * before
        # With H = -I there is nothing left to forget: the shortest step is taken as it is.
        last = (state.length <= SHORTEST_STEP) & (state.count == 0)
        return enough | (state.length == 0) | last

    def _forget(self, state: BroydenState, rows: Tensor) -> None:
        """Start again from H = -I and the last accepted state."""
        state.u[rows] = 0
        state.v[rows] = 0
        state.count[rows] = 0
        state.direction[rows] = state.base_g[rows]
        state.length[rows] = 1

    def _newton(self, g: Tensor, state: BroydenState) -> Tensor:
        """Return -H g, shape (b, D)."""
        return g - _combine(_dots(state.v, g), state.u)

    def _take_in(self, dz: Tensor, dg: Tensor, state: BroydenState, update: Tensor) -> None:
        """Make H satisfy H dg = dz in the rows of ``update``."""
        rows = torch.nonzero(update).squeeze(1)
        if rows.numel() == 0:
            return
        slot = state.count[rows] % self.window
        state.u[rows, slot] = 0
        state.v[rows, slot] = 0
        u, v, dz, dg = state.u[rows], state.v[rows], dz[rows], dg[rows]
        h_dg = _combine(_dots(v, dg), u) - dg
        dz_h = _combine(_dots(u, dz), v) - dz
        pivot = _dots(dz_h[:, None], dg)
        lengths = torch.linalg.vector_norm(dz_h, dim=1) * torch.linalg.vector_norm(dg, dim=1)
        usable = pivot[:, 0].abs() > SMALLEST_PIVOT * lengths
        rows, slot = rows[usable], slot[usable]
        state.u[rows, slot] = ((dz - h_dg) / pivot)[usable]
        state.v[rows, slot] = dz_h[usable]
        state.count[rows] += 1


def _dots(factors: Tensor, x: Tensor) -> Tensor:
    """Return the inner products of (b, m, D) with (b, D), shape (b, m)."""
    return torch.bmm(factors, x[:, :, None]).squeeze(2)


def _combine(weights: Tensor, factors: Tensor) -> Tensor:
    """Return sum_i weights_i factors_i, shape (b, D)."""
    return torch.bmm(weights[:, None, :], factors).squeeze(1)
