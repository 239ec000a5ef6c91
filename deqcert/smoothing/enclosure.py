"""Votes that are proven: the class of the exact equilibrium, whatever the solve did."""

from __future__ import annotations

import copy
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deqcert.errors import ConfigError
from deqcert.models.base import EnclosedModel, ImplicitModel
from deqcert.smoothing.engine import NO_VOTE, SmoothingEngine, Votes
from deqcert.smoothing.input import Input
from deqcert.smoothing.predictor import Predictor
from deqcert.solvers import Solver

MARGIN = 1.0 + 1e-9
"""More than the rounding of norms and products in float64, for states below a million elements."""


class Enclosure:
    """Prove from a residual which class the exact equilibrium has.

    A state z with residual r = ||f(z) - z|| is within e = ``error_bound(r)`` of the equilibrium z*.
    If logit A exceeds every other logit j at z by more than ``readout_lipschitz()[A, j] * e``, it
    exceeds them at z* too. All of it is evaluated in float64, on the state it is about, and every
    bound is widened by what rounding can do, so that a proof is one for exact arithmetic.

    Args:
        model: A model that offers the bounds; a torch module is copied, in float64.

    Raises:
        ConfigError: If it offers none, or they do not hold for its weights.
    """

    def __init__(self, model: ImplicitModel) -> None:
        if not isinstance(model, EnclosedModel):
            raise ConfigError(
                "method 'enclosed' needs a model whose residual bounds its error, but "
                f"{type(model).__name__} offers no error_bound; use another method, or a model "
                "trained with --architecture contractive."
            )
        self.model = _in_float64(model)
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
        in_cell, in_logits = self.model.rounding(z, injection)
        residual = MARGIN * torch.linalg.vector_norm(fz - z, dim=1) + in_cell
        distance = MARGIN * self.model.error_bound(residual)
        logits = self.model.readout(z)
        best = logits.argmax(dim=1, keepdim=True)
        gap = logits.gather(1, best) - logits - in_logits[:, None]
        # Written so that anything that is not a number proves nothing.
        won = gap > MARGIN * self.lipschitz[best.squeeze(1)] * distance[:, None]
        won.scatter_(1, best, torch.isfinite(distance)[:, None])
        return torch.where(won.all(dim=1), best.squeeze(1), NO_VOTE)

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
        proven = torch.full((len(z),), NO_VOTE, device=z.device)
        rows = torch.arange(len(z), device=z.device)
        state, spent = None, 0
        for left in reversed(range(depth)):
            fz = self.model.cell(z, injection)
            spent += len(rows)
            found = self.classes(z, fz, injection)
            proven[rows] = found
            unproven = torch.nonzero(found == NO_VOTE).squeeze(1)
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


def proven_votes(
    engine: SmoothingEngine,
    enclosure: Enclosure,
    predictor: Predictor,
    input: Input,
    stage: int,
    n: int,
    *,
    depth: int,
) -> Votes:
    """Classify n noisy copies of an input by their exact equilibria, as far as these are proven.

    Args:
        engine: The engine, which holds the model, sigma and the seed.
        enclosure: Of the engine's model.
        predictor: Where the states come from that proofs begin at; any start.
        input: The input, and the index that selects its noise.
        stage: What the samples are for; different stages never share noise.
        n: Number of copies, from 1.
        depth: Most cell evaluations for the proof of a vote, at least 1.

    Returns:
        Votes whose predictions are proven classes, -1 where none was proven; nfe counts the
        predictor's evaluations and those of the proofs. Their margins are not measured: NaN.

    Raises:
        ConfigError: If a number is out of range.
        DataError: If the input does not fit the model.
    """
    began = time.perf_counter()
    predictions = np.full(n, NO_VOTE, dtype=np.int16)
    cells = readouts = more = classes = 0
    for batch in engine.batches(predictor, input, stage, np.arange(n, dtype=np.int64)):
        proven, spent = enclosure.prove(batch.z, batch.injection, predictor.solver, depth)
        predictions[batch.samples] = proven.cpu().numpy().astype(np.int16)
        cells, more = cells + int(batch.nfe.sum()), more + batch.overhead + spent
        readouts += predictor.readouts(batch.nfe)
        classes = batch.logits.shape[1]
    total = predictor.spent(cells, n, readouts) + more
    margins = np.full(n, np.nan, dtype=np.float32)
    return Votes(predictions, classes, total, time.perf_counter() - began, margins)


def _in_float64(model: EnclosedModel) -> EnclosedModel:
    """Return a copy with the same weights, exactly, that computes in float64."""
    exact = copy.deepcopy(model)
    if isinstance(exact, torch.nn.Module):
        exact.double()
    return exact
