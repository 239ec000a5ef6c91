"""A classifier that answers with evidence for every class, and the run folders that keep it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deqcert.api import SmoothedClassifier
from deqcert.errors import ConfigError, Interrupted

if TYPE_CHECKING:
    from deqcert.attacks import Attack
    from deqcert.conformal import Evidence, SetMethod
    from deqcert.data import Dataset
    from deqcert.runs import Layout, Run
    from deqcert.smoothing import Input


@dataclass(frozen=True)
class Answering:
    """A classifier that answers with the evidence of a method.

    Args:
        classifier: The classifier.
        method: The method.
    """

    classifier: SmoothedClassifier
    method: SetMethod

    @cached_property
    def source(self) -> Any:
        """Where evidence comes from: noisy copies, or the model."""
        smooth = self.classifier
        source: Any = smooth.loaded.plain
        if self.method.noise:
            from deqcert.smoothing import Copies

            source = Copies(smooth.engine, smooth.predictor)
        self.method.check(source)
        return source

    @cached_property
    def about(self) -> dict[str, Any]:
        """What decides an answer, as a calibration's parameters; see ``calibration.ABOUT``."""
        from deqcert import compose

        smooth = self.classifier
        found, source = dict(smooth.loaded.identity), self.source  # refused before a run begins
        if not self.method.noise:
            return found
        engine = source.engine
        return {
            **found,
            "predictor": compose.describe_predictor(smooth.predictor),
            **compose.describe_evaluation(smooth, engine.sigma, smooth.loaded.form, engine.levels),
        }

    def on_grid(self, levels: int | None) -> Answering:
        """Return the same for inputs on a grid."""
        if not self.method.noise:
            return self
        return dataclasses.replace(self, classifier=self.classifier.on_grid(levels))

    def check_levels(self, dataset: Dataset) -> None:
        """Refuse data off the grid of the calibrated noise.

        Raises:
            ConfigError: If they are.
        """
        levels = self.source.engine.levels if self.method.noise else None
        if levels is not None and dataset.levels != levels:
            raise ConfigError(
                f"noise was calibrated on the grid of 1/{levels}, but the data lie on "
                f"{'none' if dataset.levels is None else f'that of 1/{dataset.levels}'}; give "
                "data on that grid, or calibrate with --noise float"
            )

    def draw_by(self, seed: int | None) -> None:
        """Draw noise by a run's seed."""
        if self.method.noise and seed is not None:
            self.source.engine.seed = seed

    def evidence(self, inputs: Sequence[Input], stage: int, radius: float) -> list[Evidence]:
        """Return the evidence per input."""
        return self.method.evidence(self.source, inputs, stage=stage, radius=radius)

    def described(self, dataset: Dataset, split: str) -> dict[str, Any]:
        """Return what decides the answers for a data set, as JSON values for a manifest."""
        from deqcert import compose

        return {**self.about, **compose.describe_data(dataset.name, split, dataset)}

    def attack(self, attacks: Sequence[Attack], radius: float) -> Any:
        """Return what attacks the sets; see :class:`deqcert.conformal.attacked.SetAttack`."""
        from deqcert import compose
        from deqcert.conformal.attacked import SetAttack

        smooth = self.classifier
        if self.method.noise:
            return SetAttack.of_noise(self.source, smooth.loaded.plain, tuple(attacks), radius)
        return SetAttack.of_model(self.source, compose.make_cold(smooth), tuple(attacks), radius)


def open_run(
    folder: Path,
    parameters: Mapping[str, Any],
    images: tuple[int, ...],
    notes: Mapping[str, Any],
    layout: Layout,
    note: Callable[[str], None],
) -> Run:
    """Begin a run, or go on with one; see :class:`deqcert.runs.Run`.

    Args:
        folder: Where it lives.
        parameters: What decides the numbers.
        images: Indices of the images.
        notes: Anything else worth keeping.
        layout: What the lines hold.
        note: Called with a sentence about each change since the run began.

    Raises:
        RunError: If the folder cannot be written, or holds another run.
    """
    from deqcert.runs import Run, machine, versions

    run = Run(
        folder,
        parameters,
        images,
        environment={**versions(), **machine()},
        notes=notes,
        layout=layout,
    )
    for change in run.changes:
        note(f"{change} since this run began; recorded")
    return run


def interruptible(run: Run, work: Callable[[], None]) -> None:
    """Do the work of a run.

    Raises:
        Interrupted: On Ctrl-C, with a sentence about what is safe.
    """
    try:
        work()
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted; {run.done} of {len(run.images)} images are safe in {run.folder}, and "
            "the same command goes on from there"
        ) from None
