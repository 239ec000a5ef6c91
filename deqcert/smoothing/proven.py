"""Votes that are proven: the class of the exact equilibrium, whatever the solve did."""

from __future__ import annotations

import time

import numpy as np

from deqcert.proofs.enclosure import UNPROVEN, Enclosure
from deqcert.smoothing.engine import NO_VOTE, SmoothingEngine, Votes
from deqcert.smoothing.input import Input
from deqcert.smoothing.predictor import Predictor


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
        found = proven.cpu().numpy().astype(np.int16)
        predictions[batch.samples] = np.where(found == UNPROVEN, NO_VOTE, found)
        cells, more = cells + int(batch.nfe.sum()), more + batch.overhead + spent
        readouts += predictor.readouts(batch.nfe)
        classes = batch.logits.shape[1]
    total = predictor.spent(cells, n, readouts) + more
    margins = np.full(n, np.nan, dtype=np.float32)
    return Votes(predictions, classes, total, time.perf_counter() - began, margins)
