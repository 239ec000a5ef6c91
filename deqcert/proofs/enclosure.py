"""Where the exact equilibrium is proven to be, and which class it has."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from deqcert.errors import ConfigError, DataError
from deqcert.models.base import EnclosedModel, ImplicitModel
from deqcert.proofs.injection import injection_error
from deqcert.solvers import Solver, StopRule, bind, get_solver

M = TypeVar("M", bound=ImplicitModel)

UNPROVEN = -1
"""In place of a class that is not proven."""

MARGIN = 1.0 + 1e-9
"""More than the rounding of norms and products in float64, for states below a million elements."""


@dataclass(frozen=True)
class Leads:
    """What is proven of the exact equilibrium, per input.

    Attributes:
        best: The class with the largest logit, shape (B,).
        gaps: Per class a lower bound of how much ``best`` leads over it, shape (B, K), float64.
        error: Bound of the distance between the state that was found and the exact one, (B,).
        logits: Logits of the state that was found, shape (B, K), float64; they prove nothing.
        nfe: Cell evaluations, shape (B,).
        states: The states that were found, shape (B, D), float64.
    """

    best: Tensor
    gaps: Tensor
    error: Tensor
    logits: Tensor
    nfe: Tensor
    states: Tensor

    @property
    def classes(self) -> Tensor:
        """The class of the exact equilibrium per row, or -1 where it is not proven, shape (B,)."""
        # Written so that anything that is not a number proves nothing.
        won = self.gaps > 0.0
        won.scatter_(1, self.best[:, None], torch.isfinite(self.error)[:, None])
        return torch.where(won.all(dim=1), self.best, UNPROVEN)


class Enclosure:
    """Prove from a residual which class the exact equilibrium has.

    A state z with residual r = ||f(z) - z|| is within e = ``error_bound(r)`` of the equilibrium z*.
    If logit A exceeds every other logit j at z by more than ``readout_lipschitz()[A, j] * e``, it
    exceeds them at z* too. All of it is evaluated in float64, on the state it is about, and every
    bound is widened by what rounding can do, so that a proof is one for exact arithmetic.

    Args:
        model: A model that offers the bounds; a torch module is copied, in float64.
        what: Who asks, in a sentence that refuses.

    Raises:
        ConfigError: If it offers none, or they do not hold for its weights.
    """

    def __init__(self, model: ImplicitModel, what: str = "method 'enclosed'") -> None:
        if not isinstance(model, EnclosedModel):
            raise ConfigError(
                f"{what} needs a model whose residual bounds its error, but "
                f"{type(model).__name__} offers no error_bound; use another method, or a model "
                "trained with --architecture contractive or monotone."
            )
        self.model = in_float64(model)
        with torch.no_grad():
            self.model.error_bound(torch.zeros(1, dtype=torch.float64))
            self.lipschitz = self.model.readout_lipschitz()

    def classes(self, z: Tensor, fz: Tensor, injection: Tensor) -> Tensor:
        """Return the proven classes.

        Args:
            z: States, shape (B, D), float64.
            fz: The model's cell at these very states, shape (B, D), float64.
            injection: What entered the cell, shape (B, ...), float64.

        Returns:
            The class of the exact equilibrium per row, or -1 where it is not proven; shape (B,).
        """
        best, gaps, distance = self.gaps(z, fz, injection)
        # Written so that anything that is not a number proves nothing.
        won = gaps > 0.0
        won.scatter_(1, best[:, None], torch.isfinite(distance)[:, None])
        return torch.where(won.all(dim=1), best, UNPROVEN)

    def gaps(
        self, z: Tensor, fz: Tensor, injection: Tensor, inexact: Tensor | float = 0.0
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Bound by how much a class leads at the exact equilibrium.

        Args:
            z: States, shape (B, D), float64.
            fz: The model's cell at these very states, shape (B, D), float64.
            injection: What entered the cell, shape (B, ...), float64.
            inexact: Per row, how far the injection may be from the exact one, shape (B,).

        Returns:
            The class with the largest logit at z, shape (B,); per class a lower bound of how much
            it leads over that one at the exact equilibrium, shape (B, K), at most 0 for the class
            itself; and the bound of ||z - z*||, shape (B,).
        """
        in_cell, in_logits = self.model.rounding(z, injection)
        residual = MARGIN * (torch.linalg.vector_norm(fz - z, dim=1) + inexact) + in_cell
        distance = MARGIN * self.model.error_bound(residual)
        logits = self.model.readout(z)
        best = logits.argmax(dim=1, keepdim=True)
        gap = logits.gather(1, best) - logits - in_logits[:, None]
        best = best.squeeze(1)
        return best, gap - MARGIN * self.lipschitz[best] * distance[:, None], distance

    @torch.no_grad()
    def solve(self, x: Tensor, *, tol: float, depth: int) -> Leads:
        """Solve for inputs in float64, and bound what is left of the error.

        Args:
            x: Inputs, shape (B, C, H, W), in [0, 1].
            tol: Relative residual that ends a solve.
            depth: Most cell evaluations.

        Raises:
            ConfigError: If the model does not bound what rounding does to its injection.
            DataError: If the inputs do not fit the model or are not finite.
        """
        images, model = x.double(), self.model
        if not bool(torch.isfinite(images).all()):
            raise DataError("the image has values that are not finite; pixels are in [0, 1].")
        injection = model.inject(images)
        stop = StopRule(tol=tol, max_nfe=depth)
        start = model.initial_state(injection)
        solved = get_solver("anderson").solve(bind(model.cell, injection), start, stop)
        z = solved.z
        inexact = injection_error(model, images, injection)
        best, gaps, error = self.gaps(z, model.cell(z, injection), injection, inexact)
        return Leads(best, gaps, error, model.readout(z), solved.nfe + 1, z)

    @torch.no_grad()
    def prove(
        self, z: Tensor, injection: Tensor, solver: Solver[Any], depth: int
    ) -> tuple[Tensor, int]:
        """Prove the class per row, solving on from the given states where it is not proven.

        Args:
            z: States from anywhere, shape (B, D); rows that are not finite begin again cold.
            injection: What enters the cell, shape (B, ...).
            solver: How rows that are not proven go on.
            depth: Most cell evaluations per row, at least 1; each is also a proof.

        Returns:
            The class of the exact equilibrium per row or -1, shape (B,), int64; and the cell
            evaluations spent on all rows together.
        """
        z, injection = z.double(), injection.double()
        finite = torch.isfinite(z).all(dim=1, keepdim=True)
        z = torch.where(finite, z, self.model.initial_state(injection))
        proven = torch.full((len(z),), UNPROVEN, device=z.device)
        rows = torch.arange(len(z), device=z.device)
        state, spent = None, 0
        for left in reversed(range(depth)):
            fz = self.model.cell(z, injection)
            spent += len(rows)
            found = self.classes(z, fz, injection)
            proven[rows] = found
            unproven = torch.nonzero(found == UNPROVEN).squeeze(1)
            if not left or not len(unproven):
                break
            rows, z, fz, injection = (part[unproven] for part in (rows, z, fz, injection))
            if state is None:
                state = solver.init(z)
            else:
                state.select(unproven)
            following = torch.empty_like(z)
            solver.step(z, fz, state, following)
            z = following
        return proven, spent


def in_float64(model: M) -> M:
    """Return a copy with the same weights, exactly, that computes in float64."""
    exact = copy.deepcopy(model)
    if isinstance(exact, torch.nn.Module):
        exact.double()
    return exact
