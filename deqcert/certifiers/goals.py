"""When enough has been seen: goals that a certificate is drawn for."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deqcert.certifiers.bounds import write_radius
from deqcert.errors import ConfigError
from deqcert.options import parse_number, text


class Goal(ABC):
    """What a certificate is for; sampling and auditing stop once it is settled.

    A goal decides about effort only. The bounds that it looks at hold at every look, so no goal
    can make a certificate wrong.
    """

    @abstractmethod
    def settled(self, now: NDArray[np.float64], best: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return whether further effort is pointless.

        Args:
            now: Radii certified so far, in input units; -inf where nothing is.
            best: The largest radii that are still to be reckoned with, of the same shape; -inf
                where even an abstention is settled.
        """

    @abstractmethod
    def refuse(self, most: float) -> str | None:
        """Say in a clause why the goal is out of reach, or None.

        Args:
            most: The radius of a unanimous vote after all the effort allowed, in input units.
        """

    @abstractmethod
    def describe(self) -> str:
        """Return the goal as ``--goal`` takes it."""


@dataclass(frozen=True)
class Radii(Goal):
    """Decide for each of some radii whether it is certified or will not be.

    Args:
        radii: In input units, at least 0; 0 asks for a class, whatever its radius.

    Raises:
        ConfigError: If there is none, or one is out of range.
    """

    radii: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.radii or not all(0.0 <= radius < math.inf for radius in self.radii):
            raise ConfigError("the goal radii needs one or more numbers from 0.")

    def settled(self, now: NDArray[np.float64], best: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return whether each radius is reached or out of reach."""
        decided = np.ones(np.shape(now), dtype=np.bool_)
        for radius in self.radii:
            decided &= (now >= radius) | (best < radius)
        return decided

    def refuse(self, most: float) -> str | None:
        """Refuse a radius that not even a unanimous vote certifies."""
        largest = max(self.radii)
        if largest <= most:
            return None
        asked = f"the goal asks for radius {_exact(largest)}"
        return f"{asked}, but not even a unanimous vote certifies it"

    def describe(self) -> str:
        """Return the goal as ``--goal`` takes it."""
        return "radii=" + ",".join(map(_exact, self.radii))


@dataclass(frozen=True)
class Relative(Goal):
    """Come within a share of the radius that all the effort allowed would be reckoned to give.

    Args:
        share: In (0, 1); 0.02 gives up two percent of the radius.

    Raises:
        ConfigError: If it is out of range.
    """

    share: float

    def __post_init__(self) -> None:
        if not 0.0 < self.share < 1.0:
            raise ConfigError(
                f"the goal relative is {self.share}, but it must lie strictly between 0 and 1."
            )

    def settled(self, now: NDArray[np.float64], best: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return whether at most the share is missing; an abstention once nothing is in reach."""
        nothing: NDArray[np.bool_] = best == -np.inf
        return nothing | (now >= (1.0 - self.share) * best)

    def refuse(self, most: float) -> str | None:
        """Refuse nothing: any radius is within a share of the best there is."""
        return None

    def describe(self) -> str:
        """Return the goal as ``--goal`` takes it."""
        return f"relative={_exact(self.share)}"


def refuse_goal(goal: Goal | None, most: float, given: str, remedy: str) -> None:
    """Refuse a goal that all the effort allowed could not reach.

    Args:
        goal: The goal, if there is one.
        most: The radius of a unanimous vote after all the effort allowed, in input units.
        given: What allows no more, in words.
        remedy: What would allow more, in words.

    Raises:
        ConfigError: If the goal is out of reach.
    """
    reason = None if goal is None else goal.refuse(most)
    if reason is not None:
        at_most = f"at most {write_radius(most, 3)}"
        raise ConfigError(f"{reason} with {given} ({at_most}); {remedy} or ask for less.")


def parse_goal(given: str) -> Goal | None:
    """Read a goal.

    Args:
        given: ``radii=R,R,...``, ``relative=SHARE``, or ``budget``: spend all that is allowed.

    Returns:
        The goal; None for ``budget``.

    Raises:
        ConfigError: If it is none of these.
    """
    kind, _, value = given.partition("=")
    if given == "budget":
        return None
    read = [parse_number(part, whole=False) for part in value.split(",")]
    numbers = [number for number in read if number is not None]
    if len(numbers) < len(read):
        numbers = []
    if kind == "radii" and numbers:
        return Radii(tuple(sorted(set(numbers))))
    if kind == "relative" and len(numbers) == 1:
        return Relative(numbers[0])
    raise ConfigError(
        f"goal is {given!r}, but it must read budget, radii=0.25,0.5 or relative=0.02."
    )


def _exact(number: float) -> str:
    """Write a number in few digits that read as the very same number."""
    short = f"{number:g}"
    return short if float(short) == number else repr(number)


@dataclass(frozen=True, kw_only=True)
class UntilSettled:
    """A method that ends early on an input whose goal is settled.

    Args:
        goal: When an image has had enough: budget (all that is allowed), radii=R,R,... (each of
            these is certified or out of reach; 0 asks for a class), or relative=SHARE (within that
            share of the radius that all that is allowed could give).
    """

    goal: Goal | None = text("budget", metavar="GOAL", convert=parse_goal)

    def until_settled(self, stated: str, most: str) -> str:
        """Add to what a certificate states why an image has as many looks as it has.

        Args:
            stated: What else is stated.
            most: All that is allowed, as in "100 audited".
        """
        if self.goal is None:
            return stated
        return f"{stated}; at most {most} until settled: {self.goal.describe()}"
