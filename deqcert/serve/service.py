"""The service without its HTTP: requests in, recorded answers out."""

from __future__ import annotations

import dataclasses
import functools
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deqcert import compose
from deqcert.api import SmoothedClassifier
from deqcert.certifiers.certificate import Certificate
from deqcert.certifiers.goals import Goal, parse_goal
from deqcert.certifiers.independent import Independent
from deqcert.conformal.predictor import SetPredictor
from deqcert.data.base import BYTES
from deqcert.errors import ConfigError
from deqcert.files import Lock, explain, read_regular
from deqcert.runs import machine, versions
from deqcert.serve.batches import Batches, Clean, SharedEngine, WatchedCopies
from deqcert.serve.goals import Deadline
from deqcert.serve.images import Upload
from deqcert.serve.keys import Keys
from deqcert.serve.labels import Label
from deqcert.serve.limits import Admission, Refused, Serving
from deqcert.serve.metrics import Metrics
from deqcert.serve.records import Record, RecordReader, Records, new_id, promise
from deqcert.serve.votes import Cast
from deqcert.smoothing import Input, SmoothingEngine, Stage, Votes
from deqcert.smoothing.seed import draw_seed

KNOWN_SEED, KNOWN_COPIES = 20261125, 16
"""Noise of the known input, which is no secret and certifies nothing."""

KNOWN_FOR = 5.0
"""Seconds for which a look at the known input is believed."""


@dataclass(frozen=True)
class Question:
    """What a request for a certificate asks.

    Attributes:
        n: Most noisy copies.
        alpha: Probability that the certificate may be wrong.
        goal: As ``--goal`` takes it.
        deadline: Seconds from the request's arrival; None for none.
    """

    n: int
    alpha: float
    goal: str
    deadline: float | None = None


Tell = Callable[[Mapping[str, Any]], None]


