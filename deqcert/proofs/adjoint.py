"""Equilibria of relaxed relus, forwards and adjoint, by the splitting of Peaceman and Rachford."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from deqcert.models.relu_form import ReluForm

TOLERANCE = 1e-7
"""Largest change of an element that ends an iteration; what it finds proves nothing by itself."""

MOST = 60
"""Most iterations."""


class Adjoint:
    """Solves z = f(W z + b) and w = f(c + W'w) where f is linear, or has two slopes, per unit.

    Every slope is in [0, 1], so f is a proximal operator, as relu is, and I - W is monotone: both
    equations have exactly one solution. It is found in float64, and only ever used to choose the
    weights of a bound that is proven afterwards.

    Args:
        form: The network as matrices.

    Attributes:
        nfe: Products with W or its transpose so far, all rows counted.
    """

    def __init__(self, form: ReluForm) -> None:
        identity = torch.eye(len(form.state), dtype=torch.float64)
        operator = identity - form.state
        size = torch.linalg.matrix_norm(operator, 2).item()
        self.nfe = 0
        self._form = form
        self._step = 1.0 / math.sqrt(form.monotone * size)
        inverse = torch.linalg.inv(identity + self._step * operator)
        self._reflection, self._gain = 2.0 * inverse - identity, 2.0 * self._step * inverse

    def equilibria(self, x: Tensor) -> Tensor:
        """Return z* for inputs, shape (N, C*H*W); shape (N, D)."""
        entering = x @ self._form.input.T + self._form.bias
        slope = torch.ones_like(entering)
        v = self._solve(entering, slope, 0.0 * slope, 0.0 * slope, self._reflection.T, self._gain.T)
        return v.clamp_min(0.0)

    def states(self, x: Tensor, slope: Tensor, shift: Tensor) -> Tensor:
        """Return the z with z = slope * (W z + U x + u) + shift, shape (N, D)."""
        entering = x @ self._form.input.T + self._form.bias
        v = self._solve(entering, slope, slope, shift, self._reflection.T, self._gain.T)
        return self._resolvent(slope, slope, shift)(v)

    def weights(self, objective: Tensor, above: Tensor, below: Tensor, shift: Tensor) -> Tensor:
        """Return the w with w = f(c + W'w) + shift, shape (N, D).

        Args:
            objective: c, shape (N, D).
            above: Slope of f where its argument is positive, likewise, in [0, 1].
            below: Slope where it is negative.
            shift: Constant; only where the two slopes are equal.
        """
        v = self._solve(objective, above, below, shift, self._reflection, self._gain)
        return self._resolvent(above, below, shift)(v)

    def _solve(
        self,
        entering: Tensor,
        above: Tensor,
        below: Tensor,
        shift: Tensor,
        reflection: Tensor,
        gain: Tensor,
    ) -> Tensor:
        line = self._resolvent(above, below, shift)
        entering = entering @ gain
        v = entering
        for number in range(MOST):
            self.nfe += len(v)
            following = torch.addmm(entering, 2.0 * line(v) - v, reflection)
            # Looking at the change costs as much as a step of a few rows.
            looked = number % 4 == 3
            near = looked and not bool(((following - v).abs() > TOLERANCE).any())
            v = following
            if near:
                break
        return v

    def _resolvent(self, above: Tensor, below: Tensor, shift: Tensor) -> _Line:
        """Return the map from v to the z with v = z + a (y - z) and z = f(y) + shift."""
        a = self._step
        high, low = (slope + a * (1.0 - slope) for slope in (above, below))
        return _Line(above / high, below / low, a * shift / high)


@dataclass(frozen=True)
class _Line:
    """v -> above v + shift where v > 0, and below v + shift elsewhere."""

    above: Tensor
    below: Tensor
    shift: Tensor

    def __call__(self, v: Tensor) -> Tensor:
        return torch.addcmul(self.shift, torch.where(v > 0.0, self.above, self.below), v)
