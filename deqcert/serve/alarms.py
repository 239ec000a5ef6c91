"""The state of the alarms that watch a service, where something watches it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from deqcert.files import read_regular

NAME = "alarms.json"
"""File in a service's folder that holds the state: an object of JSON, written by who watches."""


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
