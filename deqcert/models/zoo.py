"""Checkpoints that have a name."""

from __future__ import annotations

from pathlib import Path

from deqcert.errors import CheckpointError
from deqcert.registry import Registry

SHIPPED = Path(__file__).resolve().parent.parent / "zoo"
"""Folder of the checkpoints that come with the package."""

ZOO: Registry[Path] = Registry(
    "checkpoint", {"digits": SHIPPED / "digits.pth"}, error=CheckpointError
)
"""Name to file; its configuration and record lie beside it."""


def checkpoint_path(checkpoint: str | Path) -> Path:
    """Return the file of a checkpoint: the path itself, or that of a name.

    Raises:
        CheckpointError: If the name is empty.
    """
    name = str(checkpoint)
    if not name:
        raise CheckpointError(
            f"the model's name is empty; give the path of a state_dict file, or one of the names "
            f"{', '.join(ZOO)}."
        )
    return ZOO.get(name) if name in ZOO else Path(checkpoint)
