"""Few noisy copies of many inputs, solved together: one solve per input fills no batch alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deqcert.errors import ConfigError
from deqcert.smoothing.engine import NO_VOTE, SmoothingEngine
from deqcert.smoothing.input import Input
from deqcert.smoothing.noise import check_counters, noisy_copies
from deqcert.smoothing.predictor import Predictor
from deqcert.smoothing.stream import solve_stream


@dataclass(frozen=True, slots=True)
class Answers:
    """What the base classifier says of n noisy copies of each of B inputs.

    Attributes:
        logits: Shape (B, n, K), float64.
        predictions: Class per copy, shape (B, n), int16; -1 where it was not solved, or its logits
            are not finite.
        nfe: Cell evaluations per input, shape (B,), float64; a learned start counts by its cost.
    """

    logits: NDArray[np.float64]
    predictions: NDArray[np.int16]
    nfe: NDArray[np.float64]

    @property
    def solved(self) -> NDArray[np.bool_]:
        """Whether a copy was solved, shape (B, n)."""
        return np.asarray(self.predictions != NO_VOTE)


@dataclass(frozen=True)
class Copies:
    """Noisy copies of inputs, and how they are solved.

    Args:
        engine: Holds the model, sigma and the seed.
        predictor: The base classifier; its start is a function of its own row alone.

    Raises:
        ConfigError: If the start chains rows.
    """

    engine: SmoothingEngine
    predictor: Predictor

    def __post_init__(self) -> None:
        if not self.predictor.independent:
            raise ConfigError(
                f"start '{self.predictor.start.name}' chains samples, but here the answer to a "
                "noisy copy must be a function of that copy alone; use --start cold or learned."
            )

    def answers(self, inputs: Sequence[Input], stage: int, n: int) -> Answers:
        """Solve the first n noisy copies of each input.

        Args:
            inputs: The inputs, each with the index that selects its noise.
            stage: What the copies are for; different stages never share noise.
            n: Copies per input, from 1.

        Returns:
            The answers. Those for one input do not depend on the others that it is solved with.

        Raises:
            ConfigError: If a number is out of range.
            DataError: If an input does not fit the model.
        """
        engine, predictor = self.engine, self.predictor
        clean = [engine.prepare(input.x) for input in inputs]
        for input in inputs:
            check_counters(seed=engine.seed, index=input.index, stage=engine.base_stage + stage)
        total = len(inputs) * n
        logits: NDArray[np.float64] | None = None
        predictions = np.full(total, NO_VOTE, dtype=np.int16)
        cells = np.zeros(total, dtype=np.int64)

        def blocks() -> Iterator[tuple[NDArray[np.int64], Tensor]]:
            for first in range(0, total, engine.batch):
                ids = np.arange(first, min(first + engine.batch, total), dtype=np.int64)
                parts = [
                    noisy_copies(
                        clean[i],
                        ids[ids // n == i] % n,
                        sigma=engine.sigma,
                        seed=engine.seed,
                        index=inputs[i].index,
                        stage=engine.base_stage + stage,
                        levels=engine.levels,
                    )
                    for i in np.unique(ids // n)
                ]
                yield ids, engine.model.inject(torch.cat(parts).to(engine.dtype))

        with torch.no_grad():
            for rows in solve_stream(engine.model, predictor, blocks(), engine.batch):
                batch = engine.read(rows, predictor.stop)
                if logits is None:
                    logits = np.zeros((total, batch.logits.shape[1]))
                logits[batch.samples] = batch.logits.double().cpu().numpy()
                predictions[batch.samples] = batch.predictions
                cells[batch.samples] = batch.nfe
        assert logits is not None
        each = cells.reshape(len(inputs), n)
        spent = [predictor.spent(int(c.sum()), n, predictor.readouts(c)) for c in each]
        return Answers(
            logits.reshape(len(inputs), n, -1),
            predictions.reshape(len(inputs), n),
            np.array(spent, dtype=np.float64),
        )
