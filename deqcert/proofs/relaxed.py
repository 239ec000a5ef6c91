"""Linear bounds of an equilibrium over boxes of inputs, with every rounding charged."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from deqcert.models.relu_form import ReluForm
from deqcert.models.spectral import TINY, UNIT, rounding_constant, spectral_norm_bound
from deqcert.proofs.definite import MARGIN


@dataclass(frozen=True)
class Region:
    """Boxes of inputs, and what is proven of the equilibria in them; every field is per row.

    Attributes:
        centre: Centres of the boxes, shape (B, C*H*W), float64.
        half: Their half-widths, rounded up, likewise.
        lower: Lower bounds of p = W z* + U x + u, shape (B, D).
        upper: Upper bounds, likewise.
        state: Bounds of ||z*||, shape (B,).
        pixels: Bounds of ||x||, shape (B,).
    """

    centre: Tensor
    half: Tensor
    lower: Tensor
    upper: Tensor
    state: Tensor
    pixels: Tensor

    def rows(self, index: Tensor | slice) -> Region:
        """Return some of the rows, in that order."""
        return Region(
            self.centre[index],
            self.half[index],
            self.lower[index],
            self.upper[index],
            self.state[index],
            self.pixels[index],
        )

    @property
    def open(self) -> Tensor:
        """Where the sign of p is not proven, shape (B, D)."""
        return (self.lower < 0.0) & (self.upper > 0.0)


@dataclass(frozen=True)
class Weighed:
    """The equilibrium's own equation, weighed: c'z = (c + W'w)'z - w'p + (U'w)'x + w'u.

    Attributes:
        weights: w, shape (N, D), float64: any numbers at all.
        factors: c + W'w, rounded, shape (N, D).
        slopes: U'w, rounded, shape (N, C*H*W).
        constant: w'u, rounded, shape (N,).
        objective: ||c||, shape (N,).
    """

    weights: Tensor
    factors: Tensor
    slopes: Tensor
    constant: Tensor
    objective: Tensor

    def __neg__(self) -> Weighed:
        """Weigh by -w, with -c."""
        return replace(
            self,
            weights=-self.weights,
            factors=-self.factors,
            slopes=-self.slopes,
            constant=-self.constant,
        )


class Relaxed:
    """Bounds of c'z* over boxes, where every relu is replaced by its smallest convex set.

    The equilibrium z* = relu(p), p = W z* + U x + u, satisfies for every c and w

        c'z* = (c + W'w)'z* - w'p + (U'w)'x + w'u.

    With p_i in [l_i, u_i], the pair (p_i, z_i) is in the triangle (l_i, 0), (0, 0), (u_i, u_i), or
    on one of its sides where the sign of p_i is known. So the maximum of each term, alone, adds up
    to a bound, whatever w is; the best w are solutions of an adjoint equilibrium
    (:class:`deqcert.proofs.adjoint.Adjoint`). Nothing here rests on how w was found.

    Args:
        form: The network as matrices.
    """

    def __init__(self, form: ReluForm) -> None:
        self.form = form
        self.state_norm = spectral_norm_bound(form.state)
        self.input_norm = spectral_norm_bound(form.input)
        self._state_size = torch.linalg.matrix_norm(form.state).item()
        self._input_size = torch.linalg.matrix_norm(form.input).item()
        self._bias_size = torch.linalg.vector_norm(form.bias).item()

    def weigh(self, weights: Tensor, objective: Tensor) -> Weighed:
        """Multiply the equation with weights, shape (N, D); the objective is c, shape (N, D)."""
        return Weighed(
            weights=weights,
            factors=objective + weights @ self.form.state,
            slopes=weights @ self.form.input,
            constant=weights @ self.form.bias,
            objective=torch.linalg.vector_norm(objective, dim=1),
        )

    def maximum(self, weighed: Weighed, region: Region, apart: Tensor | None = None) -> Tensor:
        """Bound c'z* from above over each row's box.

        Args:
            weighed: The equation with N rows.
            region: The region of each of these rows.
            apart: Units whose term (c + W'w)_i z_i - w_i p_i is left out, shape (N, D), bool.

        Returns:
            Shape (N,), float64; not a number where a weight is none.

        **Guarantee:** deterministic, for exact arithmetic on the stored weights, in the standard
        model of floating-point arithmetic: the errors of W, U and u, and what rounding does to
        every product and sum here, are bounded by the norms of what is summed, and added.
        """
        terms = worst_terms(weighed, region)
        if apart is not None:
            terms = torch.where(apart, 0.0, terms)
        slopes = weighed.slopes
        value = (slopes * region.centre).sum(dim=1) + (slopes.abs() * region.half).sum(dim=1)
        value = value + weighed.constant + terms.sum(dim=1)
        return value + self._charge(weighed, region)

    def _charge(self, weighed: Weighed, region: Region) -> Tensor:
        """Bound by how much the computed maximum may be below the exact one, shape (N,)."""
        form, norm = self.form, torch.linalg.vector_norm
        size = norm(weighed.weights, dim=1)
        units, pixels = form.input.shape
        factors = rounding_constant(units + 3) * (weighed.objective + self._state_size * size)
        factors = (factors + form.state_error * size) * region.state
        slopes = rounding_constant(units + 1) * self._input_size + form.input_error
        slopes = slopes * size * region.pixels
        summed = 2.0 * norm(weighed.slopes, dim=1) * region.pixels + self._bias_size * size
        reach = norm(torch.maximum(region.lower.abs(), region.upper.abs()), dim=1)
        summed = summed + (norm(weighed.factors, dim=1) + size) * reach
        summed = rounding_constant(2 * pixels + 3 * units + 16) * summed
        return MARGIN * (factors + slopes + summed + form.bias_error * size) + TINY


def worst_terms(weighed: Weighed, region: Region) -> Tensor:
    """Return the largest value of (c + W'w)_i z_i - w_i p_i per unit, shape (N, D)."""
    both = weighed.factors - weighed.weights
    off, on = -weighed.weights * region.lower, both * region.upper
    # Where z_i = 0 is known p_i may be anything in its bounds, and likewise where z_i = p_i is.
    off_end, on_end = -weighed.weights * region.upper, both * region.lower
    triangle = torch.maximum(off, on).clamp_min(0.0)
    active = torch.maximum(on, on_end)
    idle = torch.maximum(off, off_end)
    return torch.where(region.open, triangle, torch.where(region.lower >= 0.0, active, idle))


def pixel_boxes(x: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    """Return boxes that hold every x' in [0, 1] with |x' - x| <= eps per pixel.

    Args:
        x: Inputs, shape (B, C*H*W), float64; a pixel outside [0, 1] stays in its box.
        eps: Shape (B,), float64, from 0.

    Returns:
        Centres and half-widths, shape (B, C*H*W): rounded such that the box is no smaller.
    """
    reach = eps[:, None] * (1.0 + 4.0 * UNIT) + 4.0 * UNIT * (1.0 + x.abs())
    high = torch.maximum(x, (x + reach).clamp_max(1.0))
    low = torch.minimum(x, (x - reach).clamp_min(0.0))
    centre = (high + low) / 2.0
    half = torch.maximum(high - centre, centre - low)
    return centre, half * (1.0 + 4.0 * UNIT) + TINY