class Service:
    """A model that answers requests, each with fresh secret noise and on record.

    Args:
        smooth: The classifier.
        serving: Limits and places.

    Raises:
        ConfigError: If the classifier cannot be served, or a file that was named is not usable.
        RunError: If the service's folder is in use or cannot be written.
    """

    def __init__(self, smooth: SmoothedClassifier, serving: Serving) -> None:
        self.serving, self.keys = serving, Keys.read(serving.keys)
        self.sets: SetPredictor | None = None
        if serving.calibration is not None:
            sets = SetPredictor(serving.calibration)
            smooth = smooth.on_grid(sets.calibration.parameters.get("levels"))
            self.sets = dataclasses.replace(sets, classifier=smooth)
        self.smooth = smooth = smooth.on_grid(BYTES)
        if not smooth.predictor.independent:
            raise ConfigError(
                f"start '{smooth.start}' chains noisy copies, but those of a request are solved "
                "with other requests'; use --start cold or learned"
            )
        self.shape: tuple[int, ...] = tuple(getattr(smooth.loaded.model, "input_shape", ()))
        if len(self.shape) != 3:
            raise ConfigError("the model does not say which images it takes; give one that does")
        self.engine: SmoothingEngine = smooth.engine
        if self.sets is not None:
            self.sets.answering  # noqa: B018  refused here if something else was calibrated
        self.question(None, None, None, None)  # what is asked where a request says nothing
        self.about = describe(smooth, self.engine)
        found = self._known_votes(self.engine)
        self.known, self.classes = found.predictions, found.classes
        self.names = self._read_names()
        try:
            serving.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise explain(error, f"make {serving.out}") from None
        self._lock = Lock(
            serving.out, f"another service writes to {serving.out}; give another --out"
        )
        self.admission = Admission(serving.queue)
        self.metrics = Metrics(
            lambda: self.admission.inside, lambda: self.batches.rows, smooth.batch
        )
        self.records = Records(serving.out, self.about)
        self.reader = RecordReader(serving.out)
        self.batches = Batches(self.engine, smooth.predictor, self.metrics.solved)
        self.shared = SharedEngine(self.engine, self.batches)
        self._closed = False
        self._checked = -KNOWN_FOR
        self._fault: str | None = None
        self._checking = threading.Lock()

    def close(self) -> None:
        """Stop solving, put what is answered on the disk, and let another service in; once."""
        if self._closed:
            return
        self._closed = True
        self.batches.close()
        self.records.close()
        self._lock.close()

    def predict(self, upload: Upload, client: str | None) -> Future[Record]:
        """Answer with the class of the image as it is: one solve, and no promise.

        No thread waits: rows, records and answers of a batch go from thread to thread together.

        Args:
            upload: The image.
            client: Who asks.

        Returns:
            The record, once it is on the disk.

        Raises:
            DataError: If the image does not fit the model.
            Refused: If the service is stopping.
        """
        began, done = time.perf_counter(), promise()

        def record(found: Clean) -> Record:
            answer = {**self._clean(found), "seconds": time.perf_counter() - began}
            return self._record("predict", upload, None, {}, answer, {}, client)

        def solved(found: Clean | Exception) -> None:
            if isinstance(found, Exception):
                done.set_exception(found)
            else:
                self.records.put(functools.partial(record, found), done)

        self.shared.clean(Input(upload.pixels, 0), solved)
        return done

    def question(
        self, n: int | None, alpha: float | None, goal: str | None, deadline: float | None
    ) -> Question:
        """Return what is asked, with the service's own settings where a request says nothing.

        Raises:
            ConfigError: If it is more than the service allows, or cannot be certified.
        """
        smooth, most = self.smooth, self.serving
        asked = Question(
            n=smooth.n if n is None else n,
            alpha=smooth.alpha if alpha is None else alpha,
            goal=smooth.goal if goal is None else goal,
            deadline=deadline,
        )
        if asked.n > most.largest_n:
            raise ConfigError(f"n is {asked.n}, but this service takes at most {most.largest_n}")
        if deadline is not None and deadline > most.longest_seconds:
            raise ConfigError(
                f"the deadline is {deadline:g} s, but this service takes at most "
                f"{most.longest_seconds:g}"
            )
        self._certifier(asked, parse_goal(asked.goal)).check(self.engine)
        return asked

    def certify(
        self,
        upload: Upload,
        asked: Question,
        client: str | None,
        *,
        arrived: float,
        tell: Tell = lambda progress: None,
        given_up: Callable[[], bool] = lambda: False,
    ) -> dict[str, Any]:
        """Answer with a class and the radius that was reached.

        Args:
            upload: The image.
            asked: What is asked.
            client: Who asks.
            arrived: When the request came, as ``time.monotonic`` counts.
            tell: Called with the votes so far as they are cast.
            given_up: Asked whether nobody waits any more.
        """
        began, radius = time.perf_counter(), -np.inf
        engine = self.shared.of_request(draw_seed())  # not before the image is there

        def show() -> None:
            if given_up():
                raise Refused(499, "nobody waits for the answer.")
            counts = cast.counts(Stage.ESTIMATE)
            tell({"votes": counts, "drawn": sum(counts), "radius": max(radius, 0.0)})

        def reached(found: float) -> None:
            nonlocal radius
            radius = found
            show()

        cast = Cast(show)
        engine.callbacks.append(cast)
        goal: Goal | None = parse_goal(asked.goal)
        if goal is not None or asked.deadline is not None:
            until = np.inf if asked.deadline is None else arrived + asked.deadline
            within = "" if asked.deadline is None else f", within {asked.deadline:g} s"
            goal = Deadline(goal, until, f"{asked.goal}{within}", reached)
        input = Input(upload.pixels, 0)
        clean: SimpleQueue[Clean | Exception] = SimpleQueue()
        self.shared.clean(input, clean.put)
        alone = clean.get()
        if isinstance(alone, Exception):
            raise alone
        made = self._certifier(asked, goal).certify(engine, input)
        self.metrics.abstentions.inc(made.prediction is None)
        answer = {
            **self._certified(made, asked, goal),
            "votes": cast.counts(Stage.ESTIMATE),
            "clean": self._clean(alone),
            "seconds": time.perf_counter() - began,
        }
        question = {
            **dataclasses.asdict(asked),
            "n0": self.smooth.n0,
            "looks": goal.looks if isinstance(goal, Deadline) else None,
        }
        return self._recorded(
            self._record("certify", upload, engine.seed, question, answer, cast.votes(), client)
        )

    def set(
        self,
        upload: Upload,
        alpha: float | None,
        radius: float | None,
        client: str | None,
    ) -> dict[str, Any]:
        """Answer with every class that may be true.

        Raises:
            ConfigError: If there is no calibration, or it is too small for what is asked.
        """
        from deqcert.conformal.base import members
        from deqcert.conformal.calibration import image_hash

        if self.sets is None:
            raise ConfigError(
                "this service has no calibration; start it with --calibration to ask for sets"
            )
        began = time.perf_counter()
        calibration = self.sets.calibration
        given = {
            "alpha": self.sets.alpha if alpha is None else alpha,
            "radius": self.sets.radius if radius is None else radius,
        }
        bar = calibration.bar(given["alpha"], given["radius"])
        calibration.check_images("", "", [0], [image_hash(upload.pixels)])
        method, cast, seed = calibration.method, Cast(), None
        source: Any = self.smooth.loaded.plain
        if method.noise:
            seed = draw_seed()
            engine = self.shared.of_request(seed)
            engine.callbacks.append(cast)
            source = WatchedCopies(engine, self.smooth.predictor)
        (found,) = method.evidence(
            source, [Input(upload.pixels, 0)], stage=Stage.SETS, radius=given["radius"]
        )
        classes = list(members(found, bar))
        answer = {
            "classes": classes,
            "names": [self.name(one) for one in classes],
            **given,
            "guarantee": (
                f"with probability {1 - given['alpha']:g} the true class is among these, for "
                "images drawn as those that were calibrated on, changed by at most the radius by "
                "somebody who does not know the noise"
            ),
            "seconds": time.perf_counter() - began,
        }
        question = {**given, "calibration_sha256": calibration.sha256}
        return self._recorded(
            self._record("set", upload, seed, question, answer, cast.votes(), client)
        )

    def feedback(self, name: str, label: int, client: str | None) -> int:
        """Put the true class of an answer on record, and return it.

        Raises:
            ConfigError: If the model has no such class.
            Refused: If the answer is not the client's, or another class was told before.
        """
        if label >= self.classes:
            raise ConfigError(
                f"class is {label}, but the model's classes end at {self.classes - 1}"
            )
        found = self.reader.find(name)
        if found is None or found.client != client:
            raise Refused(404, "there is no such answer of yours.")
        self.records.tell(Label(name, label, client))
        known = self.reader.label(name)
        if known != label:
            raise Refused(409, f"class {known} was told before, and what was told stays.")
        return label

    def fault(self) -> str | None:
        """Say in a sentence why the service cannot answer; None where the known input's votes hold.

        The known input is asked again at most every few seconds.
        """
        if not self.batches.alive:
            return "no rows are being solved."
        if self.records.failed is not None:
            return f"{self.records.failed}."
        with self._checking:
            if time.monotonic() - self._checked >= KNOWN_FOR:
                engine = self.shared.of_request(KNOWN_SEED)
                equal = np.array_equal(self._known_votes(engine).predictions, self.known)
                self._fault = (
                    None if equal else "the known input has other votes than at the start."
                )
                self._checked = time.monotonic()
            return self._fault

    def model(self) -> dict[str, Any]:
        """Return what answers, and within which limits."""
        smooth, most = self.smooth, self.serving
        return {
            "model": str(smooth.model),
            "input": list(self.shape),
            "classes": self.classes,
            "names": [self.name(index) for index in range(self.classes)],
            "sigma": self.engine.sigma,
            "levels": self.engine.levels,
            "classifier": smooth.predictor.about(),
            "solve": smooth.predictor.describe(),
            "noise": self.engine.describe_noise(),
            "modes": ["predict", "certify", *(["set"] if self.sets is not None else [])],
            "defaults": {
                "n": smooth.n,
                "n0": smooth.n0,
                "alpha": smooth.alpha,
                "goal": smooth.goal,
            },
            "limits": {
                "n": most.largest_n,
                "seconds": most.longest_seconds,
                "body_bytes": most.largest_body,
                "pixels": most.largest_pixels,
                "requests_at_once": most.queue,
                "evaluations_per_copy": smooth.predictor.stop.max_nfe,
            },
            "keys": self.keys.needed,
            "about": self.about,
        }

    def name(self, index: int | None) -> str | None:
        """Return the name of a class; its number where it has none, None for no class."""
        if index is None:
            return None
        return self.names[index] if self.names else str(index)

    def _certifier(self, asked: Question, goal: Goal | None) -> Independent:
        return Independent(
            self.smooth.predictor, n0=self.smooth.n0, n=asked.n, alpha=asked.alpha, goal=goal
        )

    def _known_votes(self, engine: SmoothingEngine) -> Votes:
        ramp = np.arange(np.prod(self.shape), dtype=np.float64) % (BYTES + 1)
        levels = engine.levels or BYTES
        pixels = (np.round(ramp / BYTES * levels) / levels).reshape(self.shape)
        twin = (
            engine
            if isinstance(engine, SharedEngine)
            else engine.beside(engine.raw, shape=engine.model.rows)
        )
        twin.seed = KNOWN_SEED
        copies = np.arange(KNOWN_COPIES, dtype=np.int64)
        return twin.classify(self.smooth.predictor, Input(pixels, 0), Stage.PREDICT, copies)

    def _clean(self, solved: Clean) -> dict[str, Any]:
        found = None if solved.prediction < 0 else solved.prediction
        return {
            "class": found,
            "name": self.name(found),
            "confidence": solved.confidence if found is not None else 0.0,
            "evaluations": solved.nfe,
        }

    def _certified(self, made: Certificate, asked: Question, goal: Goal | None) -> dict[str, Any]:
        details, radii = made.details, getattr(parse_goal(asked.goal), "radii", ())
        looked = isinstance(goal, Deadline)
        return {
            "class": made.prediction,
            "name": self.name(made.prediction),
            "radius": made.radius,
            "alpha": made.alpha,
            "p_lower": details.p_lower,
            "n": details.n,
            "bound": "time-uniform" if looked else "fixed n",
            "ended": goal.ended if isinstance(goal, Deadline) else "samples",
            "goal": asked.goal,
            "reached": {f"{r:g}": made.prediction is not None and made.radius >= r for r in radii},
            "sigma": details.sigma,
            "classifier": self.smooth.predictor.about(),
            "assumptions": made.assumptions,
            "evaluations": made.nfe,
        }

    def _recorded(self, record: Record) -> dict[str, Any]:
        return dict(self.records.add(record).answer)

    def _record(
        self,
        mode: str,
        upload: Upload,
        seed: int | None,
        asked: Mapping[str, Any],
        answer: Mapping[str, Any],
        votes: Mapping[int, NDArray[np.int16]],
        client: str | None,
    ) -> Record:
        id = new_id()
        whole = {"id": id, **answer, "changed": upload.changed}
        return Record(mode, upload.pixels, seed, asked, whole, votes, client, id)

    def _read_names(self) -> list[str]:
        path = self.serving.names
        if path is None:
            return []
        try:
            names = read_regular(path).decode().splitlines()
        except (OSError, UnicodeDecodeError):
            raise ConfigError(
                f"cannot read names of classes from {path}; give a text file"
            ) from None
        if len(names) != self.classes or not all(names):
            raise ConfigError(
                f"{path} has {len(names)} lines, but the model has {self.classes} classes; write "
                "one name per line"
            )
        return names


def describe(smooth: SmoothedClassifier, engine: SmoothingEngine) -> dict[str, Any]:
    """Return what answers, as JSON values: enough to make the same classifier again."""
    evaluation = compose.describe_evaluation(
        smooth, engine.sigma, smooth.loaded.form, engine.levels
    )
    pinned = {name: evaluation[name] for name in ("sigma", "noise", "batch", "shape", "form")}
    if engine.levels is not None:
        pinned["levels"] = engine.levels
    return {
        **smooth.loaded.identity,
        "predictor": compose.describe_predictor(smooth.predictor),
        "evaluation": {k: v for k, v in evaluation.items() if k != "seed"},
        "settings": {**smooth.written(), **pinned},
        "versions": versions(),
        "machine": machine(),
    }
