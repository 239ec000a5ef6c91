"""The front door of prediction sets: an object that answers with every class that may be true."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from deqcert.api import SmoothedClassifier
from deqcert.conformal.answering import Answering, interruptible, open_run
from deqcert.conformal.calibrate import Told, calibrate
from deqcert.data.indices import parse_images
from deqcert.errors import ConfigError
from deqcert.options import check_options, number

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from deqcert.attacks import Attack
    from deqcert.conformal import SetMethod
    from deqcert.conformal.votes import RunVotes
    from deqcert.data import Dataset
    from deqcert.report.sets import SetResults
    from deqcert.smoothing import Input


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
        calibration = calibrate(answering, data, split, images, out, told, note)
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
        with open_run(Path(out), parameters, tuple(indices), notes, made.layout, note) as run:
            if votes is None:
                answering.draw_by(run.seed)
                look: Any = lambda some: answering.evidence(some, _stage(), self.radius)  # noqa: E731
            else:
                at = {index: place for place, index in enumerate(votes.images)}
                look = lambda some: [  # noqa: E731
                    votes.evidence(at[one.index], calibration.classes) for one in some
                ]
            interruptible(run, lambda: made.fill(run, look, told))
            run.reveal()
            results = read_sets(run.folder)
            run.finish(sets_table(results).summary())
            draw_sets(results, run.folder / "sets.png")
        return results


def _stage() -> int:
    from deqcert.smoothing import Stage

    return int(Stage.SETS)
