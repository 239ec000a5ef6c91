"""The front door: a smoothed classifier that predicts, certifies, and certifies data sets."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deqcert.data.indices import parse_images
from deqcert.errors import ConfigError, DataError, Interrupted
from deqcert.options import number, options_of, read_options
from deqcert.presets import PRESETS
from deqcert.scale.shard import Shard
from deqcert.settings import Data, Settings, Sharding

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from deqcert.certifiers import Certifier
    from deqcert.certifiers.goals import Goal
    from deqcert.compose import Loaded
    from deqcert.data import Dataset
    from deqcert.report import Results
    from deqcert.smoothing import Input, Predictor, SmoothingEngine


@dataclass(frozen=True)
class SmoothedClassifier(Settings):
    """An implicit model, smoothed with Gaussian noise: it answers with classes and with radii.

    Nothing is loaded before the first answer. The settings are those of ``deqcert certify``, with
    the same defaults; whatever they say about the solve is part of the classifier that is
    certified.

    >>> smooth = SmoothedClassifier("digits", sigma=0.25)
    >>> smooth.certify(x)                                               # doctest: +SKIP
    Certificate(prediction=3, radius=0.612, ...)

    Args:
        model: Name of a builtin checkpoint, a checkpoint file, or any implicit model: an object
            with inject, initial_state, cell and readout (:class:`deqcert.models.ImplicitModel`).
            For functions or a torchdeq module see :class:`deqcert.ImplicitClassifier`.
        sigma: Standard deviation of the noise, in pixel units of [0, 1]; if not given, what the
            training's record beside the checkpoint says.
        model_config: The checkpoint's YAML configuration; if not given, the .yaml beside it.

    Raises:
        ConfigError: If a setting is of another type or out of range.
    """

    model: Any = "digits"
    sigma: float | None = number(None, above=0, whole=False, metavar="S")
    model_config: str | None = None

    @classmethod
    def from_preset(cls, preset: str, model: Any = "digits", **settings: Any) -> SmoothedClassifier:
        """Make a classifier with a preset's settings.

        Args:
            preset: One of ``deqcert.presets.PRESETS``.
            model: As for the class.
            **settings: Settings that override the preset's.

        Raises:
            ConfigError: If there is no such preset, or a setting is out of range.
        """
        return cls(model, **{**PRESETS.get(preset).settings, **settings})

    @cached_property
    def predictor(self) -> Predictor:
        """How a noisy copy is classified: solver, stop rule and start."""
        from deqcert import compose

        return compose.make_predictor(self.model, self, self, self.device)

    @cached_property
    def certifier(self) -> Certifier[Any]:
        """The certifier, with all that it needs; of an ``alpha_total`` one input has all.

        Raises:
            ConfigError: If the method lacks something, or is told what it has no use for.
        """
        return self._certifier_of(1)

    def _certifier_of(self, count: int) -> Certifier[Any]:
        """Return the certifier for so many inputs, which share an ``alpha_total``."""
        from deqcert import compose
        from deqcert.certifiers import CERTIFIERS, default_method, make_certifier

        goal, method = self._goal, self.method
        if method == "auto":
            method = default_method(self.predictor, goal)
        pool = {
            "predictor": self.predictor,
            "reference": compose.make_cold(self),
            "n0": self.n0,
            "n": self.n,
            "alpha": self.alpha if self.alpha_total is None else self.alpha_total / count,
            "audit": min(1000, self.n),
            "depth": self.depth,
        }
        known = options_of(CERTIFIERS.get(method))
        more = read_options("method option", self.method_options, known)
        return make_certifier(method, pool, {"audit": self.audit, "goal": goal, **more})

    @cached_property
    def engine(self) -> SmoothingEngine:
        """The engine that casts votes."""
        from deqcert import compose

        levels = compose.noise_levels(self, compose.recorded_levels(self.model))
        return compose.make_engine(self._loaded.model, self, self.noise_level, levels)

    def on_grid(self, levels: int | None) -> SmoothedClassifier:
        """Return this classifier for inputs on a grid, unless its settings name one.

        Args:
            levels: Steps of the grid between 0 and 1, as :attr:`deqcert.data.Dataset.levels` says;
                None where inputs lie on none.
        """
        if self.levels is not None or self.noise == "float":
            return self
        noise = "float" if levels is None and self.noise == "auto" else self.noise
        made = dataclasses.replace(self, levels=levels, noise=noise)
        if "_loaded" in self.__dict__:
            made.__dict__["_loaded"] = self._loaded
        return made

    def certify(self, x: ArrayLike, index: int = 0) -> Any:
        """Certify one input, or each of several.

        Args:
            x: An input, shape (C, H, W), in [0, 1]; or several, shape (B, C, H, W).
            index: Number that the noise of the input is drawn by, from 0; of several inputs the
                first one's, and the others follow.

        Returns:
            The certificate; for several inputs a list of them, which share ``alpha_total`` where it
            is given. Of seed "random" every input gets its own, drawn now; the certificate's
            details hold it, so show them to nobody who chooses inputs before all are answered.

        Raises:
            ConfigError: If the settings do not fit each other or the model.
            DataError: If the input does not fit the model.
        """
        certifier = self.certifier
        if self.alpha_total is not None and (count := self._count(x)) > 1:
            certifier = self._certifier_of(count)
        subject = self.engine if certifier.noise else self._loaded.model
        certifier.check(subject)
        return self.each(x, index, lambda one: certifier.certify(subject, one))

    def predict(
        self, x: ArrayLike, index: int = 0, *, n: int = 1000, alpha: float | None = None
    ) -> Any:
        """Answer with the smoothed classifier's class, or None where too few votes tell.

        Args:
            x: An input, shape (C, H, W), in [0, 1]; or several, shape (B, C, H, W).
            index: Number that the noise is drawn by; see :meth:`certify`.
            n: Noisy copies of each input.
            alpha: Probability that an answer may differ from the smoothed classifier's; that of
                the settings if not given.

        Returns:
            The class or None; for several inputs a list.

        Raises:
            ConfigError: If a number is out of range or the start chains samples.
            DataError: If the input does not fit the model.
        """
        from deqcert.certifiers import predict

        chosen = self.alpha if alpha is None else alpha
        return self.each(
            x, index, lambda one: predict(self.engine, self.predictor, one, n=n, alpha=chosen)
        )

    def certify_dataset(
        self,
        data: str | Dataset = "digits",
        *,
        split: str = "test",
        images: str = ":",
        out: str | Path | None = None,
        shard: Shard | str | None = None,
        workers: int | None = None,
        ray: str | None = None,
        radii: Sequence[float] | None = None,
        progress: bool = False,
        note: Callable[[str], None] = warnings.warn,
        advice: str | None = None,
        keep_votes: bool = False,
    ) -> Results:
        """Certify images of a data set into a run folder; called again, it goes on or reads it.

        Args:
            data: Name and place of a data set, as :func:`deqcert.load_dataset` takes it, or one
                that is loaded.
            split: Which part of it, "test" or "train".
            images: Which images, START:STOP[:STEP] or one index.
            out: The run folder; the default is ``runs/MODEL-METHOD-sigmaS``, of a shard with its
                name.
            shard: Which part of the images to certify, as in "2/8"; None for all. See
                :func:`deqcert.scale.merge.merge`.
            workers: Processes of this machine that certify together; None for this one alone. If
                ``threads`` is not given, each gets its share of the cores.
            ray: Instead, address of a Ray cluster, or "local".
            radii: Radii of the summary, in input units; the default is those of the goal, or else
                0, 0.25 and so on.
            progress: Whether to show a bar (lines, where there is no terminal) on standard error.
            note: Called with a sentence about what a reader of the results should know.
            advice: A sentence for ``note`` once a new run has begun.
            keep_votes: Whether the run folder keeps the votes sample by sample, so that a changed
                model can be certified from them; nothing else in it changes.

        Returns:
            The certificates, as :func:`deqcert.report.read_results` reads them; where another
            classifier than the converged model is certified, their ``agreement`` says how often
            the two agree. The folder also holds a manifest, a summary, and the curve of certified
            accuracy.

        Raises:
            ConfigError: If the settings do not fit each other, the model or the data.
            DataError: If the images cannot be used.
            RunError: If the folder cannot be written, or holds another run.
            Interrupted: On Ctrl-C; what was certified is safe.
        """
        from deqcert import compose
        from deqcert.certifying import Certification, Outcome
        from deqcert.finishing import finish
        from deqcert.progress import progress_kind
        from deqcert.report import read_results
        from deqcert.runs import (
            Agreements,
            Run,
            VoteKeeper,
            certificate_layout,
            keep_certificate,
            machine,
            refuse_without_votes,
            versions,
        )
        from deqcert.scale.merge import shard_note
        from deqcert.smoothing import Input, Silence

        chosen = Data(data=data if isinstance(data, str) else data.name, split=split, images=images)
        spread = Sharding(shard=shard, workers=workers, ray=ray)  # type: ignore[arg-type]
        if spread.many and self.threads is None:
            sharing = dataclasses.replace(self, threads=compose.share_of_cores(spread))
            return sharing.certify_dataset(
                data,
                split=split,
                images=images,
                out=out,
                shard=spread.shard,
                workers=workers,
                ray=ray,
                radii=radii,
                progress=progress,
                note=note,
                advice=advice,
                keep_votes=keep_votes,
            )
        certifier = self.certifier
        if keep_votes:
            refuse_without_votes(certifier.name)
            if spread.many or spread.shard is not None:
                raise ConfigError(
                    "votes are kept by a process that casts all of them itself; give --keep-votes "
                    "without --shard, --workers and --ray"
                )
        folder = self.folder(out, spread.shard)
        loaded = self._load(folder)
        dataset, indices = self._fitting(loaded, data, chosen)
        part: Sequence[int] = indices
        if spread.shard is not None:
            part = self._shard(spread.shard, indices)
        shared = {}
        if self.alpha_total is not None:
            certifier = self._certifier_of(len(indices))
            if "alpha" in certifier.parameters():
                shared["alpha_total"] = self.alpha_total
        subject: Any = loaded.model
        parameters = {
            **certifier.parameters(),
            **shared,
            **compose.describe_predictors(certifier),
            **loaded.identity,
            **compose.describe_data(chosen.data, chosen.split, dataset),
        }
        each, sigma, levels, silence, audit = 0, None, None, Silence(), None
        stated = certifier.assumptions()
        if certifier.noise:
            levels = compose.noise_levels(self, dataset.levels)
            subject = compose.make_engine(loaded.model, self, self.noise_level, levels)
            stated += f"; {subject.describe_noise()}"
            audit = compose.make_agreement_audit(certifier, subject, loaded, self, self.agreement)
            each, sigma = self.n0 + self.n + int(parameters.get("audit", 0)), subject.sigma
        parameters |= compose.describe_evaluation(self, sigma, loaded.form, levels)
        certifier.check(subject)
        compared = compose.compared_with(certifier, self)
        notes = {
            **loaded.notes,
            "data": chosen.data,
            "classifier": certifier.about(),
            **({} if compared is None else {"compared": compared.about()}),
            "assumptions": stated,
            "sound": certifier.sound,
            **certifier.notes(subject),
            "settings": self.written(chosen),
            **({} if spread.shard is None else shard_note(spread.shard, indices)),
        }
        environment = {**versions(), **machine()}
        work = Certification(certifier, loaded, self, sigma, levels, subject)
        executor = compose.make_executor(spread, self)
        layout = certificate_layout(noise=certifier.noise, norm=certifier.norm)
        with (
            Run(
                folder, parameters, part, environment=environment, notes=notes, layout=layout
            ) as run,
            Agreements(run, audit, dataset) as agreements,
        ):
            for sentence in (self.ceiling, self.stated) if progress else ():
                if sentence is not None:
                    note(sentence)
            for change in run.changes:
                note(f"{change} since this run began; recorded")
            if advice is not None and not run.done:
                note(advice)
            before = []
            if run.done:
                earlier = read_results(run.certificates)
                before = list(zip(earlier.correct.tolist(), earlier.radius.tolist(), strict=True))
            kind = progress_kind(quiet=not progress)
            with kind(len(run.images), each, sigma, before) as shown:
                keeper = VoteKeeper(run, certifier, subject, dataset) if keep_votes else None

                def arrived(outcome: Outcome) -> None:
                    silence.cast += outcome.cast
                    silence.silent += outcome.silent
                    if spread.many:  # of votes that are cast here it hears batch by batch
                        shown.arrived(outcome.cast)

                work.seed = run.seed
                if certifier.noise:
                    subject.seed = run.seed
                    subject.callbacks.append(shown)
                try:
                    if keeper is not None:
                        keeper.catch_up()
                    agreements.catch_up()
                    tasks = (Input(dataset.image(index), index) for index in run.remaining)
                    with closing(executor.results(work, tasks, arrived)) as outcomes:
                        for outcome in outcomes:
                            row = keep_certificate(run, certifier, outcome.certificate, dataset)
                            shown.image(row)
                            if keeper is not None:
                                keeper.take(row)
                            agreements.take(row, outcome.looked)
                except KeyboardInterrupt:
                    raise Interrupted(
                        f"interrupted; {run.done} of {len(run.images)} images are safe in "
                        f"{folder}, and the same command goes on from there"
                    ) from None
            if (sentence := silence.note()) is not None:
                note(sentence)
            return finish(run, radii, note)

    def _shard(self, shard: Shard, images: Sequence[int]) -> Sequence[int]:
        """Return the images of a shard, whose noise must be that of the whole run."""
        from deqcert.smoothing.seed import RANDOM

        if self.seed == RANDOM and self.certifier.noise:
            raise ConfigError(
                "seed random is drawn anew by every shard, but all of a run share one; draw a "
                "number yourself and give it to each with --seed"
            )
        return shard.part(images)

    def dataset(
        self, data: str | Dataset = "digits", *, split: str = "test", images: str = ":"
    ) -> tuple[Dataset, range]:
        """Load a data set that fits the model, and choose images of it.

        Args:
            data: Name and place of a data set, or one that is loaded.
            split: Which part of it, "test" or "train".
            images: Which images, START:STOP[:STEP] or one index.

        Returns:
            The data set and the indices of the images.

        Raises:
            ConfigError: If the selection is none.
            DataError: If the images cannot be used, or do not fit the model.
        """
        chosen = Data(data=data if isinstance(data, str) else data.name, split=split, images=images)
        return self._fitting(self._loaded, data, chosen)

    def _fitting(self, loaded: Loaded, data: str | Dataset, chosen: Data) -> tuple[Dataset, range]:
        from deqcert import compose
        from deqcert.data import load_dataset

        found = load_dataset(data, chosen.split) if isinstance(data, str) else data  # type: ignore[arg-type]
        indices = parse_images(chosen.images, len(found))
        compose.check_fit(loaded.model, found, indices)
        return found, indices

    def written(self, data: Data | None = None) -> dict[str, Any]:
        """Return the settings that differ from their defaults, as a configuration file holds them.

        Args:
            data: Which inputs; what differs there is returned, too.
        """
        model = self.model if isinstance(self.model, str | Path) else type(self.model).__qualname__
        found: dict[str, Any] = {"model": str(model)}
        for source in (self, data):
            for field in dataclasses.fields(source) if source is not None else ():
                value = getattr(source, field.name)
                usual = field.default
                if field.default_factory is not dataclasses.MISSING:
                    usual = field.default_factory()
                if field.name != "model" and value != usual:
                    found[field.name] = dict(value) if isinstance(value, Mapping) else value
        return found

    @cached_property
    def noise_level(self) -> float:
        """Sigma: as given, or as the training's record beside the checkpoint says.

        Raises:
            ConfigError: If it is not given and there is no record.
            CheckpointError: If there is no such checkpoint.
        """
        if self.sigma is not None:
            return self.sigma
        from deqcert import compose

        return compose.recorded_noise_level(self.model)

    @cached_property
    def _goal(self) -> Goal | None:
        from deqcert.certifiers.goals import parse_goal

        return parse_goal(self.goal)

    @property
    def loaded(self) -> Loaded:
        """The model in its form, and what identifies it."""
        return self._loaded

    @cached_property
    def _loaded(self) -> Loaded:
        return self._load(None)

    def _load(self, continues: Path | None) -> Loaded:
        from deqcert import compose

        return compose.load(self.model, self, model_config=self.model_config, continues=continues)

    def folder(self, out: str | Path | None = None, shard: Shard | None = None) -> Path:
        """Return the run folder of :meth:`certify_dataset`: as given, or one named for the run.

        Args:
            out: As given.
            shard: Which part of the images it holds; None for all.
        """
        if out is not None:
            return Path(out)
        part = "" if shard is None else f"-shard{shard.index}of{shard.count}"
        return Path(self._usual_folder() + part)

    def _usual_folder(self) -> str:
        model = self.model if isinstance(self.model, str | Path) else type(self.model).__name__
        sigma = f"-sigma{self.noise_level:g}" if self.certifier.noise else ""
        return f"runs/{Path(model).name}-{self.certifier.name}{sigma}"

    @property
    def goal_radii(self) -> list[float] | None:
        """The radii that the goal decides about; None where it is about none."""
        radii = getattr(self._goal, "radii", None)
        return None if radii is None else list(radii)

    @property
    def ceiling(self) -> str | None:
        """What a unanimous vote would certify, in a sentence: no radius can be larger.

        None where the method draws no noise.
        """
        from deqcert.certifiers.bounds import certified_radius, write_radius
        from deqcert.certifiers.smoothed import SmoothingCertifier

        certifier = self.certifier
        if not isinstance(certifier, SmoothingCertifier):
            return None
        most = certified_radius(certifier.best_p_lower(), self.noise_level)
        return (
            f"no radius can exceed {write_radius(most)}, that of a unanimous vote at n={self.n}, "
            f"alpha {self.alpha:g} and sigma {self.noise_level:g}"
        )

    @property
    def stated(self) -> str | None:
        """How often votes differ from the converged model's, as its start's file states it.

        None where the votes do not end by the rule of that file, or it states nothing.
        """
        if not self.certifier.noise or any(
            given is not None for given in (self.steps, self.early, self.margin)
        ):
            return None
        tuned = self.predictor.start.tuned
        if tuned is None or tuned.disagreement is None:
            return None
        if tuned.sigma != self.noise_level:
            return (
                f"the start was fitted and tuned at sigma {tuned.sigma:g}; nothing is known of how "
                f"often its votes differ from the converged model's at {self.noise_level:g}"
            )
        return (
            f"when the start was made, at most {100 * tuned.disagreement:.2g}% of the votes on "
            "noisy training images differed from the converged model's (95% confidence)"
        )

    def each(self, x: Any, index: int, answer: Callable[[Input], Any]) -> Any:
        """Answer for one input, or for each of several; see :meth:`certify` for seed "random".

        Args:
            x: An input, or several.
            index: Number that the noise of the first is drawn by.
            answer: Gives one input's answer.

        Raises:
            DataError: If the shape is none of the model's, or pixels are outside [0, 1].
        """
        import numpy as np

        from deqcert.smoothing import Input
        from deqcert.smoothing.seed import RANDOM, draw_seed

        def asked(pixels: Any, number: int) -> Any:
            # Not before the input is there; an engine that has yet to be made draws its own.
            if self.seed == RANDOM and "engine" in vars(self):
                self.engine.seed = draw_seed()
            return answer(Input(pixels, number))

        shape = np.shape(x)
        wanted = getattr(self._loaded.model, "input_shape", None)
        if self._is_single(shape):
            return asked(_pixels(x), index)
        if len(shape) != (4 if wanted is None else len(wanted) + 1):
            takes = "(channels, height, width)" if wanted is None else str(tuple(wanted))
            raise DataError(
                f"the input has shape {tuple(shape)}, but one input has {takes} and several have "
                "one dimension more in front."
            )
        return [asked(one, index + i) for i, one in enumerate(_pixels(x))]

    def _count(self, x: Any) -> int:
        """Return how many inputs there are."""
        import numpy as np

        shape = np.shape(x)
        return 1 if self._is_single(shape) else shape[0]

    def _is_single(self, shape: tuple[int, ...]) -> bool:
        """Whether the shape is that of one input."""
        wanted = getattr(self._loaded.model, "input_shape", None)
        return len(shape) == (3 if wanted is None else len(wanted))


def _pixels(x: Any) -> Any:
    """Return inputs as they are, if their pixels are in [0, 1]; bytes are the likely mistake."""
    import numpy as np
    import torch

    found = x if isinstance(x, torch.Tensor) else np.asarray(x)
    if all(np.shape(x)):
        low, high = float(found.min()), float(found.max())
        if low < 0 or high > 1:  # NaN is neither, and is refused before the votes
            raise DataError(
                f"the input has pixels from {low:g} to {high:g}, but they must be in [0, 1]; "
                "divide bytes by 255."
            )
    return x
