"""Training for certified robustness."""

from __future__ import annotations

from deqcert.training.augment import augmentation_names
from deqcert.training.config import TrainConfig
from deqcert.training.loop import train
from deqcert.training.objectives import objective_names

__all__ = ["TrainConfig", "augmentation_names", "objective_names", "train"]
