"""Training for certified robustness."""

from __future__ import annotations

from deqcert.training.augment import augmentation_names
from deqcert.training.config import TrainConfig
from deqcert.training.loop import train
from deqcert.training.objectives import objective_names, objective_options
from deqcert.training.starts.config import StartConfig
from deqcert.training.starts.train import train_start

__all__ = [
    "StartConfig",
    "TrainConfig",
    "augmentation_names",
    "objective_names",
    "objective_options",
    "train",
    "train_start",
]
