"""From the points of an attack to the nearest one where another class is answered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from deqcert.attacks.ball import distances, project, to_grid
from deqcert.attacks.evaluation.judge import Judge
from deqcert.smoothing import Input

STEPS = 5
"""Halvings of a segment."""
STRETCHES = (1.02, 1.15, 1.4)
"""Where on a segment verdicts are given, in times of what the halvings ended at."""


def most_verdicts(points: int) -> int:
    """Return how many verdicts one attack takes at most on an image, from so many points."""
    return 1 + points + len(STRETCHES)


class Evidence(Protocol):
    """What speaks for another class at a point."""

    @property
    def leader(self) -> int:
        """The other class."""
        ...

    def words(self, answer: int) -> str:
        """Say what speaks against the certified class."""
        ...

    def facts(self) -> dict[str, Any]:
        """Return what else it takes to see it again."""
        ...

    def arrays(self) -> dict[str, Any]:
        """Return what an alarm's file holds of it."""
        ...


@dataclass(frozen=True)
class Counterexample:
    """A point where the verdict is another class than the certified one.

    Args:
        point: Shape (C, H, W).
        distance: Its distance to the image in the certificate's norm, in float64.
        verdict: What was found there.
    """

    point: Tensor
    distance: float
    verdict: Evidence


@dataclass(frozen=True)
class Reached:
    """What an attack has reached on an image.

    Args:
        lead: Largest share of the votes, as guessed, by which another class leads inside the
            certified radius: -1 where all votes are for the certified class. NaN without a radius.
        counterexample: The nearest point with a verdict against the class, or None.
    """

    lead: float
    counterexample: Counterexample | None


def nearest_counterexample(
    judge: Judge, x: Tensor, index: int, answer: int, radius: float, points: Tensor, first: int
) -> Reached:
    """Look for the nearest point of another class, first of all inside the certified radius.

    Every point is brought into the certified ball, and the one where another class leads most gets
    a verdict unless its class plainly leads. Then, from the nearest point to the farthest, those at
    which another class leads clearly get one, and the first that it goes against is drawn back
    towards the image: by halving, and verdicts from there outwards. With exact noise all that is
    judged is brought to the grid of the images first.

    Args:
        judge: What decides.
        x: The image, shape (C, H, W).
        index: Its index in the data set.
        answer: The class that was certified.
        radius: The certified radius, at least 0.
        points: What an attack has found, shape (P, C, H, W).
        first: Number of the first verdict; up to :func:`most_verdicts` are used.
    """
    lead, found = float("nan"), []
    if radius > 0.0:
        balls = torch.full((len(points),), radius, dtype=torch.float64)
        inner = _placed(judge, project(points, x.expand_as(points), balls), x, balls)
        leads = [judge.lead(Input(point, index), answer) for point in inner]
        lead = max(leads)
        if lead > -2.0 / judge.guesses**0.5:
            found.append(_test(judge, x, index, answer, inner[leads.index(lead)], first))
    points = _placed(judge, points, x)
    for number, point in enumerate(points[distances(points, x).argsort()], start=first + 1):
        if judge.lead(Input(point, index), answer) >= judge.needed:
            far = _test(judge, x, index, answer, point, number)
            if far is not None:
                last = first + 1 + len(points)
                found += [far, _draw_back(judge, x, index, answer, point, last)]
                break
    known = [one for one in found if one is not None]
    return Reached(lead, min(known, key=lambda one: one.distance, default=None))


def _draw_back(
    judge: Judge, x: Tensor, index: int, answer: int, point: Tensor, first: int
) -> Counterexample | None:
    """Find where on the segment to a point another class begins to lead clearly, and test there.

    The halvings go by guesses from the same few votes, which may all err to one side.
    """
    low, high = 0.0, 1.0
    for _ in range(STEPS):
        middle = 0.5 * (low + high)
        if judge.lead(Input(_between(judge, x, point, middle), index), answer) >= judge.needed:
            high = middle
        else:
            low = middle
    for number, stretch in enumerate(STRETCHES, start=first):
        if stretch * high >= 1.0:
            break
        found = _test(judge, x, index, answer, _between(judge, x, point, stretch * high), number)
        if found is not None:
            return found
    return None


def _test(
    judge: Judge, x: Tensor, index: int, answer: int, point: Tensor, number: int
) -> Counterexample | None:
    verdict = judge.verdict(Input(point, index), answer, number)
    if not verdict.differs:
        return None
    return Counterexample(point, float(distances(point[None], x)[0]), verdict)


def _between(judge: Judge, x: Tensor, point: Tensor, share: float) -> Tensor:
    middle = torch.lerp(x.double(), point.double(), share).to(x.dtype)
    return _placed(judge, middle[None], x)[0]


def _placed(judge: Judge, points: Tensor, x: Tensor, radii: Tensor | None = None) -> Tensor:
    """Bring points to where the judge's engine can make noisy copies of them."""
    levels = judge.engine.levels
    if levels is None:
        return points
    balls = torch.full((len(points),), torch.inf) if radii is None else radii
    return to_grid(points, x.expand_as(points), balls, levels)
