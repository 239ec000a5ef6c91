"""What a watch says of itself: for programs, and in a sentence for people."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

from deqcert.watch.watcher import Watch


def tell(watch: Watch) -> dict[str, Any]:
    """Return the state of the alarms as JSON values; a delay that never ends is None."""
    rows = watch.rows()
    return {
        "source": watch.source.name,
        "answers": watch.state.answers,
        "skipped": watch.skipped,
        "delta": watch.delta,
        "standing": watch.standing,
        "alarms": [
            {**row, "delay": row["delay"] if math.isfinite(row["delay"]) else None} for row in rows
        ],
    }


def sentence(told: Mapping[str, Any], at: float) -> str:
    """Say for somebody who is no engineer what :func:`tell` tells.

    Args:
        told: The state.
        at: When it was so, in seconds since 1970.
    """
    when = time.strftime("%d %B %Y, %H:%M UTC", time.gmtime(at))
    until = f"{told['answers']} answers were watched until {when}"
    raised = [row["alarm"] for row in told["alarms"] if row["standing"]]
    if raised:
        return (
            f"An alarm is raised ({', '.join(raised)}): recent pictures are not like those that "
            f"this service was tried on. Each certificate still holds for its own picture. {until}."
        )
    before = [row["alarm"] for row in told["alarms"] if row["raised"] is not None]
    if before:
        return f"No alarm is raised now; some were before ({', '.join(before)}). {until}."
    return (
        f"No alarm was raised. {until}; while pictures are like those that this service was tried "
        f"on, none is ever raised with probability at least {1.0 - told['delta']:.1%}."
    )
