"""How many cell evaluations does a solver, a start or a depth need on a given model?

Every setting votes on the same noisy copies, so its agreement with the converged cold solve is
measured sample by sample, and it is certified as a user would: by the method that fits its start.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deqcert import kernels
from deqcert.certifiers import default_method, make_certifier
from deqcert.certifiers.bounds import write_radius
from deqcert.certifiers.metrics import average_certified_radius, certified_accuracy
from deqcert.errors import ConfigError
from deqcert.models import ImplicitModel
from deqcert.report.aligned import aligned
from deqcert.smoothing import (
    NO_VOTE,
    CheckedStop,
    DecidedStop,
    EarlyStop,
    Input,
    Predictor,
    Silence,
    SmoothingEngine,
    Stage,
    VoteBatch,
)
from deqcert.solvers import Solver, StopRule
from deqcert.starts import StartPolicy

if TYPE_CHECKING:
    from deqcert.data import Dataset


@dataclass(frozen=True)
class Setting:
    """One way to solve, and what to call it.

    Args:
        predictor: How votes are cast.
        solver: What the solver is called in the table, options included.
        baseline: Whether it is a cold solve that anybody can do without warm starts.
    """

    predictor: Predictor
    solver: str
    baseline: bool = False

    @property
    def depth(self) -> str:
        """The stop rule in short: a depth, a tolerance, or when it ends early."""
        stop, early = self.predictor.stop, self.predictor.early
        if isinstance(early, CheckedStop):
            return f"checks {','.join(map(str, early.depths))}"
        if isinstance(early, DecidedStop):
            return f"margin {early.margin:g}"
        if early is not None:
            return f"early {early.residual:g}"
        return str(stop.max_nfe) if stop.fixed_depth else f"tol {stop.tol:g}"


@dataclass(frozen=True)
class Measurement:
    """What one setting did.

    Args:
        solver: Name and options of the solver.
        start: Name of the start policy.
        depth: Evaluations per solve, "tol T", "early R", or "margin F".
        method: The certifier used.
        baseline: Whether it is a cold baseline.
        nfe: Cell evaluations of a vote itself, a learned start by its cost; NaN without a vote. The
            cold batch that begins a chain is left out here, in agreement, residual and accuracy,
            so that they describe the warm solves.
        nfe_total: Cell evaluations per vote, everything included: selection, cold batches, audit.
        agreement: Share of the votes whose class is that of the converged cold solve.
        shift: How far an image's share of votes for the converged solve's class is from the share
            that the converged solve gives it, on average over the images.
        shift_most: The same for the image where it is largest.
        residual: Median relative residual of the states that were read out.
        milliseconds: Time per vote, everything included.
        accuracy: Share of the votes for the right class.
        silent: Share of the samples that had no vote, because their solves did not converge; all
            samples count, those of selection, cold batches and audit included.
        certified: Certified accuracy at the radii of the bench.
        acr: Average certified radius.
    """

    solver: str
    start: str
    depth: str
    method: str
    baseline: bool
    nfe: float
    nfe_total: float
    agreement: float
    shift: float
    shift_most: float
    residual: float
    milliseconds: float
    accuracy: float
    silent: float
    certified: tuple[float, ...]
    acr: float


@dataclass(frozen=True)
class Bench:
    """All measurements, and what they have in common.

    Args:
        rows: One per setting.
        radii: Where certified accuracy was evaluated.
        facts: Sigma, n, images and the like.
        converged: Share of the noisy copies whose reference solve met its tolerance; agreement
            counts only those.
        notes: Sentences about what a reader of the results should know.
    """

    rows: tuple[Measurement, ...]
    radii: tuple[float, ...]
    facts: dict[str, Any]
    converged: float
    notes: tuple[str, ...] = ()

    def text(self) -> str:
        """Format for a terminal."""
        head = ["solver", "start", "depth", "nfe", "nfe all", "agree %", "shift % (most)"]
        head += ["residual", "ms/vote"]
        silent = any(row.silent for row in self.rows)
        head += ["no vote %"] if silent else []
        head += ["noisy acc %", *(f"cert r>={radius:g}" for radius in self.radii), "ACR", ""]
        body = [
            [
                row.solver,
                row.start,
                row.depth,
                _cell(row.nfe, ".2f"),
                f"{row.nfe_total:.2f}",
                _cell(100 * row.agreement, ".2f"),
                f"{_cell(100 * row.shift, '.2f')} ({_cell(100 * row.shift_most, '.1f')})",
                _cell(row.residual, ".1e"),
                f"{row.milliseconds:.3f}",
                *([f"{100 * row.silent:.1f}"] if silent else []),
                _cell(100 * row.accuracy, ".1f"),
                *(f"{100 * value:.1f}" for value in row.certified),
                write_radius(row.acr, 3),
                "baseline" if row.baseline else "",
            ]
            for row in self.rows
        ]
        lines = aligned(head, body, left=range(3))
        facts = ", ".join(f"{key} {value}" for key, value in self.facts.items())
        lines += [
            facts,
            "nfe: cell evaluations of a vote itself; nfe all: a vote's share of selection, warm-up "
            "and audit included, as ms/vote",
            "agree: with the converged cold solve, over the "
            f"{100 * self.converged:.1f}% of the noisy copies where it converged; shift: of an "
            "image's share of votes for that solve's class, on average (at most)",
        ]
        return "\n".join(lines)

    def json(self) -> str:
        """Format for machines; NaN becomes null."""
        rows = [
            {
                key: None if isinstance(value, float) and not np.isfinite(value) else value
                for key, value in dataclasses.asdict(row).items()
            }
            for row in self.rows
        ]
        content = {**self.facts, "radii": self.radii, "converged": self.converged, "rows": rows}
        return json.dumps(content, indent=2)


class _Observer:
    """A callback of an engine that looks at the votes of one predictor as they are cast."""

    def __init__(self, engine: SmoothingEngine) -> None:
        self.model = engine.model
        self.watched: Predictor | None = None
        self.silence = Silence()
        engine.callbacks.append(self)

    def watch(self, predictor: Predictor) -> None:
        """Forget what was seen and look at this predictor's votes from now on."""
        self.watched = predictor
        self.silence = Silence()
        self.cast: list[tuple[NDArray[np.int64], NDArray[np.int16], bool]] = []
        self.residuals: list[NDArray[np.float64]] = []
        self.nfe = 0.0
        self.aside = 0.0  # seconds spent on looking, which no setting pays for

    def __call__(self, batch: VoteBatch, *, predictor: Predictor, stage: int, number: int) -> None:
        self.silence(batch, predictor=predictor, stage=stage, number=number)
        if predictor is not self.watched or stage != Stage.ESTIMATE:
            return
        began = time.perf_counter()
        # A chain begins with a cold batch, unless it begins with a noiseless solve.
        cold = not predictor.independent and number == 0 and batch.overhead == 0
        self.cast.append((batch.samples, batch.predictions, not cold))
        if not cold:
            # A fixed depth returns a state that was not evaluated: evaluate it here.
            fz = self.model.cell(batch.z, batch.injection)
            square, scale = kernels.residual_norms(batch.z.contiguous(), fz.contiguous())
            self.residuals.append((square / scale).sqrt().cpu().numpy())
            readouts = predictor.readouts(batch.nfe)
            self.nfe += predictor.spent(int(batch.nfe.sum()), len(batch.nfe), readouts)
        self.aside += time.perf_counter() - began


