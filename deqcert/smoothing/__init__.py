"""Randomized smoothing of implicit models: counter-based noise, start policies, and the engine."""

from __future__ import annotations

from deqcert.smoothing.early import DecidedStop, EarlyStop
from deqcert.smoothing.engine import NOBODY, Batch, SmoothingEngine, Votes
from deqcert.smoothing.noise import noisy_copies
from deqcert.smoothing.predictor import Predictor
from deqcert.smoothing.starts import Learned, StartPolicy, get_start, start_names

__all__ = [
    "NOBODY",
    "Batch",
    "DecidedStop",
    "EarlyStop",
    "Learned",
    "Predictor",
    "SmoothingEngine",
    "StartPolicy",
    "Votes",
    "get_start",
    "noisy_copies",
    "start_names",
]
