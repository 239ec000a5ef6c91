"""What a bench prints for machines."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from typing import Any


def as_json(facts: dict[str, Any], name: str, timings: Iterable[Any]) -> str:
    """Return facts, and dataclasses of numbers under a name; NaN becomes null."""
    records = [
        {key: None if value != value else value for key, value in dataclasses.asdict(t).items()}
        for t in timings
    ]
    return json.dumps({**facts, name: records}, indent=2)
