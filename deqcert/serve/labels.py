"""The true classes of answers, told by who asked once they are known: appended, never changed."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

COLUMNS = "id, time, client, class, after"
TABLE = """
CREATE TABLE IF NOT EXISTS labels (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, time REAL NOT NULL, client TEXT,
    class INTEGER NOT NULL, after INTEGER NOT NULL, digest TEXT NOT NULL
);
"""
INSERT = f"INSERT OR IGNORE INTO labels ({COLUMNS}, digest) VALUES (?, ?, ?, ?, ?, ?)"
"""The first class of an answer stays. ``after`` is the number of the last answer before it."""


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

    def values(self, after: int) -> tuple[Any, ...]:
        """Return the row of the table but for its digest.

        Args:
            after: Number of the last answer before it.
        """
        return self.id, self.time, self.client, self.label, after
