"""What the attacks did to one image: a line of the journal."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from deqcert.attacks.base import Attack
from deqcert.attacks.evaluation.alarm import Alarm
from deqcert.certifiers.bounds import write_radius
from deqcert.runs import Layout

NAME = "attacks.tsv"

_HEAD = ("idx", "label", "answer", "radius", "base", "alarms", "time")
_TIME = re.compile(r"(\d+ days?, )?\d+:\d\d:\d\d(\.\d+)?", re.ASCII)


def outcome_layout(attacks: Sequence[Attack], *, smoothed: bool = True) -> Layout:
    """Return what the lines hold: per attack, norms for the certified and the base classifier.

    Args:
        attacks: The attacks.
        smoothed: Whether the certified classifier is a smoothed one, so that its base classifier
            is another.
    """
    names = {attack.name for attack in attacks}
    numbers = tuple(
        f"{kind}:{attack.name}"
        for attack in attacks
        for kind in ("norm", "lead", *(("base",) if smoothed and not attack.smoothed else ()))
    )
    return Layout(
        NAME,
        (*_HEAD, *numbers),
        whole=("label", "answer", "base"),
        real=("radius", *numbers),
        other={
            "alarms": lambda cell: cell == "-" or set(cell.split(",")) <= names,
            "time": lambda cell: _TIME.fullmatch(cell) is not None,
        },
    )


@dataclass(frozen=True)
class Outcome:
    """One image's line.

    Args:
        idx: Index of the image in its data set.
        label: Its true class.
        answer: The class that attacks want to get away from: the certified one or, where the
            certificate abstains, the one with most votes (without noise, with the largest logit).
        radius: The certified radius; 0 where it abstains.
        base: The model's class of the image without noise; -1: none, or it is not proven where
            the certificate is a proof.
        numbers: What each attack found, by column.
        alarms: Certificates broken.
        seconds: Wall time.
        columns: Names of the line's cells, in order; see :func:`outcome_layout`.
    """

    idx: int
    label: int
    answer: int
    radius: float
    base: int
    numbers: Mapping[str, float]
    alarms: tuple[Alarm, ...]
    seconds: float
    columns: tuple[str, ...]

    def line(self) -> str:
        """Format as a line of the journal; norms that nothing was found at are inf."""
        cells = {
            "idx": str(self.idx),
            "label": str(self.label),
            "answer": str(self.answer),
            "radius": write_radius(self.radius),
            "base": str(self.base),
            "alarms": ",".join(alarm.attack.name for alarm in self.alarms) or "-",
            "time": str(timedelta(milliseconds=round(1000 * self.seconds))),
            **{column: f"{value:.6f}" for column, value in self.numbers.items()},
        }
        return "\t".join(cells[column] for column in self.columns) + "\n"
