"""The items of the framework that a case answers to, and what would be evidence for each.

**Source:** NIST AI 100-1, Artificial Intelligence Risk Management Framework (AI RMF 1.0), January
2023, tables 2 and 3. Descriptions are ours, and short; the framework's text decides.
"""

from __future__ import annotations

from dataclasses import dataclass

SOURCE = "NIST AI 100-1, Artificial Intelligence Risk Management Framework (AI RMF 1.0), 2023"


@dataclass(frozen=True)
class Item:
    """An item of the framework.

    Args:
        name: As the framework numbers it.
        about: What it asks for, in a few words of ours.
        wanting: What would make evidence where no run of the case does.
    """

    name: str
    about: str
    wanting: str


_CERTIFY = "deqcert certify --model MODEL --data DATA --sigma S --out runs/certified"
_WATCH = "deqcert watch RUN --reference FILE"

ITEMS = (
    Item(
        "MAP 4.1",
        "Risks of parts that others made (software, data, models) are known.",
        "deqcert safety-case RUN --out DIR",
    ),
    Item(
        "MEASURE 1.1",
        "Measures are chosen for the risks that matter, and what is not measured is written down.",
        "deqcert safety-case RUN --out DIR",
    ),
    Item("MEASURE 2.1", "Test data, metrics and tools are documented.", _CERTIFY),
    Item("MEASURE 2.3", "Performance is measured under conditions like those of use.", _CERTIFY),
    Item("MEASURE 2.4", "Behaviour in production is watched.", _WATCH),
    Item(
        "MEASURE 2.5",
        "The system is shown to be valid and reliable, and the limits of that are documented.",
        _CERTIFY,
    ),
    Item(
        "MEASURE 2.6",
        "Safety is evaluated: it fails safely, beyond what it knows in particular.",
        "deqcert conformal calibrate --model MODEL --data DATA --images I --out runs/calibration",
    ),
    Item("MEASURE 2.7", "Security and resilience are evaluated.", _CERTIFY),
    Item(
        "MEASURE 2.13",
        "Whether the measures themselves work is evaluated.",
        "deqcert attack runs/certified --out runs/attacked",
    ),
    Item("MEASURE 3.1", "Risks, known and new, are followed over time.", _WATCH),
)
"""In the framework's order."""
