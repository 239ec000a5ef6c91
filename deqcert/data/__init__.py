"""Data sets: one small loader a format, pixels in [0, 1], a fixed order."""

from __future__ import annotations

from deqcert.data.base import ArrayDataset, Dataset
from deqcert.data.registry import dataset_names, load_dataset

__all__ = ["ArrayDataset", "Dataset", "dataset_names", "load_dataset"]
