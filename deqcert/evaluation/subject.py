"""A model under evaluation: the classifier, its images, and what several parts look at."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deqcert.api import SmoothedClassifier
from deqcert.errors import ConfigError
from deqcert.evaluation.config import Evaluating
from deqcert.evaluation.solving import Solved, solve_images
from deqcert.settings import Spreading

if TYPE_CHECKING:
    from deqcert.attacks import Attack
    from deqcert.data import Dataset
    from deqcert.smoothing import Predictor

FOREIGN = 2**31
"""What the noise of a foreign image's number begins at: none that an own image has."""

Note = Callable[[str], None]


@dataclass(frozen=True)
class Subject:
    """One model, and all that its parts need.

    Attributes:
        name: What it is called in tables, and its folder.
        classifier: The classifier.
        dataset: Where its images are.
        data: How that was given.
        split: Which part of it.
        images: Which of them.
        asked: How much of everything is looked at.
        folder: Where its runs go.
        runs: Finished runs of it that are there already; none to certify.
        attacks: Attacks that were named; none for the usual ones.
        ood: Foreign data sets by name, in the model's shape.
        progress: Whether certifying shows how far it is.
        note: Called with a sentence about what a reader should know.
        spread: Who certifies and attacks.
    """

    name: str
    classifier: SmoothedClassifier
    dataset: Dataset
    data: str
    split: str
    images: range
    asked: Evaluating
    folder: Path
    runs: tuple[Path, ...] = ()
    attacks: tuple[Attack, ...] = ()
    ood: dict[str, Foreign] = field(default_factory=dict)
    progress: bool = False
    note: Note = print
    spread: Spreading = field(default_factory=Spreading)

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """The true class per image."""
        return np.array([self.dataset.label(index) for index in self.images], dtype=np.int64)

    @cached_property
    def predictor(self) -> Predictor:
        """The cold solve of the settings, which classifies without noise."""
        from deqcert import compose

        return compose.make_cold(self.classifier)

    @property
    def rows(self) -> int:
        """Rows of every evaluation."""
        machine = self.classifier
        return machine.batch if machine.shape is None else machine.shape

    @cached_property
    def solved(self) -> Solved:
        """The images as they are."""
        return self.solve(self.dataset.batch(self.images))

    def solve(
        self,
        images: NDArray[np.float32],
        predictor: Predictor | None = None,
        rows: int | None = None,
    ) -> Solved:
        """Solve images, cold and without noise.

        Args:
            images: Shape (N, C, H, W).
            predictor: How, if not as the settings say.
            rows: Rows of every evaluation, if not as the settings say.
        """
        loaded, machine = self.classifier.loaded, self.classifier
        for model in (loaded.model, loaded.plain):
            if hasattr(model, "eval"):
                model.eval().to(machine.device)
        return solve_images(
            loaded.model,
            self.predictor if predictor is None else predictor,
            images,
            rows=self.rows if rows is None else rows,
            device=machine.device,
            plain=loaded.plain,
        )

    @cached_property
    def shares(self) -> NDArray[np.int64]:
        """Votes per class for the images, shape (N, K)."""
        return self.votes(self.dataset.batch(self.images), self.images)

    def check_votes(self) -> None:
        """Refuse where no shares of votes can be had.

        Raises:
            ConfigError: If none are asked for, no sigma is known, or the start chains samples.
        """
        if not self.asked.votes:
            raise ConfigError("shares of votes are left out, because --votes is 0.")
        _ = self.classifier.noise_level
        if not self.classifier.predictor.independent:
            raise ConfigError(
                f"start {self.classifier.start!r} chains samples, so shares of votes say nothing; "
                "give --start cold."
            )

    def votes(self, images: NDArray[np.float32], numbers: Sequence[int]) -> NDArray[np.int64]:
        """Count the votes of noisy copies, shape (N, K); a copy without an answer has none.

        Args:
            images: Shape (N, C, H, W); brought to the grid that noise is exact on.
            numbers: What the noise of each is drawn by.

        Raises:
            ConfigError: As for :meth:`check_votes`.
        """
        from deqcert.smoothing import Input, Stage

        self.check_votes()
        smooth = self.classifier
        engine = smooth.engine
        found = []
        for image, number in zip(images, numbers, strict=True):
            if engine.levels is not None:
                image = np.rint(image * engine.levels).astype(np.float32) / engine.levels
            seen = engine.votes(
                smooth.predictor, Input(image, int(number)), int(Stage.EVALUATE), self.asked.votes
            )
            found.append(seen.counts)
        return np.stack(found)


@dataclass(frozen=True)
class Foreign:
    """Images of another data set, in a model's shape.

    Attributes:
        images: Shape (N, C, H, W).
        numbers: Their indices in their data set.
        changed: What was done to them, in words; "" for nothing.
        sha256: Of the data set.
    """

    images: NDArray[np.float32]
    numbers: NDArray[np.int64]
    changed: str
    sha256: str


def classifier_for(classifier: SmoothedClassifier, dataset: Dataset) -> SmoothedClassifier:
    """Return the classifier as it certifies these images: on their grid, where noise is exact."""
    if not isinstance(classifier.seed, int):
        classifier = dataclasses.replace(classifier, seed=0)
    return classifier.on_grid(dataset.levels)


def describe(subject: Subject) -> dict[str, Any]:
    """Return what decides a subject's figures, as JSON values."""
    smooth = subject.classifier
    settings = {k: v for k, v in smooth.written().items() if k not in ("model", "model_config")}
    return {**smooth.loaded.identity, "settings": settings, "form": smooth.loaded.form}
