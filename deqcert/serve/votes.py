"""The votes of one request, kept as they are cast."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from deqcert.smoothing import Predictor
from deqcert.smoothing.engine import NO_VOTE, VoteBatch


class Cast:
    """A callback of an engine that keeps the class of every sample, by stage.

    Args:
        tell: Called after each batch.
    """

    def __init__(self, tell: Callable[[], None] = lambda: None) -> None:
        self._parts: dict[int, list[_Part]] = {}
        self._counts: dict[int, NDArray[np.int64]] = {}
        self._tell = tell
        self.classes = 0

    def __call__(self, batch: VoteBatch, *, predictor: Predictor, stage: int, number: int) -> None:
        """Take note of a solved batch; see :class:`deqcert.smoothing.Callback`."""
        self.classes = batch.logits.shape[1]
        self._parts.setdefault(int(stage), []).append(_Part(batch.samples, batch.predictions))
        # As they come: who shares batches with many gets its votes in as many small parts.
        counts = self._counts.setdefault(int(stage), np.zeros(self.classes, dtype=np.int64))
        counts += count_votes(batch.predictions, self.classes)
        self._tell()

    def votes(self) -> dict[int, NDArray[np.int16]]:
        """Return by stage the class per sample, shape (n,), in the order of the samples."""
        found = {}
        for stage, parts in self._parts.items():
            samples = np.concatenate([part.samples for part in parts])
            predictions = np.concatenate([part.predictions for part in parts])
            found[stage] = predictions[np.argsort(samples, kind="stable")]
        return found

    def counts(self, stage: int) -> list[int]:
        """Return the votes per class of a stage, so far."""
        found = self._counts.get(int(stage))
        return [0] * self.classes if found is None else found.tolist()


class _Part:
    """Samples of a batch and their classes; the batch's states are not kept."""

    __slots__ = ("predictions", "samples")

    def __init__(self, samples: NDArray[np.int64], predictions: NDArray[np.int16]) -> None:
        self.samples, self.predictions = samples, predictions


def count_votes(predictions: NDArray[np.int16], classes: int) -> NDArray[np.int64]:
    """Return the votes per class, shape (K,); samples without a vote count for none."""
    return np.bincount(predictions[predictions != NO_VOTE], minlength=classes).astype(np.int64)
