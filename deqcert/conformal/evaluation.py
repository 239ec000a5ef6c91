"""Prediction sets of many images: one line per image, clean and attacked."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from deqcert.conformal.base import Evidence, members
from deqcert.conformal.calibration import Calibration, image_hash
from deqcert.runs.journal import Layout
from deqcert.smoothing.input import Input

if TYPE_CHECKING:
    from deqcert.conformal.attacked import SetAttack
    from deqcert.data import Dataset
    from deqcert.runs import Run

CALIBRATION = Layout(
    "calibration.tsv",
    ("idx", "label", "value", "unsolved", "nfe", "time"),
    whole=("label", "unsolved"),
    real=("value", "nfe"),
)
"""One calibration image per line: its label, and the evidence for it."""

Look = Callable[[Sequence[Input]], list[Evidence]]


@dataclass(frozen=True)
class CalibrationLine:
    """One calibration image; see :data:`CALIBRATION`."""

    idx: int
    label: int
    value: float
    unsolved: int
    nfe: float
    seconds: float

    def line(self) -> str:
        """Return the line, its newline included; the value reads as the very same float."""
        cells = (self.idx, self.label, repr(self.value), self.unsolved, f"{self.nfe:g}")
        return "\t".join([*map(str, cells), _clock(self.seconds)]) + "\n"

    @classmethod
    def read(cls, file: Path) -> list[Self]:
        """Read a journal that :class:`deqcert.runs.Journal` has checked, times apart."""
        rows = [line.split("\t") for line in file.read_text(encoding="ascii").splitlines()[1:]]
        return [
            cls(int(row[0]), int(row[1]), float(row[2]), int(row[3]), float(row[4]), 0.0)
            for row in rows
        ]


@dataclass(frozen=True)
class SetLine:
    """The sets of one image.

    Args:
        idx: Index of the image in its data set.
        label: Its true class.
        sets: The clean set, and one per attack.
        norms: Norm of each attack's perturbation.
        nfe: Cell evaluations of the clean set.
        seconds: Wall time, attacks included.
    """

    idx: int
    label: int
    sets: Sequence[tuple[int, ...]]
    norms: Sequence[float]
    nfe: float
    seconds: float

    def line(self) -> str:
        """Return the line, its newline included; an empty set is a dash."""
        clean, *attacked = (",".join(map(str, one)) or "-" for one in self.sets)
        cells = [str(self.idx), str(self.label), clean, f"{self.nfe:g}", _clock(self.seconds)]
        for one, norm in zip(attacked, self.norms, strict=True):
            cells += [one, f"{norm:.6f}"]
        return "\t".join(cells) + "\n"


@dataclass(frozen=True, kw_only=True)
class SetRun:
    """Which images are answered for, and how.

    Args:
        calibration: The calibration.
        bar: What the evidence for a class must reach.
        alpha: How often a set may miss the true class.
        radius: l2 size of perturbations that are promised for.
        dataset: Where the images are.
        images: Their indices.
        attack: What attacks them; None for nothing.
        batch: Noisy copies that are solved together.
    """

    calibration: Calibration
    bar: float
    alpha: float
    radius: float
    dataset: Dataset
    images: tuple[int, ...]
    attack: SetAttack | None = None
    batch: int = 100
    layout: Layout = field(init=False)

    def __post_init__(self) -> None:
        names = [] if self.attack is None else [one.name for one in self.attack.attacks]
        more = tuple(f"{kind}:{name}" for name in names for kind in ("set", "norm"))
        layout = Layout(
            "sets.tsv",
            ("idx", "label", "set", "nfe", "time", *more),
            whole=("label",),
            real=("nfe", *(f"norm:{name}" for name in names)),
        )
        object.__setattr__(self, "layout", layout)

    def check_images(self, split: str) -> None:
        """Refuse images that were calibrated on; see :meth:`Calibration.check_images`."""
        hashes = (image_hash(self.dataset.image(index)) for index in self.images)
        self.calibration.check_images(self.dataset.hash(), split, self.images, hashes)

    def parameters(self) -> dict[str, Any]:
        """Return what decides the sets besides model and images, as JSON values."""
        attacks = () if self.attack is None else self.attack.attacks
        return {
            **self.calibration.method.parameters(),
            "alpha": self.alpha,
            "radius": self.radius,
            "bar": self.bar if np.isfinite(self.bar) else None,
            "calibrated_on": len(self.calibration),
            "calibration_sha256": self.calibration.sha256,
            "attacks": [one.describe() for one in attacks],
            "classes": self.calibration.classes,
        }

    def guarantee(self) -> str:
        """Say in a sentence what is promised."""
        over = "the images and the noise, of calibration and test together"
        who = ", if whoever perturbs does not know the noise"
        if not self.calibration.method.noise:
            over, who = "the images of calibration and test", ""
        return (
            f"a set holds the true class with probability at least {1 - self.alpha:g} over {over}, "
            f"under every l2 perturbation of at most {self.radius:g}{who}"
        )

    def fill(self, run: Run, look: Look, told: Callable[[int, int], None]) -> None:
        """Answer for what remains of a run; an image's line is on the disk before the next one's.

        Args:
            run: An open run with this layout.
            look: Gives the evidence for inputs.
            told: Called as images are done.
        """
        size = self.together
        # Always the same images together, wherever a run was stopped: last bits may depend on it.
        for first in range(run.done // size * size, len(self.images), size):
            part = self.images[first : first + size]
            began = time.perf_counter()
            inputs = [Input(self.dataset.image(index), index) for index in part]
            clean = look(inputs)
            sets = [[members(one, self.bar)] for one in clean]
            norms: list[list[float]] = [[] for _ in part]
            if self.attack is not None:
                labels = [self.dataset.label(index) for index in part]
                for one in self.attack.attacks:
                    points, reached = self.attack.points(one, inputs, labels)
                    for i, found in enumerate(look(points)):
                        sets[i].append(members(found, self.bar))
                        norms[i].append(reached[i])
            seconds = (time.perf_counter() - began) / len(part)
            for i, index in enumerate(part):
                if index in run.remaining:
                    label = self.dataset.label(index)
                    run.append(SetLine(index, label, sets[i], norms[i], clean[i].nfe, seconds))
            told(run.done, len(self.images))

    @property
    def together(self) -> int:
        """Images that are worked on together."""
        copies = max(1, self.calibration.method.copies)
        size = max(1, self.batch // copies)
        return size if self.attack is None else min(size, self.attack.together)


def _clock(seconds: float) -> str:
    return str(timedelta(milliseconds=round(1000 * seconds)))
