"""Implicit models: the protocol, the multiscale DEQ, and its checkpoints."""

from __future__ import annotations

from deqcert.models.base import ImplicitModel, Normalize
from deqcert.models.checkpoints import checkpoint_path, file_hash, load_model
from deqcert.models.config import MDEQConfig, preset, preset_names
from deqcert.models.mdeq import MDEQ
from deqcert.models.state import StateLayout

__all__ = [
    "MDEQ",
    "ImplicitModel",
    "MDEQConfig",
    "Normalize",
    "StateLayout",
    "checkpoint_path",
    "file_hash",
    "load_model",
    "preset",
    "preset_names",
]
