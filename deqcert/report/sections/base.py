"""What the sections of a page share: how they name models and write figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from deqcert.report.page import Cell, percent

Found = Mapping[str, Mapping[str, Any]]
"""What one part of an evaluation found, by model."""

DASH = "\N{EN DASH}"


def the(found: Found, name: str) -> str:
    """Name a model in a sentence: where there is no other, it needs no name."""
    return "the model" if len(found) == 1 else name


def shaded(shares: Sequence[float]) -> list[Cell]:
    """Write shares in percent, the larger ones on a darker ground."""
    return [Cell(percent(share), share) for share in shares]


def norm_name(norm: str) -> str:
    """Write the name of a norm."""
    return "l2" if norm == "l2" else "l-infinity"


def runs_of(found: Found) -> list[tuple[str, dict[str, Any]]]:
    """Return the runs of all models, each with what it is called."""
    return [
        (name if len(part["runs"]) == 1 else f"{name}: {run['name']}", run)
        for name, part in found.items()
        for run in part["runs"]
    ]


def images(count: int) -> str:
    """Say how many images."""
    return f"{count} image" if count == 1 else f"{count} images"
