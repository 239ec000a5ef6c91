"""Randomized smoothing of implicit models: counter-based noise, start policies, and the engine."""

from __future__ import annotations

from deqcert.smoothing.early import DecidedStop, EarlyStop
from deqcert.smoothing.engine import NO_VOTE, SmoothingEngine, VoteBatch, Votes
from deqcert.smoothing.input import Input
from deqcert.smoothing.noise import noisy_copies
from deqcert.smoothing.predictor import Predictor
from deqcert.smoothing.stage import Stage

__all__ = [
    "NO_VOTE",
    "DecidedStop",
    "EarlyStop",
    "Input",
    "Predictor",
    "SmoothingEngine",
    "Stage",
    "VoteBatch",
    "Votes",
    "noisy_copies",
]
