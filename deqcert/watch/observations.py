"""What is watched: answers, one after the other, from wherever they are kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Observation:
    """One answer that was given.

    Args:
        key: What its source calls it, such as the run and the index of the image.
        predict: The vote's class; None for an abstention.
        radius: Certified radius, in [0, 1] pixels.
        label: The true class, where it is known by now.
        clean: Class of the input without noise, where it was looked at.
        scores: How strange the input is, by the name of the score; larger is stranger.
        evidence: What an incident tells of it: votes, n, seed and so on, as JSON values.
        replay: The command that casts its votes again; None where there is none.
    """

    key: str
    predict: int | None
    radius: float
    label: int | None = None
    clean: int | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    evidence: Mapping[str, Any] = field(default_factory=dict)
    replay: str | None = None


class Source(Protocol):
    """A stream of answers that only ever grows at its end."""

    @property
    def name(self) -> str:
        """What to call it."""
        ...

    @property
    def parameters(self) -> Sequence[Mapping[str, Any]]:
        """What decided the answers of each of its parts, as a run's manifest tells it.

        Hashes, sigma, n, method and so on.
        """
        ...

    @property
    def notes(self) -> Mapping[str, Any]:
        """Names and paths as they were given; ``settings`` as of a run."""
        ...

    @property
    def skipped(self) -> int:
        """Answers up to the position that are of another kind, and were passed over."""
        ...

    position: Any
    """How far it was read, as a JSON value that means something to it alone; None at first.

    Whoever goes on sets it before reading, and keeps it afterwards.
    """

    def observations(self) -> Iterator[Observation]:
        """Yield what came after the position, moving it along.

        Raises:
            RunError: If what was read before is no longer there, or has changed.
        """
        ...

    def labelled(self) -> Iterator[Observation]:
        """Yield answers that were read and whose label became known later, each only once ever.

        Their order is that in which the labels came.
        """
        ...

    def images(self, observations: Sequence[Observation]) -> NDArray[np.float32]:
        """Return the inputs of some of its observations, shape (B, C, H, W), in [0, 1].

        Raises:
            DataError: If they are not to be had.
        """
        ...
