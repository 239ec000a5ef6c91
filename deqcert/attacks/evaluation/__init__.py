"""Hold certificates against attacks: what breaks inside its radius is an alarm."""

from __future__ import annotations

from deqcert.attacks.evaluation.clean import base_classes
from deqcert.attacks.evaluation.judge import Judge, Verdict
from deqcert.attacks.evaluation.outcome import Alarm, Outcome, outcome_layout
from deqcert.attacks.evaluation.runner import CertifiedImage, Evaluation, evaluate_images
from deqcert.attacks.evaluation.search import most_verdicts

__all__ = [
    "Alarm",
    "CertifiedImage",
    "Evaluation",
    "Judge",
    "Outcome",
    "Verdict",
    "base_classes",
    "evaluate_images",
    "most_verdicts",
    "outcome_layout",
]
