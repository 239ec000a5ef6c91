"""Samples without a vote, counted while votes are cast, and what to say about them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deqcert.smoothing.engine import VoteBatch
    from deqcert.smoothing.predictor import Predictor

NOTEWORTHY = 0.01
"""Share of the samples without a vote that is worth a sentence."""


class Silence:
    """A callback of an engine that counts the samples that had no vote.

    Attributes:
        cast: Samples solved.
        silent: Those of them that had no vote.
    """

    def __init__(self) -> None:
        self.cast = self.silent = 0

    def __call__(self, batch: VoteBatch, *, predictor: Predictor, stage: int, number: int) -> None:
        """Take note of a solved batch; see :class:`deqcert.smoothing.Callback`."""
        self.cast += len(batch.predictions)
        self.silent += int((batch.predictions < 0).sum())

    @property
    def share(self) -> float:
        """Share of the samples that had no vote; 0 before any was solved."""
        return self.silent / max(self.cast, 1)

    def note(self) -> str | None:
        """Return a sentence for whoever reads the results; None where there is nothing to say."""
        if self.share <= NOTEWORTHY:
            return None
        return (
            f"{100 * self.share:.1f}% of the samples had no vote, because their solves did not "
            "converge; a larger --depth or --tol may give them one"
        )