def grid(
    solvers: dict[str, Solver[Any]],
    starts: Sequence[StartPolicy],
    depths: Sequence[int],
    *,
    cold: StopRule,
    tolerances: Sequence[float],
    early: Sequence[float] = (),
) -> list[Setting]:
    """Lay out settings: every solver, start and depth, and the cold baselines of every solver.

    Args:
        solvers: Solvers by what to call them.
        starts: Start policies.
        depths: Fixed depths, at least 1.
        cold: How a cold solve ends: that of warm-ups and audits. Its largest depth, as a fixed
            one, is a baseline, too.
        tolerances: Relative residuals at which a cold baseline stops, above 0.
        early: Relative residuals at which solves from independent starts end early, the largest
            of the depths their most; above 0.

    Returns:
        The settings. Cold at every depth is among them even if "cold" is not asked for: a
        warm start has to beat it.

    Raises:
        ConfigError: If a value is out of range.
    """
    settings = []
    for name, solver in solvers.items():
        fixed = sorted({*depths, cold.max_nfe})
        for depth in fixed:
            stop = StopRule(tol=0.0, max_nfe=depth)
            settings.append(Setting(Predictor(solver, stop), name, baseline=True))
        for tol in tolerances:
            stop = StopRule(tol=tol, max_nfe=cold.max_nfe)
            settings.append(Setting(Predictor(solver, stop), name, baseline=True))
        most = StopRule(tol=0.0, max_nfe=max(depths))
        for residual in early:
            stopping = Predictor(solver, most, early=EarlyStop(residual))
            settings.append(Setting(stopping, name, baseline=True))
        for policy in starts:
            if policy.name == "cold":
                continue
            if policy.independent:
                for residual in early:
                    stopping = Predictor(solver, most, policy, early=EarlyStop(residual))
                    settings.append(Setting(stopping, name))
            for depth in sorted(set(depths)):
                stop = StopRule(tol=0.0, max_nfe=depth)
                warmup = None if policy.independent else cold
                settings.append(Setting(Predictor(solver, stop, policy, warmup), name))
    return settings


