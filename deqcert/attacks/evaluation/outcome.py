"""What the attacks did to one image: a line of the journal, and alarms that can be reproduced."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deqcert.attacks import Attack
from deqcert.attacks.evaluation.search import Found
from deqcert.runs import Layout
from deqcert.runs.files import explain, sync_folder

NAME = "attacks.tsv"
FOLDER = "alarms"
"""Beside the journal: one file an alarm."""

_HEAD = ("idx", "label", "answer", "radius", "base", "alarms", "time")


def outcome_layout(attacks: Sequence[Attack]) -> Layout:
    """Return what the lines hold: for each attack, norms for smoothed and base classifier."""
    norms = tuple(
        f"{kind}:{attack.name}"
        for attack in attacks
        for kind in ("norm", "lead", *(() if attack.smoothed else ("base",)))
    )
    return Layout(
        NAME,
        (*_HEAD, *norms),
        whole=("label", "answer", "base"),
        real=("radius", *norms),
    )


@dataclass(frozen=True)
class Alarm:
    """A certified radius with a point inside at which another class is answered.

    Args:
        index: index of the image in its data set.
        label: its true class.
        answer: the class that was certified.
        radius: the certified radius.
        attack: which attack found the point, with its settings.
        x: the image, shape (C, H, W).
        found: the point and its verdict.
        facts: what else is needed to find it again: seed, hashes, noise.
    """

    index: int
    label: int
    answer: int
    radius: float
    attack: Attack
    x: NDArray[np.float32]
    found: Found
    facts: Mapping[str, Any]

    @property
    def file(self) -> str:
        """Its file, below the run folder."""
        return f"{FOLDER}/{self.index}-{self.attack.name}.npz"

    def sentence(self) -> str:
        """Say what was broken, by what, and how it can be seen again."""
        verdict = self.found.verdict
        mine, other = int(verdict.counts[self.answer]), int(verdict.counts[verdict.found])
        facts = ", ".join(f"{key} {value}" for key, value in self.facts.items())
        return (
            f"ALARM: image {self.index} is certified as class {self.answer} within "
            f"{self.radius:.6f}, but at distance {self.found.distance:.6f} class {verdict.found} "
            f"is answered: {other} votes against {mine}, p {verdict.p_value:.1e}; "
            f"{self.attack.describe()}, {facts}, noise stage {verdict.stage}: {self.file}"
        )

    def save(self, folder: Path) -> None:
        """Write the point and all that belongs to it; `x` and `y` make it a data set.

        Raises:
            RunError: it cannot be written.
        """
        path = folder / self.file
        aside = path.with_name(f".{path.name}.tmp")
        verdict = self.found.verdict
        arrays: dict[str, Any] = {
            "x": self.found.point.cpu().numpy()[None].astype(np.float32),
            "y": np.array([self.label]),
            "original": self.x,
            "image": self.index,
            "answer": self.answer,
            "found": verdict.found,
            "radius": self.radius,
            "distance": self.found.distance,
            "counts": verdict.counts,
            "p_value": verdict.p_value,
            "stage": verdict.stage,
            "attack": self.attack.describe(),
            **self.facts,
        }
        try:
            path.parent.mkdir(exist_ok=True)
            with aside.open("wb") as file:
                np.savez(file, **arrays)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, path)
            sync_folder(path.parent)
        except OSError as error:
            raise explain(error, f"write {path}") from None


@dataclass(frozen=True)
class Outcome:
    """One image's line.

    Args:
        idx: index of the image in its data set.
        label: its true class.
        answer: the class that attacks want to get away from: the certified one or, where the
            certificate abstains, the one with most votes.
        radius: the certified radius; 0 where it abstains.
        base: the base classifier's class of the image without noise; -1: none.
        numbers: what each attack found, by column.
        alarms: certificates broken.
        seconds: wall time.
    """

    idx: int
    label: int
    answer: int
    radius: float
    base: int
    numbers: Mapping[str, float]
    alarms: tuple[Alarm, ...]
    seconds: float

    def line(self) -> str:
        """Format as a line of the journal; norms that nothing was found at are inf."""
        names = ",".join(alarm.attack.name for alarm in self.alarms)
        head = [
            str(self.idx),
            str(self.label),
            str(self.answer),
            f"{self.radius:.6f}",
            str(self.base),
            names or "-",
            str(timedelta(milliseconds=round(1000 * self.seconds))),
        ]
        return "\t".join([*head, *(f"{value:.6f}" for value in self.numbers.values())]) + "\n"
