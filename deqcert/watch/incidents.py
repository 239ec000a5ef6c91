"""An incident: what an alarm rests on, in a file that stands on its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deqcert.files import explain, write_atomically
from deqcert.watch.observations import Observation

FOLDER = "incidents"
FORMAT = "deqcert-incident"
VERSION = 1


def entry(seen: Observation, loss: float, count: int) -> dict[str, Any]:
    """Return what an incident tells of one answer, as JSON values."""
    return {
        "input": seen.key,
        "number": count,
        "loss": loss,
        "predict": seen.predict,
        "radius": seen.radius,
        "label": seen.label,
        "clean": seen.clean,
        "scores": {name: repr(value) for name, value in seen.scores.items()},
        **seen.evidence,
        "replay": seen.replay,
    }


def write_incident(folder: Path, name: str, content: Mapping[str, Any]) -> Path:
    """Write an incident's file, whole or not at all, and return its path.

    It is written before the state that knows of it, so that a watch that is stopped in between
    writes the same file again.

    Raises:
        RunError: If it cannot be written.
    """
    place = folder / FOLDER
    try:
        place.mkdir(exist_ok=True)
    except OSError as error:
        raise explain(error, f"make the folder {place}", "give another --state") from None
    path = place / name
    whole = {"format": FORMAT, "format_version": VERSION, **content}
    write_atomically(path, json.dumps(whole, indent=1) + "\n", "give another --state")
    return path
