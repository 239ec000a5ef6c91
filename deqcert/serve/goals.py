"""When a certificate for a request has had enough: its goal, or its deadline."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from deqcert.certifiers.goals import Goal
from deqcert.certifiers.sampling import GROWTH


class Deadline(Goal):
    """End at the last look that is likely to be over before a moment, or when a goal is settled.

    The bounds that are looked at hold at every look at once, so the clock, which may depend on
    anything, cannot make a certificate wrong. The first look is always taken.

    Args:
        goal: What else ends it; None for nothing.
        until: The moment, as ``time.monotonic`` counts; infinity for none.
        text: The whole as an answer states it.
        tell: Called at each look with the radius certified so far, -inf for none.

    Attributes:
        looks: Looks that were taken.
        ended: What ended it: "goal", "deadline" or "samples".
    """

    def __init__(
        self,
        goal: Goal | None,
        until: float,
        text: str,
        tell: Callable[[float], None] = lambda radius: None,
    ) -> None:
        self._goal, self._until, self._text = goal, until, text
        self._tell = tell
        self._last = time.monotonic()
        self.looks = 0
        self.ended = "samples"

    def settled(self, now: NDArray[np.float64], best: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return whether the goal is settled, or the next look would come too late."""
        self.looks += 1
        moment = time.monotonic()
        took, self._last = moment - self._last, moment
        self._tell(float(np.max(now)))
        if self._goal is not None and bool(np.all(self._goal.settled(now, best))):
            self.ended = "goal"
        elif moment + (1.0 + 2.0 * GROWTH) * took >= self._until:
            self.ended = "deadline"
        return np.full(np.shape(now), self.ended != "samples")

    def refuse(self, most: float) -> str | None:
        """Refuse what the goal refuses."""
        return None if self._goal is None else self._goal.refuse(most)

    def describe(self) -> str:
        """Return the goal and the deadline in words."""
        return self._text


class AfterLooks(Goal):
    """End after a number of looks, as an answer on record did.

    Args:
        looks: How many; 0 for all.
    """

    def __init__(self, looks: int) -> None:
        self._left = looks if looks else math.inf

    def settled(self, now: NDArray[np.float64], best: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return whether that many were taken."""
        self._left -= 1
        return np.full(np.shape(now), self._left <= 0)

    def refuse(self, most: float) -> str | None:
        """Refuse nothing: the answer is there."""
        return None

    def describe(self) -> str:
        """Return what it is."""
        return "as recorded"
