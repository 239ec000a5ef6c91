"""The votes of an earlier run, as a changed model is certified from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

DOUBTS = 256
"""Steps in which a vote's doubt is kept."""


@dataclass(frozen=True, slots=True)
class KeptVotes:
    """How the noisy copies of one input were classified, as a run keeps it.

    Attributes:
        selected: Class that the run chose from its selection noise; None where no sample voted.
        classes: Number of classes.
        predictions: Class per sample of the estimate, shape (n,), int16; -1 where it has no vote.
        doubt: In which 256th of the samples its margin lies, shape (n,), uint8, the smallest
            margins first. It says where an audit looks first, and nothing rests on it.
    """

    selected: int | None
    classes: int
    predictions: NDArray[np.int16]
    doubt: NDArray[np.uint8]

    @property
    def votes(self) -> int:
        """Samples that voted for the selected class."""
        return 0 if self.selected is None else int(np.sum(self.predictions == self.selected))

    @property
    def voters(self) -> NDArray[np.int64]:
        """Those samples, the most doubtful first."""
        return self._doubtful_first(self.predictions == self.selected)

    @property
    def others(self) -> NDArray[np.int64]:
        """All other samples, the most doubtful first."""
        return self._doubtful_first(self.predictions != self.selected)

    def _doubtful_first(self, which: NDArray[np.bool_]) -> NDArray[np.int64]:
        chosen = np.flatnonzero(which)
        return chosen[np.argsort(self.doubt[chosen], kind="stable")]


class ParentRun(Protocol):
    """A finished run whose votes are there, sample by sample."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """What the run is and whose votes it holds, as JSON values."""
        ...

    @property
    def voted_by(self) -> str:
        """What cast the votes, in words."""
        ...

    @property
    def place(self) -> str:
        """Where the run is, as it was given."""
        ...

    @property
    def stopped(self) -> bool:
        """Whether what was voted decided after how many samples an image stopped."""
        ...

    @property
    def independent(self) -> bool:
        """Whether each vote is a function of its own noisy copy."""
        ...

    @property
    def classes(self) -> int:
        """Classes of the model that voted."""
        ...

    def votes(self, index: int) -> KeptVotes:
        """Return the votes for an image by its index in the data set.

        Raises:
            RunError: If they are not there, or damaged.
        """
        ...


def doubts(margins: ArrayLike) -> NDArray[np.uint8]:
    """Return in which 256th of the samples each one's margin lies, the smallest first.

    Args:
        margins: Shape (n,).
    """
    order = np.argsort(np.asarray(margins), kind="stable")
    found = np.empty(len(order), dtype=np.uint8)
    found[order] = np.arange(len(order)) * DOUBTS // max(len(order), 1)
    return found
