"""Compute the votes of an answer on record again, alone and offline, and compare."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deqcert.api import SmoothedClassifier
from deqcert.certifiers.independent import Independent
from deqcert.conformal.predictor import SetPredictor
from deqcert.errors import RunError
from deqcert.serve.batches import WatchedCopies
from deqcert.serve.goals import AfterLooks
from deqcert.serve.records import Record, RecordReader
from deqcert.serve.service import describe
from deqcert.serve.votes import Cast, count_votes
from deqcert.smoothing import Input, SmoothingEngine, Stage
from deqcert.smoothing.stream import solve_stream

SAME = ("checkpoint_sha256", "weights_sha256", "model_config", "predictor")
"""What must be as it was; versions and machine may be others, and are named if votes differ."""


@dataclass(frozen=True)
class Replay:
    """What a replay found.

    Attributes:
        record: The record.
        differences: What is not as it was, in sentences; none where everything is equal.
        changes: What of versions and machine is another now, as "name: then -> now".
        counts: By stage of the noise the votes per class, as computed now.
    """

    record: Record
    differences: tuple[str, ...]
    changes: tuple[str, ...]
    counts: dict[int, list[int]]

    @property
    def equal(self) -> bool:
        """Whether votes and answer are the very same."""
        return not self.differences


def replay(
    name: str,
    folder: Path,
    *,
    model: str | None = None,
    model_config: str | None = None,
    calibration: Path | None = None,
) -> Replay:
    """Compute an answer's votes again by the offline engine, and all digests of the record.

    Args:
        name: The answer's id.
        folder: The service's folder.
        model: The model, if it is elsewhere now.
        model_config: Its configuration, if it is elsewhere now.
        calibration: For answers of mode set: the calibration.

    Raises:
        RunError: If there is no such record, or it is damaged.
        ConfigError: If the model is another one, or something is missing.
    """
    reader = RecordReader(folder)
    found = reader.find(name)
    if found is None:
        raise RunError(f"there is no answer {name} in {folder}; give the id that the answer had")
    places = {"model": model, "model_config": model_config}
    given = {key: value for key, value in places.items() if value is not None}
    smooth = SmoothedClassifier(**{**found.about["settings"], **given})
    now = json.loads(json.dumps(describe(smooth, smooth.engine)))
    for key in SAME:
        if now.get(key) != found.about.get(key):
            raise RunError(
                f"{smooth.model} is not the model that answered {name} (its {key} is another); "
                "say with --model where that is"
            )
    engine, cast = smooth.engine, Cast()
    engine.callbacks = [cast]
    input, differences = Input(found.pixels, 0), []
    if found.mode == "predict":
        differences += _compare({"class": _clean(engine, smooth, input)}, found.answer)
    elif found.mode == "certify":
        assert found.seed is not None
        engine.seed = found.seed
        differences += _compare(_certified(engine, smooth, input, found), found.answer)
        clean = {"class": _clean(engine, smooth, input)}
        differences += _compare(clean, found.answer["clean"], "clean ")
    else:
        differences += _compare(
            {"classes": _members(engine, smooth, input, found, calibration)}, found.answer
        )
    changed = reader.check()
    if changed is not None:
        differences.append(f"the record of {changed} is not as it was written")
    votes = cast.votes()
    for stage in sorted({*votes, *found.votes}):
        then, again = found.votes.get(stage), votes.get(stage)
        if then is None or again is None or not np.array_equal(then, again):
            differences.append(f"the votes of stage {stage} differ")
    return Replay(
        found,
        tuple(differences),
        tuple(_changes(found.about, now)),
        {stage: count_votes(part, cast.classes).tolist() for stage, part in votes.items()},
    )


def _certified(
    engine: SmoothingEngine, smooth: SmoothedClassifier, input: Input, found: Record
) -> dict[str, Any]:
    asked = found.asked
    goal = None if asked["looks"] is None else AfterLooks(asked["looks"])
    certifier = Independent(
        smooth.predictor, n0=asked["n0"], n=asked["n"], alpha=asked["alpha"], goal=goal
    )
    made = certifier.certify(engine, input)
    return {
        "class": made.prediction,
        "radius": made.radius,
        "p_lower": made.details.p_lower,
        "n": made.details.n,
    }


def _clean(engine: SmoothingEngine, smooth: SmoothedClassifier, input: Input) -> int | None:
    pixels = engine.prepare(input.x)[None].to(engine.dtype)
    block = (np.zeros(1, dtype=np.int64), engine.model.inject(pixels))
    (rows,) = solve_stream(engine.model, smooth.predictor, iter([block]), 1)
    prediction = int(engine.read(rows, smooth.predictor.stop).predictions[0])
    return None if prediction < 0 else prediction


def _members(
    engine: SmoothingEngine,
    smooth: SmoothedClassifier,
    input: Input,
    found: Record,
    calibration: Path | None,
) -> list[int]:
    from deqcert.conformal.base import members

    if calibration is None:
        raise RunError(f"{found.id} is an answer of mode set; name its --calibration")
    asked = found.asked
    sets = SetPredictor(calibration, asked["alpha"], asked["radius"], classifier=smooth)
    if sets.calibration.sha256 != asked["calibration_sha256"]:
        raise RunError(f"{calibration} is not the calibration of {found.id}; give that one")
    source: Any = smooth.loaded.plain
    if found.seed is not None:
        engine.seed = found.seed
        source = WatchedCopies(engine, smooth.predictor)
    method = sets.calibration.method
    (evidence,) = method.evidence(source, [input], stage=Stage.SETS, radius=asked["radius"])
    return list(members(evidence, sets.bar))


def _compare(now: Mapping[str, Any], then: Mapping[str, Any], what: str = "") -> list[str]:
    return [
        f"{what}{key} was {then[key]} and is {value}"
        for key, value in now.items()
        if then[key] != value
    ]


def _changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for part in ("versions", "machine", "evaluation"):
        before, after = then.get(part, {}), now.get(part, {})
        for key in sorted({*before, *after}):
            if before.get(key) != after.get(key):
                yield f"{key}: {before.get(key)} -> {after.get(key)}"
