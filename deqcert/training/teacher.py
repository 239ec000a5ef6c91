"""A model that is there and tells another what it thinks of images."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from deqcert.data import Dataset
from deqcert.errors import ConfigError
from deqcert.models import TrainableModel, load_model
from deqcert.training.measure import solve


def load_teacher(checkpoint: str | Path, data: Dataset, device: str) -> TrainableModel:
    """Load a teacher of the classes and images of some data, in evaluation mode.

    Raises:
        CheckpointError: If it cannot be read.
        ConfigError: If it takes other images or knows another number of classes.
    """
    teacher = load_model(checkpoint)
    if teacher.input_shape != data.shape:
        raise ConfigError(
            f"images of {data.name} have {data.shape} (channels, height, width), and the teacher "
            f"takes {teacher.input_shape}; both must be the same."
        )
    if teacher.num_classes != len(data.classes):
        raise ConfigError(
            f"the teacher knows {teacher.num_classes} classes, but {data.name} has "
            f"{len(data.classes)}; give a teacher of the same data."
        )
    return teacher.to(device).requires_grad_(False)


class Teacher:
    """A teacher's logits at its equilibria.

    Args:
        model: In evaluation mode.
    """

    def __init__(self, model: TrainableModel) -> None:
        self._model = model

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """Map images, shape (B, C, H, W), to logits, shape (B, K), without a gradient."""
        return self._model.readout(solve(self._model, x).z)
