"""The state of the alarms that watch a service, where something watches it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deqcert.errors import RunError
from deqcert.files import Lock, read_regular, write_atomically

NAME = "alarms.json"
"""File in a service's folder that holds the state: an object of JSON, written by who watches.

Its ``sentence`` is what the page shows.
"""


def read_alarms(folder: Path) -> dict[str, Any]:
    """Return whether the service is watched, and the state as it was written.

    Args:
        folder: The service's folder.
    """
    try:
        state = json.loads(read_regular(folder / NAME))
    except (OSError, ValueError):
        return {"watched": False, "state": None}
    return {"watched": True, "state": state}


def claim_alarms(folder: Path, watch: str) -> Lock:
    """Take the right to write the state of a service's alarms; close what is returned at the end.

    Args:
        folder: The service's folder.
        watch: Who watches; :func:`write_alarms` leaves it in the state as ``watch``.

    Raises:
        RunError: If another one watches the service now, or its state stands there.
    """
    path = folder / NAME
    lock = Lock(path.with_suffix(".lock"), f"another process watches {folder}; wait for it")
    state = read_alarms(folder)["state"]
    if isinstance(state, dict) and state.get("watch", watch) != watch:
        lock.close()
        raise RunError(
            f"{folder} is watched with another --state; name that folder, or remove {path} to "
            "watch with this one from now on"
        )
    return lock


def write_alarms(folder: Path, state: Mapping[str, Any]) -> None:
    """Write the state for the service to hand on, whole or not at all.

    Args:
        folder: The service's folder.
        state: Finite JSON values, with a sentence for people.

    Raises:
        RunError: If it cannot be written.
    """
    content = json.dumps(state, allow_nan=False, indent=1) + "\n"
    write_atomically(folder / NAME, content, "watch as somebody who may write there")
