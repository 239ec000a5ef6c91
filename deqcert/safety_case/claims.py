"""A claim: what is said, its figures, and the artefact that shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from deqcert.certifiers.bounds import write_down, write_radius

Ground = Literal["guarantee", "measurement", "document"]
"""What a claim rests on: a theorem with its probability, counting alone, or a text."""


@dataclass(frozen=True)
class Figure:
    """A number of a claim.

    Args:
        name: What it is.
        value: The number, or None where there is none.
        shown: The number as documents print it.
    """

    name: str
    value: float | int | None
    shown: str

    @classmethod
    def share(cls, name: str, value: float) -> Figure:
        """Make a figure of a fraction, shown in percent."""
        return cls(name, value, f"{100 * value:.1f}%")

    @classmethod
    def lower(cls, name: str, value: float) -> Figure:
        """Make a figure of a lower bound of a fraction, shown in percent, rounded down."""
        return cls(name, value, f"{write_down(100 * value, 1)}%")

    @classmethod
    def upper(cls, name: str, value: float) -> Figure:
        """Make a figure of an upper bound of a fraction, shown in percent, rounded up."""
        return cls(name, value, f"{100 - float(write_down(100 * (1 - value), 1)):.1f}%")

    @classmethod
    def count(cls, name: str, value: int) -> Figure:
        """Make a figure of a whole number."""
        return cls(name, int(value), str(int(value)))

    @classmethod
    def radius(cls, name: str, value: float) -> Figure:
        """Make a figure of a radius in [0, 1] pixels, shown rounded down."""
        return cls(name, value, write_radius(value, 3))


@dataclass(frozen=True)
class Claim:
    """What a case claims under an item of the framework.

    Args:
        item: The item, as "MEASURE 2.7".
        title: The claim in a few words.
        statement: Exactly what is said, with its probability.
        ground: What it rests on.
        figures: Its numbers.
        run: Name of the run in the case; None for a document.
        artefact: The file that shows it, below the case.
        sha256: Of that file.
        command: Makes the evidence again, in the folder of the case.
    """

    item: str
    title: str
    statement: str
    ground: Ground
    figures: tuple[Figure, ...]
    run: str | None
    artefact: str
    sha256: str
    command: str

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {**asdict(self), "figures": [asdict(figure) for figure in self.figures]}


def differences(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Say in which values two claims differ, figures by their names.

    Args:
        mine: A claim as :meth:`Claim.to_dict` makes it, computed from the artefacts.
        theirs: The same, as a case states it.
    """
    found = [
        f"its {key} is another" for key in mine if key != "figures" and mine[key] != theirs.get(key)
    ]
    stated = theirs.get("figures")
    known = {f.get("name"): f for f in stated} if isinstance(stated, list) else {}
    for figure in mine["figures"]:
        other = known.pop(figure["name"], {})
        if figure != other:
            found.append(
                f"{figure['name']} is {figure['value']} by the artefact and "
                f"{other.get('value', 'nothing')} in the case"
            )
    return found + [f"{name} is no figure of the artefact" for name in known]
