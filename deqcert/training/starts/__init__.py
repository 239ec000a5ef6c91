"""Training of start networks: fit them to solved states, and tune how deep a vote goes."""

from __future__ import annotations

from deqcert.training.starts.config import StartConfig
from deqcert.training.starts.train import train_start

__all__ = ["StartConfig", "train_start"]
