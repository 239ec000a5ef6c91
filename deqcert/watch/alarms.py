"""What an alarm is about: how often something happens, or how strange inputs are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from deqcert.registry import Registry
from deqcert.watch.observations import Observation

Event = Callable[[Observation, float], bool | None]
"""Whether an answer counts, given r0; None where it does not say (not looked at, no label yet)."""


@dataclass(frozen=True)
class Rate:
    """An alarm on how often something happens.

    Attributes:
        event: Whether it happened.
        about: What happens, to be read after "how often".
        needs: What an answer must come with: "clean" (a look without noise), "label", or "".
    """

    event: Event
    about: str
    needs: str = ""


def _abstained(seen: Observation, radius: float) -> bool | None:
    return seen.predict is None


def _below(seen: Observation, radius: float) -> bool | None:
    return seen.predict is None or seen.radius < radius


def _disagreed(seen: Observation, radius: float) -> bool | None:
    if seen.clean is None:
        return None
    return seen.predict is not None and seen.predict != seen.clean


def _wrong(seen: Observation, radius: float) -> bool | None:
    if seen.label is None:
        return None
    return seen.predict is not None and seen.predict != seen.label


RATES: Registry[Rate] = Registry(
    "alarm",
    {
        "abstention": Rate(_abstained, "the vote abstains"),
        "radius": Rate(_below, "no class is certified at the radius"),
        "disagreement": Rate(_disagreed, "the vote's class is not the clean answer's", "clean"),
        "error": Rate(_wrong, "the vote's class is not the label", "label"),
    },
)
"""Alarms on rates; add yours with ``RATES.register``. Every score has an alarm of its own name."""
