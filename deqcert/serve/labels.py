"""The true classes of answers, told by who asked once they are known: appended, never changed."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

TABLE = """
CREATE TABLE IF NOT EXISTS labels (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, time REAL NOT NULL, client TEXT,
    class INTEGER NOT NULL
);
"""
INSERT = "INSERT OR IGNORE INTO labels (id, time, client, class) VALUES (?, ?, ?, ?)"
"""The first class of an answer stays."""


@dataclass(frozen=True)
class Label:
    """The true class of an answer.

    Attributes:
        id: Name of the answer.
        label: The class.
        client: Name of who told it; None where nobody has one.
        time: When it was told, in seconds since 1970.
    """

    id: str
    label: int
    client: str | None = None
    time: float = field(default_factory=time.time)

    @property
    def values(self) -> tuple[Any, ...]:
        """The row of the table."""
        return self.id, self.time, self.client, self.label
