"""Intervals of interval models: their interval fixed point, made a proven post-fixed point."""

from __future__ import annotations

import torch
from torch import Tensor

from deqcert.errors import ConfigError
from deqcert.models.base import IntervalModel
from deqcert.models.interval_form import Box
from deqcert.proofs.definite import MARGIN
from deqcert.proofs.enclosure import in_float64
from deqcert.proofs.intervals import Intervals, Leads
from deqcert.proofs.outward import (
    affine_out,
    leads_out,
    outside,
    pixels_out,
    relu_out,
    rounded,
    sum_out,
)
from deqcert.solvers import StopRule, bind, get_solver


class PostFixedPoint(Intervals):
    """Boxes of the equilibria of an interval model.

    A solve ends at boxes S with F(S) almost in S, F being the interval cell, evaluated with
    outward rounding. If F(S) reaches out of S by at most d v_i in every element, and
    |N| v <= rho v, then F(S + t v) is in S + t v for t = d / (1 - rho). Every cell of the box of
    inputs maps S + t v into itself; so its only equilibrium is there (Brouwer).

    Args:
        model: The model.
        tol: Relative residual that ends a solve; a larger one makes the boxes larger.
        max_nfe: Most interval evaluations of a solve.

    Raises:
        ConfigError: If the model's weights are not proven to contract.
    """

    def __init__(self, model: IntervalModel, *, tol: float, max_nfe: int) -> None:
        self._model = in_float64(model)
        if isinstance(self._model, torch.nn.Module):
            self._model.cpu().eval()
        with torch.no_grad():
            self._form = self._model.interval_form()
            self._weights, self._factor = self._model.contraction()
        if not self._factor < 1.0:
            raise ConfigError(
                "the cell of this interval model is not proven to contract, so no box is proven to "
                "hold its equilibria; train it with a larger m (monotone)."
            )
        self._solver, self._stop = get_solver("picard"), StopRule(tol=tol, max_nfe=max_nfe)
        super().__init__(getattr(self._model, "input_shape", None))

    @torch.no_grad()
    def classes(self, x: Tensor) -> Tensor:
        """Return the likely classes; see :meth:`Intervals.classes`."""
        injection = self._model.inject(x)
        cell, start = bind(self._model.cell, injection), self._model.initial_state(injection)
        found = self._solver.solve(cell, start, self._stop)
        self.nfe += found.nfe.sum().item()
        return self._model.readout(found.z).argmax(dim=1)

    @torch.no_grad()
    def leads(self, x: Tensor, eps: Tensor, classes: Tensor, start: Tensor | None = None) -> Leads:
        """Bound leads; see :meth:`Intervals.leads`."""
        entering = self._entering(x, eps)
        rows = torch.cat(entering, dim=1)
        cold = torch.zeros_like(rows) if start is None else start
        found = self._solver.solve(bind(self._form.cell, rows), cold, self._stop)
        self.nfe += found.nfe.sum().item() + len(x)
        state = self._enclosed(found.z.chunk(2, dim=1), entering)
        return Leads(leads_out(self._form.readout, state, classes), found.z)

    def _entering(self, x: Tensor, eps: Tensor) -> Box:
        """Enclose what enters the equilibrium, each shape (B, D)."""
        box = pixels_out(self._form.normalize, x, eps)
        for place, affine in enumerate(self._form.block):
            box = affine_out(affine, relu_out(box) if place else box)
        return box[0].flatten(1), box[1].flatten(1)

    def _enclosed(self, found: Box, entering: Box) -> Box:
        """Widen approximate boxes until they are proven to hold the equilibria."""
        centre, half = found[0], found[1].clamp_min(0.0)
        maps = tuple(part.reshape(len(part), *self._form.shape) for part in (centre, half))
        image = affine_out(self._form.state, (maps[0], maps[1]))
        image = relu_out(sum_out((image[0].flatten(1), image[1].flatten(1)), entering))
        beyond = (outside(image, (centre, half)) / self._weights).amax(dim=1, keepdim=True)
        wider = MARGIN * beyond / (1.0 - self._factor)
        half = MARGIN * (half + wider * self._weights)
        return centre, half + rounded((centre, half))
