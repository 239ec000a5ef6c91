"""Hold certificates against attacks: what breaks inside its radius is an alarm."""

from __future__ import annotations

from deqcert.challenge.base import base_classes
from deqcert.challenge.judge import Judge, Verdict
from deqcert.challenge.outcome import Alarm, Outcome, outcome_layout
from deqcert.challenge.runner import Challenge, Subject, challenge_images
from deqcert.challenge.search import most_verdicts

__all__ = [
    "Alarm",
    "Challenge",
    "Judge",
    "Outcome",
    "Subject",
    "Verdict",
    "base_classes",
    "challenge_images",
    "most_verdicts",
    "outcome_layout",
]