def bench(
    model: ImplicitModel,
    dataset: Dataset,
    images: Sequence[int],
    settings: Sequence[Setting],
    *,
    sigma: float,
    reference: Predictor,
    auditor: Predictor,
    n0: int = 50,
    n: int = 500,
    alpha: float = 0.001,
    audit: int = 250,
    radii: Sequence[float] | None = None,
    seed: int = 0,
    batch: int = 100,
    shape: int | None = None,
    device: str = "cpu",
    levels: int | None = None,
    tell: Callable[[Measurement], None] | None = None,
) -> Bench:
    """Measure every setting on the same noisy copies, which no certificate of a run ever sees.

    Args:
        model: Any model of the protocol.
        dataset: Images and labels.
        images: Indices of the images to use.
        settings: What to measure; see `grid`.
        sigma: Noise, in pixel units of [0,1].
        reference: The converged cold solve that agreement is measured against; with a tolerance.
        auditor: The cold predictor of the audits.
        n0: Copies that choose the class.
        n: Copies that vote, and over which agreement is measured.
        alpha: Failure probability of each certificate.
        audit: Votes of a chained start that are solved again.
        radii: Where to evaluate certified accuracy; default: 0 and sigma.
        seed: Seed of the noise.
        batch: Copies solved together.
        shape: Rows of every evaluation of the model; default: the batch.
        device: As torch names it.
        levels: Steps of the grid of exact noise; None for float noise.
        tell: Called with each measurement as it is made.

    Returns:
        One row per setting.

    Raises:
        ConfigError: If a value is out of range, or n is too small for alpha.
    """
    if not images or not settings:
        raise ConfigError("there is nothing to measure; give at least one image and one depth")
    engine = SmoothingEngine(
        model,
        sigma=sigma,
        seed=seed,
        batch=batch,
        shape=shape,
        device=device,
        base_stage=Stage.BENCH,
        levels=levels,
    )
    observer = _Observer(engine)
    pool = {"n0": n0, "n": n, "alpha": alpha, "reference": auditor, "audit": audit}
    certifiers = [
        make_certifier(default_method(each), pool, {"predictor": each})
        for each in (setting.predictor for setting in settings)
    ]
    if n <= batch and any(not setting.predictor.independent for setting in settings):
        raise ConfigError(
            f"n is {n} and the batch {batch}, so that every vote of a warm start would be in its "
            "cold first batch; give a larger n or a smaller batch"
        )
    inputs = [Input(dataset.image(index), index) for index in images]
    labels = np.array([dataset.label(index) for index in images])
    truth = np.stack(
        [engine.votes(reference, each, Stage.ESTIMATE, n).predictions for each in inputs]
    )
    known, silence = truth != NO_VOTE, Silence()
    engine.callbacks.append(silence)
    asked = tuple((0.0, sigma) if radii is None else radii)
    rows = []
    for setting, certifier in zip(settings, certifiers, strict=True):
        observer.watch(setting.predictor)
        began, answers = time.perf_counter(), []
        cast, warm = np.full_like(truth, NO_VOTE), np.zeros(truth.shape, dtype=bool)
        for i, each in enumerate(inputs):
            answers.append(certifier.certify(engine, each))
            for samples, predictions, counted in observer.cast:
                cast[i, samples], warm[i, samples] = predictions, counted
            observer.cast.clear()
        seconds = time.perf_counter() - began - observer.aside
        correct = [a.prediction == label for a, label in zip(answers, labels, strict=True)]
        radius = [answer.radius for answer in answers]
        residuals = np.concatenate(observer.residuals) if observer.residuals else np.array([np.nan])
        shifts = _shifts(cast, truth, warm)
        row = Measurement(
            solver=setting.solver,
            start=setting.predictor.start.name,
            depth=setting.depth,
            method=certifier.name,
            baseline=setting.baseline,
            nfe=observer.nfe / int(warm.sum()) if warm.any() else float("nan"),
            nfe_total=sum(answer.nfe for answer in answers) / cast.size,
            agreement=_share(cast == truth, known & warm),
            shift=float(np.mean(shifts)) if len(shifts) else float("nan"),
            shift_most=float(np.max(shifts)) if len(shifts) else float("nan"),
            residual=float(np.median(residuals)),
            milliseconds=1000 * seconds / cast.size,
            accuracy=_share(cast == labels[:, None], warm),
            silent=observer.silence.share,
            certified=tuple(certified_accuracy(correct, radius, asked).tolist()),
            acr=average_certified_radius(correct, radius),
        )
        rows.append(row)
        if tell is not None:
            tell(row)
    facts = {
        "data": dataset.name,
        "images": len(images),
        "sigma": sigma,
        "n0": n0,
        "n": n,
        "alpha": alpha,
        "audit": audit,
        "batch": batch,
        "seed": seed,
    }
    notes = [silence.note()]
    if not known.any():
        notes.append(
            "the reference solve converged for no sample, so that there is no agreement to show; a "
            "larger --reference-depth or --reference-tol may give one"
        )
    said = tuple(note for note in notes if note is not None)
    return Bench(tuple(rows), asked, facts, float(known.mean()), said)


def _cell(value: float, form: str) -> str:
    """Format a number; "-" where nothing was measured."""
    return format(value, form) if math.isfinite(value) else "-"


def _shifts(
    cast: NDArray[np.int16], truth: NDArray[np.int16], among: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return per image how far the share of votes for the converged solve's class moves.

    Args:
        cast: Votes of a setting, shape (images, n); -1 where there is none.
        truth: Those of the converged solve.
        among: Votes that count.

    Returns:
        One entry per image that has a vote of the converged solve among those that count.
    """
    found = []
    for ours, theirs, counted in zip(cast, truth, among, strict=True):
        voted = theirs[counted & (theirs != NO_VOTE)]
        if len(voted):
            leader = np.bincount(voted).argmax()
            found.append(abs(np.mean(ours[counted] == leader) - np.mean(theirs[counted] == leader)))
    return np.array(found, dtype=np.float64)


def _share(hits: NDArray[np.bool_], among: NDArray[np.bool_]) -> float:
    return float(np.mean(hits[among])) if among.any() else float("nan")
