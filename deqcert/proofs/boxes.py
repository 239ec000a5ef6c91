"""Which class an equilibrium network answers everywhere in a box of inputs."""

from __future__ import annotations

import torch
from torch import Tensor

from deqcert.errors import ConfigError, DataError
from deqcert.models.base import ImplicitModel, ProvenModel
from deqcert.proofs.adjoint import Adjoint
from deqcert.proofs.branching import Branching, Decision
from deqcert.proofs.enclosure import in_float64
from deqcert.proofs.known import Known
from deqcert.proofs.relaxed import Relaxed
from deqcert.proofs.zonotope import enclose, tighten

MOST_UNITS = 2000
"""Largest state that is taken: a round of zonotopes inverts a matrix of this size per input."""

CHUNK = 2**22
"""Numbers per array of the inputs that are enclosed together."""


class Boxes:
    """A network, ready for the question whether its class changes within l-infinity boxes.

    Args:
        model: A model of one relu layer that offers its matrices.
        rounds: Most rounds of zonotopes that narrow what enters the relus, from 0.
        steps: Steps that improve the slopes of a bound, from 0.
        branches: Bounds that may be spent per box on branches, from 0.

    Raises:
        ConfigError: If the model is too large, or nothing is proven of it.
    """

    @torch.no_grad()
    def __init__(self, model: ProvenModel, *, rounds: int, steps: int, branches: int) -> None:
        exact = in_float64(model)
        assert isinstance(exact, ProvenModel)
        exact.error_bound(torch.zeros(1, dtype=torch.float64))
        form = exact.relu_form()
        if len(form.state) > MOST_UNITS:
            raise ConfigError(
                f"method 'zonotope' takes states of at most {MOST_UNITS} elements, but this model "
                f"has {len(form.state)}; use method 'lipschitz'."
            )
        self._shape: tuple[int, ...] | None = getattr(model, "input_shape", None)
        self._inputs = form.input.shape[1]
        self._form, self._rounds = form, rounds
        self._relaxed, self._adjoint = Relaxed(form), Adjoint(form)
        self._branching = Branching(self._relaxed, self._adjoint, steps=steps, most=branches)

    @property
    def nfe(self) -> int:
        """Products with W or its transpose so far, per row: what a cell evaluation costs."""
        return self._adjoint.nfe

    @torch.no_grad()
    def classes(self, x: Tensor) -> Tensor:
        """Return the class per input, shape (B,), as float64 finds it; it is not proven.

        Args:
            x: Inputs, shape (B, C, H, W), in [0, 1].

        Raises:
            DataError: If the inputs do not fit the model or are not finite.
        """
        rows = self._rows(x)
        logits = self._adjoint.equilibria(rows) @ self._form.readout.T + self._form.offset
        return logits.argmax(dim=1)

    @torch.no_grad()
    def decide(self, x: Tensor, eps: Tensor, best: Tensor) -> Decision:
        """Try to prove that a class is the answer in each box.

        Args:
            x: Inputs, shape (B, C, H, W), in [0, 1].
            eps: Half-widths of their boxes, shape (B,), from 0; boxes are cut off at 0 and 1.
            best: The class per box, shape (B,).

        Raises:
            DataError: If the inputs do not fit the model or are not finite.

        **Guarantee:** deterministic. Where ``proven`` is said, the exact equilibrium of the stored
        weights has this class, and no other logit as large, at every real input of the box; in the
        standard model of floating-point arithmetic.
        """
        rows, eps = self._rows(x), eps.double()
        most = max(1, CHUNK // (len(self._form.state) * (self._inputs + len(self._form.state))))
        parts = []
        for begin in range(0, len(rows), most):
            some = slice(begin, begin + most)
            region = enclose(self._relaxed, self._adjoint, rows[some], eps[some])
            region = tighten(self._relaxed, region, self._rounds)
            parts.append(self._branching.decide(region, best[some]))
        return Decision.joined(parts)

    def _rows(self, x: Tensor) -> Tensor:
        rows = torch.as_tensor(x, dtype=torch.float64).flatten(1)
        shape = tuple(x.shape[1:])
        if self._shape not in (None, shape) or rows.shape[1] != self._inputs:
            raise DataError(
                f"images of shape {tuple(x.shape)} cannot enter this model, which takes (B, "
                f"{', '.join(map(str, self._shape or (self._inputs,)))})."
            )
        if not bool(torch.isfinite(rows).all()):
            raise DataError("the image has values that are not finite; pixels are in [0, 1].")
        return rows


_KNOWN: Known[Boxes] = Known()


def boxes_of(model: ImplicitModel, *, rounds: int, steps: int, branches: int) -> Boxes:
    """Return the boxes of a network; it is prepared once for the same weights.

    Raises:
        ConfigError: If nothing can be proven of the model.
    """
    if not isinstance(model, ProvenModel):
        raise ConfigError(
            "method 'zonotope' needs a model of one relu layer whose equilibrium is proven to "
            f"exist, but {type(model).__name__} is none; use a method that draws noise, or a "
            "model trained with --architecture monotone or lipschitz-bounded, in --form eager."
        )
    return _KNOWN.of(
        model,
        *(rounds, steps, branches),
        make=lambda: Boxes(model, rounds=rounds, steps=steps, branches=branches),
    )
