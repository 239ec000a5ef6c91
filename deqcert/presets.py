"""Named settings of a certification, so that nobody types thirty options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from deqcert.registry import Registry


@dataclass(frozen=True)
class Preset:
    """Some settings under one name; whatever else is given overrides them.

    Attributes:
        summary: What it is for, in a clause.
        settings: Fields of :class:`deqcert.settings.Settings` and their values.
    """

    summary: str
    settings: Mapping[str, Any] = field(default_factory=dict)


PRESETS: Registry[Preset] = Registry(
    "preset",
    {
        "cohen": Preset(
            "standard smoothing with 100000 copies, as Cohen et al. 2019 publish it",
            {"method": "standard", "start": "cold", "n0": 100, "n": 100_000, "alpha": 0.001},
        ),
        "paper-srs": Preset(
            "serialized smoothing as Gao et al. 2024 state it: 3 warm evaluations after 30 cold "
            "ones, 10000 copies of which 1000 are audited",
            {
                "method": "serialized-paper",
                "start": "previous",
                "steps": 3,
                "depth": 30,
                "tol": 0.0,
                "n0": 100,
                "n": 10_000,
                "alpha": 0.001,
                "audit": 1000,
            },
        ),
        "fast": Preset(
            "the 1-evaluation classifier (learned start) is certified: another than the converged "
            "model",
            {"method": "independent", "start": "learned", "steps": 1},
        ),
        "faithful": Preset(
            "from a learned start, each row only as deep as its own class is in doubt, held to a "
            "share of votes that differ from the converged model's",
            {"method": "independent", "start": "learned"},
        ),
        "converged": Preset(
            "the converged model itself, each solve from a learned start to the tolerance",
            {"method": "independent", "start": "learned", "steps": 0, "tol": 1e-3, "depth": 30},
        ),
    },
)
