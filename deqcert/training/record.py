"""What a training leaves behind: checkpoint, configuration, and how they came to be."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import deqcert
from deqcert.errors import RunError
from deqcert.models import Model, file_hash
from deqcert.training.config import TrainConfig

POINTS = 20
"""Entries of the history that are kept in the record."""


def check_out(out: Path, name: str) -> None:
    """Make the folder and see that nothing there would be overwritten.

    Raises:
        RunError: If it cannot be written or already holds a model of that name.
    """
    path = Path(out) / f"{name}.pth"
    if path.exists():
        raise RunError(f"{path} exists already; choose another out or another name.")
    try:
        Path(out).mkdir(parents=True, exist_ok=True)
        probe = Path(out) / f".{name}.probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise RunError(f"cannot write to {out} ({error.strerror}); choose another out.") from None


def save(
    config: TrainConfig,
    model: Model,
    *,
    history: Sequence[Mapping[str, float]],
    measured: Mapping[str, float],
    seconds: float,
    hashes: Mapping[str, str],
    resumed: Sequence[Mapping[str, Any]],
    processes: int,
) -> Path:
    """Write checkpoint, configuration and record, and return the checkpoint's path.

    Raises:
        RunError: If the disk does not take them.
    """
    path = Path(config.out) / f"{config.name}.pth"
    partial = path.with_suffix(".partial")
    try:
        weights = {name: value.detach().cpu() for name, value in model.state_dict().items()}
        torch.save(weights, partial)
        path.with_suffix(".yaml").write_text(model.config.to_yaml(), encoding="utf-8")
        record = {
            "command": command_line(),
            "parameters": {
                field: str(value) if isinstance(value, Path) else value
                for field, value in dataclasses.asdict(config).items()
            },
            "measured": {key: round(value, 5) for key, value in measured.items()},
            "seconds": round(seconds, 1),
            "resumed": list(resumed),
            "processes": processes,
            "threads": torch.get_num_threads(),
            "checkpoint_sha256": file_hash(partial),
            "data_sha256": dict(hashes),
            "versions": {
                "deqcert": deqcert.__version__,
                "python": platform.python_version(),
                "torch": torch.__version__,
                "numpy": np.__version__,
            },
            "history": [
                {key: round(value, 4) for key, value in history[index].items()}
                for index in _spread(len(history))
            ],
        }
        text = json.dumps(record, indent=2) + "\n"
        path.with_suffix(".json").write_text(text, encoding="utf-8")
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:
        raise RunError(f"cannot write {path} ({error}); free the disk and train again.") from None
    return path


def command_line() -> str:
    """Return what this process was started with, without where the program lies."""
    program = Path(sys.argv[0]).name
    return " ".join(["deqcert" if program == "__main__.py" else program, *sys.argv[1:]])


def _spread(count: int) -> list[int]:
    return sorted({round(index) for index in np.linspace(0, count - 1, min(POINTS, count))})
