"""The ball that holds all equilibria of a monotone network over a box of inputs, a priori."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deqcert.models.spectral import TINY, rounding_constant
from deqcert.proofs.adjoint import Adjoint
from deqcert.proofs.definite import MARGIN
from deqcert.proofs.relaxed import Relaxed, pixel_boxes


@dataclass(frozen=True)
class Ball:
    """Boxes of inputs and balls of states; every field is per row.

    Attributes:
        pixels: Centres of the boxes of inputs, shape (B, C*H*W), float64.
        half: Their half-widths, rounded up, likewise.
        entering: U x + u at the centres, rounded, shape (B, D).
        inexact: Bound of the l2 error of U x + u of any input in the box that is computed from
            what ``pixels`` and ``half`` are, shape (B,).
        centre: Centres of the balls, shape (B, D); none is negative.
        radius: Their l2 radii, shape (B,).
        size: Bounds of ||z*||, shape (B,).
        shift: Bounds of the error of W z for such a z, shape (B,).
        reach: Bounds of ||x||, shape (B,).
    """

    pixels: Tensor
    half: Tensor
    entering: Tensor
    inexact: Tensor
    centre: Tensor
    radius: Tensor
    size: Tensor
    shift: Tensor
    reach: Tensor


def ball(relaxed: Relaxed, adjoint: Adjoint, x: Tensor, eps: Tensor) -> Ball:
    """Enclose the equilibria of boxes of inputs in balls.

    For any y and v = relu(W y + U x0 + u + e), and the equilibrium z* of any input x,

        m ||v - z*|| <= ||W (y - v)|| + ||U (x - x0)|| + ||e||:

    both v and z* are projections onto z >= 0, whose variational inequalities, added, say that
    <(I - W)(v - z*) - W (y - v) - U (x0 - x) - e, v - z*> <= 0. So the ball holds all equilibria of
    the box however well v was solved for, and whatever rounding did (e).

    Args:
        relaxed: The network.
        adjoint: What solves for the equilibria of the centres.
        x: Inputs, shape (B, C*H*W), float64.
        eps: Half-widths of the boxes, shape (B,); the boxes are cut off at 0 and 1.

    **Guarantee:** deterministic, for exact arithmetic on the stored weights.

    **Source:** E. Winston, J. Z. Kolter, "Monotone operator equilibrium networks" (2020), for I - W
    strongly monotone with constant m.
    """
    form, norm = relaxed.form, torch.linalg.vector_norm
    pixels, half = pixel_boxes(x, eps)
    reach = MARGIN * norm(pixels.abs() + half, dim=1) + TINY
    y = adjoint.equilibria(pixels)
    entering = pixels @ form.input.T + form.bias
    centre = (y @ form.state.T + entering).clamp_min(0.0)
    units, inputs = form.input.shape
    gamma = rounding_constant(units + inputs + 8)
    rounding = gamma * norm(form.state) + form.state_error
    inexact = (gamma * norm(form.input) + form.input_error) * reach
    inexact = inexact + gamma * norm(form.bias) + form.bias_error
    moved = relaxed.state_norm * norm(y - centre, dim=1) + relaxed.input_norm * norm(half, dim=1)
    error = rounding * norm(y, dim=1) + inexact
    radius = MARGIN * (MARGIN * moved + error) / form.monotone + TINY
    size = MARGIN * (norm(centre, dim=1) + radius)
    shift = rounding * size
    return Ball(pixels, half, entering, inexact, centre, radius, size, shift, reach)
