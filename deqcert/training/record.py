"""What a training leaves behind: checkpoint, configuration, and how they came to be."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import deqcert
from deqcert.errors import CheckpointError, ConfigError, RunError
from deqcert.files import Lock, explain, write_atomically
from deqcert.models import TrainableModel, file_hash
from deqcert.training.config import TrainConfig
from deqcert.training.curve import draw

POINTS = 20
"""Entries of the history that are kept in the record."""


def claim(path: Path, other: str = "another out or name") -> Lock:
    """Make the folder of a file that a training will write, and keep other trainings off it.

    A file that is there already is only let pass beside an unfinished state, which may be what a
    kill in the last moment left behind: see
    :meth:`deqcert.training.unfinished.Unfinished.outlived`.

    Args:
        path: The file.
        other: What to choose instead, in the words of the training's parameters.

    Raises:
        RunError: If the folder cannot be written, another process trains for the same file, or it
            is there already.
    """
    try:
        missing = [folder for folder in path.parents if not folder.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise explain(error, f"write to the folder {path.parent}") from None
    lock = Lock(
        path.with_name(f".{path.name}.lock"),
        f"another process is training for {path}; wait for it, or choose {other}.",
        made=missing,
    )
    if path.exists() and not path.with_suffix(".unfinished").exists():
        lock.close()
        raise RunError(f"{path} exists already; choose {other}.")
    return lock


def of_ending(out: Path, suffix: str) -> Path:
    """Return the name of a file to be written, if it will be known by it as what it is.

    Raises:
        ConfigError: If it does not end in ``suffix``.
    """
    if out.suffix != suffix:
        raise ConfigError(f"out is {out}, but the file's name must end in {suffix}.")
    return out


def describes(path: Path) -> bool:
    """Whether the record beside a file holds the hash of that very file."""
    try:
        record = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        return isinstance(record, dict) and file_hash(path) in record.values()
    except (OSError, ValueError, CheckpointError):
        return False


def save(
    config: TrainConfig,
    model: TrainableModel,
    *,
    history: Sequence[Mapping[str, float]],
    measured: Mapping[str, float],
    seconds: float,
    hashes: Mapping[str, str],
    levels: int | None,
    resumed: Sequence[Mapping[str, Any]],
    processes: int,
) -> Path:
    """Write configuration, picture, record and, last, the checkpoint; return its path.

    Each is whole and on the disk; where the checkpoint is, all are.

    Raises:
        RunError: If the disk does not take them.
    """
    path = Path(config.out) / f"{config.name}.pth"
    weights = weights_bytes(model)
    record = {
        "command": command_line(),
        "parameters": parameters(config),
        "measured": {key: round(value, 5) for key, value in measured.items()},
        "seconds": round(seconds, 1),
        "resumed": list(resumed),
        "processes": processes,
        "threads": torch.get_num_threads(),
        "checkpoint_sha256": hashlib.sha256(weights).hexdigest(),
        "data_sha256": dict(hashes),
        "levels": levels,
        "versions": versions(),
        "history": thinned(history),
    }
    write_atomically(path.with_suffix(".yaml"), model.config.to_yaml())
    draw(path.with_suffix(".curve.png"), history)
    write_atomically(path.with_suffix(".json"), json.dumps(record, indent=2) + "\n")
    write_atomically(path, weights)
    return path


def weights_bytes(model: TrainableModel) -> bytes:
    """Return the content of a model's checkpoint: its state_dict, on the CPU."""
    file = io.BytesIO()
    torch.save({name: value.detach().cpu() for name, value in model.state_dict().items()}, file)
    return file.getvalue()


def command_line() -> str:
    """Return what this process was started with, without where the program lies."""
    program = Path(sys.argv[0]).name
    return " ".join(["deqcert" if program == "__main__.py" else program, *sys.argv[1:]])


def parameters(config: Any) -> dict[str, Any]:
    """Return the fields of a configuration, a dataclass, as a record holds them."""
    return {
        field: str(value) if isinstance(value, Path) else value
        for field, value in dataclasses.asdict(config).items()
    }


def versions() -> dict[str, str]:
    """Return the versions that a training depends on."""
    return {
        "deqcert": deqcert.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def thinned(history: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """Return entries spread evenly over a history, first and last included, rounded."""
    last = len(history) - 1
    chosen = sorted({round(place) for place in np.linspace(0, last, min(POINTS, last + 1))})
    return [{key: round(value, 4) for key, value in history[i].items()} for i in chosen]
