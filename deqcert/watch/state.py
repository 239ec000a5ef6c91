"""What a watch remembers: how far it read, and the evidence so far, in one file."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from deqcert.errors import RunError
from deqcert.files import read_regular, write_atomically
from deqcert.watch.betting import Evidence

NAME = "state.json"
FORMAT = "deqcert-watch"
VERSION = 1

KEPT = 20
"""Inputs that an incident shows at most: the last ones that count."""

POINTS = 512
"""Points of the picture's curve at most."""


@dataclass
class Trace:
    """What is remembered of one alarm.

    Args:
        evidence: The bets.
        total: Sum of the losses.
        seen: Answers that came by, those that say nothing about this alarm included.
        highest: Largest evidence so far.
        raised: After how many losses the alarm was first raised; None for never.
        standing: Whether it is raised now.
        incidents: Names of its incident files.
        recent: The last inputs that count.
        curve: Count and evidence (its logarithm to base 10), thinned out.
    """

    evidence: Evidence
    total: float = 0.0
    seen: int = 0
    highest: float = 1.0
    raised: int | None = None
    standing: bool = False
    incidents: list[str] = field(default_factory=list)
    recent: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=KEPT))
    curve: list[tuple[int, float]] = field(default_factory=lambda: [(0, 0.0)])

    def note(self) -> None:
        """Remember the evidence: the largest, and a point of the curve, thinned out."""
        value, count = float(self.evidence.value), self.evidence.count
        self.highest = max(self.highest, value)
        stride = 1 << max(0, math.ceil(math.log2(count / POINTS)))
        if count % stride == 0:
            if len(self.curve) > POINTS:
                self.curve = [point for point in self.curve if point[0] % stride == 0]
            self.curve.append((count, round(math.log10(value), 4)))

    def content(self) -> dict[str, Any]:
        """Everything as JSON values."""
        bets = self.evidence
        return {
            "tolerated": float(bets.tolerated),
            "count": bets.count,
            "staked": bets.staked.tolist(),
            "detector": bets.detector.tolist(),
            "begun": bets.begun.tolist(),
            "total": self.total,
            "seen": self.seen,
            "highest": self.highest,
            "raised": self.raised,
            "standing": self.standing,
            "incidents": self.incidents,
            "recent": list(self.recent),
            "curve": [list(point) for point in self.curve],
        }

    @classmethod
    def of_content(cls, kept: Mapping[str, Any]) -> Self:
        """Read what :meth:`content` made."""
        bets = Evidence(float(kept["tolerated"]))
        bets.count = int(kept["count"])
        for name in ("staked", "detector", "begun"):
            before = getattr(bets, name)
            array = np.array(kept[name], dtype=before.dtype)
            if array.shape != before.shape:
                raise ValueError(name)
            setattr(bets, name, array)
        raised = kept["raised"]
        return cls(
            bets,
            float(kept["total"]),
            int(kept["seen"]),
            float(kept["highest"]),
            None if raised is None else int(raised),
            bool(kept["standing"]),
            [str(one) for one in kept["incidents"]],
            deque((dict(one) for one in kept["recent"]), maxlen=KEPT),
            [(int(count), float(value)) for count, value in kept["curve"]],
        )


@dataclass
class State:
    """What a watch remembers.

    Args:
        about: What it is a watch of and with: reference, delta, drift budget, alarms, source.
        seed: Of the coins that break ties of ranks.
        position: How far the source was read.
        answers: Answers that were read.
        traces: Per alarm what is remembered of it.
    """

    about: dict[str, Any]
    seed: int
    traces: dict[str, Trace]
    position: Any = None
    answers: int = 0

    def write(self, folder: Path) -> None:
        """Write it, whole or not at all.

        Raises:
            RunError: If it cannot be written.
        """
        content = {
            "format": FORMAT,
            "format_version": VERSION,
            "about": self.about,
            "seed": self.seed,
            "position": self.position,
            "answers": self.answers,
            "alarms": {name: trace.content() for name, trace in self.traces.items()},
        }
        write_atomically(
            folder / NAME, json.dumps(content) + "\n", "give another folder with --state"
        )

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Read the state in a folder; None where there is none.

        Raises:
            RunError: If it is damaged or not ours.
        """
        path = folder / NAME
        try:
            content = json.loads(read_regular(path))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise RunError(
                f"cannot read {path} ({error.strerror}); give another folder with --state"
            ) from None
        except (ValueError, RecursionError):
            content = None
        try:
            if content["format"] != FORMAT or content["format_version"] != VERSION:
                raise ValueError
            return cls(
                dict(content["about"]),
                int(content["seed"]),
                {name: Trace.of_content(kept) for name, kept in content["alarms"].items()},
                content["position"],
                int(content["answers"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError):
            raise RunError(
                f"{path} is no state of this deqcert's, or damaged; give another folder with "
                "--state, which begins anew"
            ) from None
