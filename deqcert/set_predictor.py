"""The front door of prediction sets: an object that answers with every class that may be true."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from deqcert.api import SmoothedClassifier, parse_images
from deqcert.errors import ConfigError, Interrupted
from deqcert.options import check_options, number

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from deqcert.attacks import Attack
    from deqcert.conformal import Calibration, Evidence, SetMethod
    from deqcert.conformal.votes import RunVotes
    from deqcert.data import Dataset
    from deqcert.report.sets import SetResults
    from deqcert.runs import Run
    from deqcert.smoothing import Input

Told = Callable[[int, int], None]
"""Called with the images that are done and all there are."""


@dataclass(frozen=True)
class SetPredictor:
    """A calibrated set predictor: the true class is in its answer as often as was promised.

    >>> sets = SetPredictor("runs/calibration", alpha=0.1, radius=0.25)   # doctest: +SKIP
    >>> sets(x)                                                           # doctest: +SKIP
    (3, 5)

    Args:
        calibration: What :meth:`calibrate` returned or ``deqcert conformal calibrate`` has
            written: a file or its folder.
        alpha: How often a set may miss the true class.
        radius: l2 size of perturbations that the promise holds for, in [0, 1] pixels.
        classifier: What answers; what was calibrated, as its notes name it, if not given. Another
            one is refused.

    Raises:
        ConfigError: If a number is out of range.
        RunError: If the calibration cannot be read.

    **Guarantee:** that of the calibration's method, over calibration images, test image and noise
    together. It holds for images that were drawn as those of the calibration and were not
    calibrated on, and for perturbations that do not depend on the noise: give the classifier seed
    "random", with which every call draws its own.
    """

    calibration: Any
    alpha: float = number(0.1, above=0, below=1, metavar="A")
    radius: float = number(0.0, low=0, metavar="R")
    classifier: SmoothedClassifier | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Settings of the calibrated classifier that are others now, such as where its file is."""

    def __post_init__(self) -> None:
        from deqcert.conformal import Calibration

        check_options(self)
        if not isinstance(self.calibration, Calibration):
            object.__setattr__(self, "calibration", Calibration.read(self.calibration))

    @classmethod
    def calibrate(
        cls,
        classifier: SmoothedClassifier,
        data: str | Dataset = "digits",
        *,
        split: str = "test",
        images: str = ":",
        method: str | SetMethod = "one-draw",
        options: Mapping[str, Any] | None = None,
        out: str | Path | None = None,
        alpha: float = 0.1,
        radius: float = 0.0,
        told: Told = lambda done, count: None,
        note: Callable[[str], None] = lambda sentence: None,
    ) -> Self:
        """Calibrate on held-out images.

        Args:
            classifier: What will answer.
            data: Name and place of a data set, or one that is loaded. The model must not have been
                trained on its images, or seen them in any other way.
            split: Which part of it.
            images: Which images.
            method: Name of a method, or one that is made.
            options: The method's options.
            out: Run folder that keeps the calibration; None keeps it in memory alone.
            alpha: As for the class; another predictor can be made of the same calibration.
            radius: As for the class.
            told: Called as images are done.
            note: Called with a sentence about what a reader should know.

        Raises:
            ConfigError: If something does not fit, or the images were trained on.
            DataError: If the images cannot be used.
            RunError: If the folder cannot be written, or holds another run.
        """
        from deqcert.conformal.registry import make_set_method

        made = make_set_method(method, options or {}) if isinstance(method, str) else method
        answering = Answering(classifier, made)
        calibration = answering.calibrate(data, split, images, out, told, note)
        return cls(calibration, alpha, radius, answering.classifier)

    @cached_property
    def bar(self) -> float:
        """What the evidence for a class must reach.

        Raises:
            ConfigError: If the calibration set is too small for alpha and radius.
        """
        found: float = self.calibration.bar(self.alpha, self.radius)
        return found

    @cached_property
    def answering(self) -> Answering:
        """The classifier and the method.

        Raises:
            ConfigError: If the classifier is not the calibrated one.
        """
        classifier = self.classifier
        if classifier is None:
            if "sigma" in self.overrides and not self.calibration.method.noise:
                raise ConfigError("the calibration draws no noise; leave sigma out")
            held = {k: v for k, v in self.calibration.parameters.items() if k in ("shape", "form")}
            settings = self.calibration.notes.get("settings", {})
            classifier = SmoothedClassifier(**{**settings, **held, **self.overrides})
        made = Answering(classifier, self.calibration.method)
        made = made.on_grid(self.calibration.parameters.get("levels"))
        self.calibration.check_about(made.about)
        return made

    def __call__(self, x: ArrayLike, index: int = 0) -> Any:
        """Return the set of one input, or of each of several.

        Args:
            x: An input, shape (C, H, W), in [0, 1]; or several, shape (B, C, H, W).
            index: Number that the noise of the input is drawn by, from 0; of several inputs the
                first one's.

        Returns:
            The classes, ascending, as a tuple, which may be empty; for several inputs a list.

        Raises:
            ConfigError: If the calibration is too small or of something else, or the input was
                calibrated on.
            DataError: If the input does not fit the model.
        """
        from deqcert.conformal.base import members
        from deqcert.conformal.calibration import image_hash
        from deqcert.smoothing import Stage

        bar, answering = self.bar, self.answering

        def answer(one: Input) -> tuple[int, ...]:
            self.calibration.check_images("", "", [one.index], [image_hash(one.x)])
            found = answering.evidence([one], Stage.SETS, self.radius)
            return members(found[0], bar)

        return answering.classifier.each(x, index, answer)

    def of_dataset(
        self,
        data: str | Dataset = "digits",
        *,
        split: str = "test",
        images: str = ":",
        attacks: Sequence[Attack] = (),
        votes: RunVotes | None = None,
        out: str | Path,
        told: Told = lambda done, count: None,
        note: Callable[[str], None] = lambda sentence: None,
    ) -> SetResults:
        """Answer for images of a data set into a run folder; called again, it goes on or reads it.

        Args:
            data: Name and place of a data set, or one that is loaded.
            split: Which part of it.
            images: Which images.
            attacks: Attacks that then try, at the radius, to get the true class out of the set.
                They see the model and the images, and not the noise.
            votes: A run of ``deqcert certify`` whose votes are taken in place of new solves.
            out: The run folder.
            told: Called as images are done.
            note: Called with a sentence about what a reader should know.

        Returns:
            The sets, as :func:`deqcert.report.sets.read_sets` reads them.

        Raises:
            ConfigError: If something does not fit, or an image was calibrated on.
            DataError: If the images cannot be used.
            RunError: If the folder cannot be written, or holds another run.
            Interrupted: On Ctrl-C; what was answered is safe.
        """
        from deqcert.conformal.evaluation import SetRun
        from deqcert.report.sets import draw_sets, read_sets, sets_table

        calibration, bar = self.calibration, self.bar
        if attacks and self.radius == 0.0:
            raise ConfigError("attacks need a radius above 0; give --radius, or leave them out")
        attack = None
        if votes is None:
            answering = self.answering
            dataset, indices = answering.classifier.dataset(data, split=split, images=images)
            if attacks:
                attack = answering.attack(attacks, self.radius)
        else:
            from deqcert.conformal.votes import check_apart
            from deqcert.data import load_dataset

            if attacks:
                raise ConfigError("votes of a run are of clean images; leave --attack or it out")
            calibration.check_about(votes.about)
            if calibration.method != votes.method:
                raise ConfigError(
                    f"{votes.folder} has {votes.n} votes for each image, but the calibration is of "
                    f"{calibration.method.parameters()}; calibrate with votes of as many"
                )
            dataset = load_dataset(data, split) if isinstance(data, str) else data  # type: ignore[arg-type]
            if dataset.hash() != votes.parameters["data_hash"]:
                raise ConfigError(
                    f"the run {votes.folder} is of other images; say where its own are"
                )
            places = parse_images(images, len(votes.images))
            indices = [votes.images[place] for place in places]  # type: ignore[assignment]
        made = SetRun(
            calibration=calibration,
            bar=bar,
            alpha=self.alpha,
            radius=self.radius,
            dataset=dataset,
            images=tuple(indices),
            attack=attack,
            batch=100 if votes is not None else answering.classifier.batch,
        )
        made.check_images(split)
        if votes is None:
            answering.check_levels(dataset)
        else:
            check_apart(calibration, votes)
        if bar <= 0.0 and calibration.method.name == "binarised":
            note("the bar is 0: every set holds all classes; raise --alpha or lower --radius")
        parameters = {
            **made.parameters(),
            **({} if votes is not None else self.answering.described(dataset, split)),
            **({} if votes is None else votes.about),
        }
        notes = {"data": dataset.name, "split": split, "guarantee": made.guarantee()}
        with _open_run(Path(out), parameters, tuple(indices), notes, made.layout, note) as run:
            if votes is None:
                answering.draw_by(run.seed)
                look: Any = lambda some: answering.evidence(some, _stage(), self.radius)  # noqa: E731
            else:
                at = {index: place for place, index in enumerate(votes.images)}
                look = lambda some: [  # noqa: E731
                    votes.evidence(at[one.index], calibration.classes) for one in some
                ]
            _interruptible(run, lambda: made.fill(run, look, told))
            run.reveal()
            results = read_sets(run.folder)
            run.finish(sets_table(results).summary())
            draw_sets(results, run.folder / "sets.png")
        return results


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
        found = dict(smooth.loaded.identity)
        if not self.method.noise:
            return found
        engine = self.source.engine
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

    def calibrate(
        self,
        data: str | Dataset,
        split: str,
        images: str,
        out: str | Path | None,
        told: Told,
        note: Callable[[str], None],
    ) -> Calibration:
        """Look at every image, each once; see :meth:`SetPredictor.calibrate`."""
        import numpy as np

        from deqcert.conformal import Calibration
        from deqcert.conformal.calibration import image_hash
        from deqcert.conformal.evaluation import CALIBRATION, CalibrationLine
        from deqcert.smoothing import Input, Stage

        dataset, chosen = self.classifier.dataset(data, split=split, images=images)
        this = self.on_grid(dataset.levels)
        _refuse_trained(this.classifier.model, dataset, split, note)
        stage, method, indices = int(Stage.CALIBRATE), this.method, tuple(chosen)
        labels = {index: dataset.label(index) for index in indices}
        tuned: tuple[int, ...] = ()
        if getattr(method, "threshold", 0.0) is None and not method.of_votes:  # type: ignore[attr-defined]
            from deqcert.conformal.binarised import SHARE

            count = len(indices) // SHARE
            if not count:
                raise ConfigError(
                    f"a threshold is chosen by one image of {SHARE}, but there are {len(indices)}; "
                    "give more, or a threshold"
                )
            tuned, indices = indices[:count], indices[count:]
        parameters = {
            **method.parameters(),
            **this.described(dataset, split),
            **({"tuned": len(tuned)} if tuned else {}),
        }
        lines: list[CalibrationLine] = []

        def go_on(run: Run | None) -> None:
            nonlocal method
            this.draw_by(None if run is None else run.seed)
            if tuned:  # again the same one, where a run goes on
                some = [Input(dataset.image(i), i) for i in tuned]
                own = [labels[i] for i in tuned]
                method = method.tuned(this.source, some, own, stage)  # type: ignore[attr-defined]
            done = 0 if run is None else run.done
            if run is not None:
                lines.extend(CalibrationLine.read(run.certificates))
            size = max(1, this.classifier.batch // max(1, method.copies))
            for first in range(done, len(indices), size):
                part = indices[first : first + size]
                began = time.perf_counter()
                inputs = [Input(dataset.image(i), i) for i in part]
                found = method.evidence(this.source, inputs, stage=stage, radius=0.0)
                seconds = (time.perf_counter() - began) / len(part)
                for i, one in zip(part, found, strict=True):
                    line = CalibrationLine(
                        i, labels[i], float(one.low[labels[i]]), one.unsolved, one.nfe, seconds
                    )
                    if run is not None:
                        run.append(line)
                    lines.append(line)
                told(len(lines), len(indices))

        def made() -> Calibration:
            if unsolved := sum(line.unsolved for line in lines):
                note(f"{unsolved} noisy copies were not solved; they count against their class")
            return Calibration(
                method=method,
                values=tuple(line.value for line in lines),
                images=indices,
                seen=tuple(image_hash(dataset.image(i)) for i in indices),
                parameters=parameters,
                classes=getattr(this.classifier.loaded.model, "num_classes", len(dataset.classes)),
                pixels=int(np.prod(dataset.shape)),
                notes={
                    "data": dataset.name,
                    "settings": this.classifier.written(),
                    "tuned": list(tuned),
                },
            )

        if out is None:
            go_on(None)
            return made()
        notes = {"data": dataset.name, "settings": this.classifier.written()}
        with _open_run(Path(out), parameters, indices, notes, CALIBRATION, note) as run:
            _interruptible(run, lambda: go_on(run))
            run.reveal()
            calibration = made()
            calibration.write(run.folder)
        return calibration


def calibrate_votes(
    votes: RunVotes, data: str | Dataset | None, images: str, out: Path
) -> Calibration:
    """Calibrate with the votes of a finished run; nothing is solved.

    Args:
        votes: The run's votes.
        data: Where its images are; None is where they were.
        images: Which of the run's images, by their place in it.
        out: Folder for the calibration's file.

    Raises:
        ConfigError: If the data are others.
        RunError: If the folder cannot be written.
    """
    import numpy as np

    from deqcert.conformal import Calibration
    from deqcert.conformal.calibration import image_hash
    from deqcert.data import load_dataset

    split = str(votes.parameters["split"])
    given = votes.notes["data"] if data is None else data
    dataset = load_dataset(given, split) if isinstance(given, str) else given  # type: ignore[arg-type]
    if dataset.hash() != votes.parameters["data_hash"]:
        raise ConfigError(f"{given} is not what {votes.folder} is about; say where its images are")
    _refuse_trained(votes.notes.get("model"), dataset, split, lambda sentence: None)
    places = parse_images(images, len(votes.images))
    indices = tuple(votes.images[place] for place in places)
    classes = len(dataset.classes)
    settings = dict(votes.notes.get("settings", {}))
    kept = {f.name for f in dataclasses.fields(SmoothedClassifier)}
    made = Calibration(
        method=votes.method,
        values=tuple(
            float(votes.evidence(place, classes).low[dataset.label(index)])
            for place, index in zip(places, indices, strict=True)
        ),
        images=indices,
        seen=tuple(image_hash(dataset.image(index)) for index in indices),
        parameters=votes.about,
        classes=classes,
        pixels=int(np.prod(dataset.shape)),
        notes={
            "data": dataset.name,
            "settings": {key: value for key, value in settings.items() if key in kept},
        },
    )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        from deqcert.files import explain

        raise explain(error, f"make the folder {out}") from None
    made.write(out)
    return made


def _stage() -> int:
    from deqcert.smoothing import Stage

    return int(Stage.SETS)


def _open_run(
    folder: Path,
    parameters: Mapping[str, Any],
    images: tuple[int, ...],
    notes: Mapping[str, Any],
    layout: Any,
    note: Callable[[str], None],
) -> Run:
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


def _interruptible(run: Run, work: Callable[[], None]) -> None:
    try:
        work()
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted; {run.done} of {len(run.images)} images are safe in {run.folder}, and "
            "the same command goes on from there"
        ) from None


def _refuse_trained(model: Any, dataset: Dataset, split: str, note: Callable[[str], None]) -> None:
    """Refuse images that the training's record says the model has learned from."""
    from deqcert.models import checkpoint_path

    trained = None
    if isinstance(model, str | Path):
        try:
            record = checkpoint_path(model).with_suffix(".json")
            trained = json.loads(record.read_text(encoding="utf-8"))["data_sha256"]["train"]
        except (OSError, ValueError, KeyError, TypeError):
            trained = None
    if trained == dataset.hash():
        raise ConfigError(
            "the model was trained on these images, which makes sets too small for others; "
            "calibrate on images that it has not seen"
        )
    if split == "train" and trained is None:
        note("nothing says that the model was not trained on these images; it must not be")
