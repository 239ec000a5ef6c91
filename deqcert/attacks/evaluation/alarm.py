"""A certificate that an attack has broken, and all that is needed to see it again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deqcert.attacks.base import Attack
from deqcert.attacks.evaluation.counterexample import Counterexample
from deqcert.certifiers.bounds import write_radius
from deqcert.files import explain, write_atomically

FOLDER = "alarms"
"""Beside the journal: one file per alarm."""


@dataclass(frozen=True)
class Alarm:
    """A certified radius with a point inside at which another class is answered.

    Args:
        index: Index of the image in its data set.
        label: Its true class.
        answer: The class that was certified.
        radius: The certified radius, above 0.
        attack: Which attack found the point, with its options.
        x: The image, shape (C, H, W).
        counterexample: The point and its verdict.
        facts: What else is needed to find it again: seed, hashes, noise.
    """

    index: int
    label: int
    answer: int
    radius: float
    attack: Attack
    x: NDArray[np.float32]
    counterexample: Counterexample
    facts: Mapping[str, Any]

    @property
    def file(self) -> str:
        """Its file, below the run folder."""
        return f"{FOLDER}/{self.index}-{self.attack.name}.npz"

    def sentence(self) -> str:
        """Say what was broken, by what, and how it can be seen again."""
        verdict = self.counterexample.verdict
        known = {**self.facts, **verdict.facts()}
        facts = ", ".join(f"{key} {value}" for key, value in known.items())
        return (
            f"ALARM: image {self.index} is certified as class {self.answer} within "
            f"{write_radius(self.radius)}, but at distance {self.counterexample.distance:.6f} "
            f"class {verdict.leader} is answered: {verdict.words(self.answer)}; "
            f"{self.attack.describe()}, {facts}: {self.file}"
        )

    def save(self, folder: Path) -> None:
        """Write the point and all that belongs to it; ``x`` and ``y`` make it a data set.

        Args:
            folder: The run folder.

        Raises:
            RunError: If it cannot be written.
        """
        path = folder / self.file
        verdict = self.counterexample.verdict
        arrays: dict[str, Any] = {
            "x": self.counterexample.point.cpu().numpy()[None].astype(np.float32),
            "y": np.array([self.label]),
            "original": self.x,
            "image": self.index,
            "answer": self.answer,
            "found": verdict.leader,
            "radius": self.radius,
            "distance": self.counterexample.distance,
            **verdict.arrays(),
            "attack": self.attack.describe(),
            **self.facts,
        }
        try:
            path.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise explain(error, f"make the folder {path.parent}") from None
        write_atomically(path, lambda file: np.savez(file, **arrays))
