"""Images without labels: a teacher labels them, and they are trained on like the others."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray

from deqcert.data import Dataset, load_dataset
from deqcert.errors import ConfigError
from deqcert.training.config import TrainConfig
from deqcert.training.measure import ROWS, classify
from deqcert.training.teacher import load_teacher


class Joined(Dataset):
    """A data set, and after it rows of another one with labels of their own.

    Args:
        first: The data set; its classes are those of both.
        second: The other one; its labels are not used.
        rows: Which images of it, shape (n,).
        labels: Their labels, shape (n,).
    """

    def __init__(
        self, first: Dataset, second: Dataset, rows: NDArray[np.int64], labels: NDArray[np.int64]
    ) -> None:
        super().__init__(f"{first.name} and {second.name}", first.classes, first.shape)
        self._first, self._second, self._rows, self._labels = first, second, rows, labels

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._first) + len(self._rows)

    def image(self, index: int) -> NDArray[np.float32]:
        """Return an image, shape (C, H, W), in [0, 1]."""
        self._check_index(index)
        beyond = index - len(self._first)
        return (
            self._first.image(index) if beyond < 0 else self._second.image(int(self._rows[beyond]))
        )

    def label(self, index: int) -> int:
        """Return the label of an image."""
        self._check_index(index)
        beyond = index - len(self._first)
        return self._first.label(index) if beyond < 0 else int(self._labels[beyond])

    def labels(self) -> NDArray[np.int64]:
        """Return all labels, shape (N,)."""
        return np.concatenate([self._first.labels(), self._labels])

    def hash(self) -> str:
        """Return a SHA-256 of both sets, and of the rows and labels of the second."""
        digest = hashlib.sha256(f"{self._first.hash()} {self._second.hash()}".encode())
        digest.update(self._rows.astype("<i8").tobytes() + self._labels.astype("<i8").tobytes())
        return digest.hexdigest()


def with_extra(config: TrainConfig, data: Dataset) -> Joined:
    """Add the images of ``config.extra`` with the classes that ``config.teacher`` gives them.

    The teacher sees them clean. Images whose solve does not converge are left out.

    Raises:
        ConfigError: If images, teacher and data do not fit together.
        CheckpointError: If the teacher cannot be read.
        DataError: If the images cannot be used.

    **Source:** Carmon, Raghunathan, Schmidt, Liang, Duchi 2019, "Unlabeled Data Improves
    Adversarial Robustness", section 4; for smoothing as in Salman et al. 2019, section 4.
    """
    assert config.extra is not None
    assert config.teacher is not None
    extra = load_dataset(config.extra, "train")
    if extra.shape != data.shape:
        raise ConfigError(
            f"images of {data.name} have {data.shape} (channels, height, width), and those of "
            f"extra {extra.shape}; both must be the same."
        )
    teacher = load_teacher(config.teacher, data, config.device)
    labels, usable = [], []
    for begin in range(0, len(extra), ROWS):
        rows = np.arange(begin, min(begin + ROWS, len(extra)))
        with torch.no_grad():
            x = torch.from_numpy(extra.batch(rows)).to(config.device)
            classes, _, converged = classify(teacher, x)
        labels.append(classes.cpu().numpy())
        usable.append(converged.cpu().numpy())
    kept = np.flatnonzero(np.concatenate(usable))
    return Joined(data, extra, kept, np.concatenate(labels)[kept])
