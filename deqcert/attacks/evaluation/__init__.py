"""Hold certificates against attacks: what breaks inside its radius is an alarm."""

from __future__ import annotations

from deqcert.attacks.evaluation.alarm import Alarm
from deqcert.attacks.evaluation.base import Evaluation, Group
from deqcert.attacks.evaluation.base_classifier import base_classes
from deqcert.attacks.evaluation.certified import CertifiedImage, certified_predictor
from deqcert.attacks.evaluation.counterexample import Counterexample, most_verdicts
from deqcert.attacks.evaluation.judge import Judge, Verdict
from deqcert.attacks.evaluation.outcome import Outcome, outcome_layout
from deqcert.attacks.evaluation.proven import ProvenEvaluation, ProvenVerdict
from deqcert.attacks.evaluation.smoothed import SmoothedEvaluation

__all__ = [
    "Alarm",
    "CertifiedImage",
    "Counterexample",
    "Evaluation",
    "Group",
    "Judge",
    "Outcome",
    "ProvenEvaluation",
    "ProvenVerdict",
    "SmoothedEvaluation",
    "Verdict",
    "base_classes",
    "certified_predictor",
    "most_verdicts",
    "outcome_layout",
]
