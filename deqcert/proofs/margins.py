"""By how much a class leads at the exact equilibrium, and how far the input must move to end it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from deqcert.errors import ConfigError, DataError
from deqcert.models.base import ImplicitModel, ProvenModel
from deqcert.models.hashes import weights_hash
from deqcert.proofs.enclosure import Enclosure
from deqcert.proofs.lipschitz import pairwise_bounds
from deqcert.solvers import StopRule, bind, get_solver

DOWN = 1.0 - 1e-12
"""Less than the rounding of a quotient can take away."""


@dataclass(frozen=True)
class Lead:
    """What is proven of the exact equilibrium for one input.

    Attributes:
        best: The class with the largest logit.
        gaps: Per class a lower bound of how much ``best`` leads over it, shape (K,), float64.
        error: Bound of the distance between the state that was found and the exact one.
        nfe: Cell evaluations.
    """

    best: int
    gaps: Tensor
    error: float
    nfe: int


class Margins:
    """A network's proven constants, computed once, and its proven margins, per input.

    Args:
        model: A model that offers its matrices.
        rule: One of :data:`deqcert.proofs.RULES`.

    Raises:
        ConfigError: If it offers none, or nothing is proven of its weights.
    """

    def __init__(self, model: ProvenModel, rule: str) -> None:
        self._enclosure = Enclosure(model, "method 'lipschitz'")
        self._model: ProvenModel = self._enclosure.model  # type: ignore[assignment]
        self.constants = pairwise_bounds(self._model.relu_form(), rule)
        """Shape (K, K), logits per pixel unit."""

    def at(self, x: ArrayLike | Tensor, *, tol: float, depth: int) -> Lead:
        """Solve for an input in float64, and bound what is left of the error.

        Args:
            x: The input, shape (C, H, W), in [0, 1].
            tol: Relative residual that ends the solve.
            depth: Most cell evaluations.

        Raises:
            DataError: If the input does not fit the model or is not finite.
        """
        image = torch.as_tensor(x, dtype=torch.float64)
        return self.each(image[None], tol=tol, depth=depth)[0]

    @torch.no_grad()
    def each(self, x: ArrayLike | Tensor, *, tol: float, depth: int) -> list[Lead]:
        """Do the same for several inputs together, shape (B, C, H, W)."""
        z, fz, injection, inexact, nfe = self._solve(x, tol, depth)
        best, gaps, error = self._enclosure.gaps(z, fz, injection, inexact)
        return [
            Lead(int(best[row]), gaps[row], float(error[row]), int(nfe[row]))
            for row in range(len(z))
        ]

    @torch.no_grad()
    def differences(
        self, x: ArrayLike | Tensor, *, tol: float, depth: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
        """Bound every difference of two logits at the exact equilibrium of an input.

        Args:
            x: As for :meth:`at`, and so are the others.
            tol: Relative residual that ends the solve.
            depth: Most cell evaluations.

        Returns:
            Logit i minus logit j where the solve ended, shape (K, K); how far each may be from that
            of the exact equilibrium, shape (K, K); and the cell evaluations.
        """
        image = torch.as_tensor(x, dtype=torch.float64)
        z, fz, injection, inexact, nfe = self._solve(image[None], tol, depth)
        found, error = self._enclosure.differences(z, fz, injection, inexact)
        return found[0].numpy(), error[0].numpy(), int(nfe[0])

    def radius(self, lead: Lead) -> tuple[float, int]:
        """Return the largest radius that the constants prove, and the class that limits it.

        Anything that is not a number proves nothing: the radius is then 0.
        """
        rivals = [j for j in range(len(lead.gaps)) if j != lead.best]
        radii = {j: self._reach(lead, j) for j in rivals}
        rival = min(radii, key=radii.__getitem__)
        return radii[rival], rival

    def _solve(
        self, x: ArrayLike | Tensor, tol: float, depth: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return states, the cell at them, injections, their rounding, and evaluations made."""
        images = torch.as_tensor(x, dtype=torch.float64)
        if not bool(torch.isfinite(images).all()):
            raise DataError("the image has values that are not finite; pixels are in [0, 1].")
        model = self._model
        injection = model.inject(images)
        start = model.initial_state(injection)
        stop = StopRule(tol=tol, max_nfe=depth)
        solved = get_solver("anderson").solve(bind(model.cell, injection), start, stop)
        z, inexact = solved.z, model.injection_rounding(images)
        return z, model.cell(z, injection), injection, inexact, solved.nfe + 1

    def _reach(self, lead: Lead, rival: int) -> float:
        gap, constant = float(lead.gaps[rival]), float(self.constants[lead.best, rival])
        if not gap > 0.0 or not constant >= 0.0:
            return 0.0
        return DOWN * gap / constant if constant > 0.0 else float("inf")


_KNOWN: dict[tuple[str, str, str], Margins] = {}
_MOST = 8


def margins_of(model: ImplicitModel, rule: str) -> Margins:
    """Return the margins of a network; its constants are computed once for the same weights.

    Raises:
        ConfigError: If nothing can be proven of the model.
    """
    if not isinstance(model, ProvenModel):
        raise ConfigError(
            "method 'lipschitz' needs a model whose Lipschitz constants can be proven, but "
            f"{type(model).__name__} offers none; use a method that draws noise, or a model "
            "trained with --architecture monotone or contractive, in --form eager."
        )
    key = (weights_hash(model), repr(getattr(model, "config", type(model))), rule)
    if key not in _KNOWN:
        while len(_KNOWN) >= _MOST:
            del _KNOWN[next(iter(_KNOWN))]
        _KNOWN[key] = Margins(model, rule)
    return _KNOWN[key]
