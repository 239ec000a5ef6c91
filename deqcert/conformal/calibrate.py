"""Calibrating prediction sets: by solving held-out images, or by the votes of a finished run."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deqcert.api import SmoothedClassifier
from deqcert.conformal.answering import Answering, interruptible, open_run
from deqcert.data.indices import parse_images
from deqcert.errors import ConfigError

if TYPE_CHECKING:
    from deqcert.conformal import Calibration
    from deqcert.conformal.votes import RunVotes
    from deqcert.data import Dataset
    from deqcert.runs import Run

Told = Callable[[int, int], None]
"""Called with the images that are done and all there are."""


def calibrate(
    answering: Answering,
    data: str | Dataset,
    split: str,
    images: str,
    out: str | Path | None,
    told: Told,
    note: Callable[[str], None],
) -> Calibration:
    """Look at every image, each once.

    Args:
        answering: The classifier and the method.
        data: As for :meth:`deqcert.SetPredictor.calibrate`, and so are the others.
        split: Which part of it.
        images: Which images.
        out: Run folder, or None.
        told: Called as images are done.
        note: Called with a sentence about what a reader should know.

    Raises:
        ConfigError: If something does not fit, or the images were trained on.
        DataError: If the images cannot be used.
        RunError: If the folder cannot be written, or holds another run.
    """
    import numpy as np

    from deqcert.conformal import Calibration
    from deqcert.conformal.calibration import image_hash
    from deqcert.conformal.evaluation import CALIBRATION, CalibrationLine
    from deqcert.smoothing import Input, Stage

    dataset, chosen = answering.classifier.dataset(data, split=split, images=images)
    this = answering.on_grid(dataset.levels)
    source = this.source  # refuses what the method cannot use, before anything is written
    _refuse_trained(this.classifier.model, dataset, split, note)
    stage, method, indices = int(Stage.CALIBRATE), this.method, tuple(chosen)
    labels = {index: dataset.label(index) for index in indices}
    tuned: tuple[int, ...] = ()
    if getattr(method, "threshold", 0.0) is None and not method.of_votes:  # type: ignore[attr-defined]
        from deqcert.conformal.binarised import SHARE, parted

        tuned, indices = parted(indices)
        if not tuned:
            raise ConfigError(
                f"a threshold is chosen by one image of {SHARE}, but there are {len(indices)}; "
                "give more, or a threshold"
            )
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
            method = method.tuned(source, some, own, stage)  # type: ignore[attr-defined]
        done = 0 if run is None else run.done
        if run is not None:
            lines.extend(CalibrationLine.read(run.certificates))
        size = max(1, this.classifier.batch // max(1, method.copies))
        for first in range(done, len(indices), size):
            part = indices[first : first + size]
            began = time.perf_counter()
            inputs = [Input(dataset.image(i), i) for i in part]
            found = method.evidence(source, inputs, stage=stage, radius=0.0)
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
            seen=tuple(image_hash(dataset.image(i)) for i in (*indices, *tuned)),
            parameters=parameters,
            classes=getattr(this.classifier.loaded.model, "num_classes", len(dataset.classes)),
            pixels=int(np.prod(dataset.shape)),
            notes={
                "data": dataset.name,
                "settings": this.classifier.written(),
                "tuned": list(tuned),
            },
        )

    method.check(this.source)  # before there is a folder
    if out is None:
        go_on(None)
        return made()
    notes = {"data": dataset.name, "settings": this.classifier.written()}
    with open_run(Path(out), parameters, indices, notes, CALIBRATION, note) as run:
        interruptible(run, lambda: go_on(run))
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
