"""What a bench prints: columns for people, JSON for machines."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from typing import Any


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a line for each row, the columns aligned on the right."""
    width = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(c.rjust(w) for c, w in zip(row, width, strict=True)) for row in rows]


def as_json(facts: dict[str, Any], name: str, timings: Iterable[Any]) -> str:
    """Return facts, and dataclasses of numbers under a name; NaN becomes null."""
    records = [
        {key: None if value != value else value for key, value in dataclasses.asdict(t).items()}
        for t in timings
    ]
    return json.dumps({**facts, name: records}, indent=2)
