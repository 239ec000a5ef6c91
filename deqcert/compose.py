"""From settings to a model in its form, an engine, and the ways to solve; refusals come first."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from deqcert import __version__, form_cache, kernels
from deqcert.certifiers import Certifier, SmoothingCertifier
from deqcert.certifiers.agreement import AgreementAudit
from deqcert.data import Dataset
from deqcert.devices import open_device
from deqcert.errors import CheckpointError, ConfigError, DataError, RunError
from deqcert.memory import keep_freed_memory
from deqcert.models import (
    ZOO,
    ImplicitModel,
    checkpoint_path,
    file_hash,
    form_names,
    in_form,
    load_model,
)
from deqcert.models.hashes import weights_hash
from deqcert.options import options_of, read_options
from deqcert.runs import Manifest
from deqcert.runs.environment import cores
from deqcert.scale.base import Executor, Serial
from deqcert.scale.processes import Processes
from deqcert.scale.ray_cluster import RayCluster
from deqcert.scale.schedule import Pooled
from deqcert.settings import Machine, Solving, Spreading, Starting
from deqcert.smoothing import CheckedStop, DecidedStop, EarlyStop, Predictor, SmoothingEngine
from deqcert.smoothing.naming import CONVERGED
from deqcert.smoothing.seed import draw_seed
from deqcert.solvers import SOLVERS, Solver, StopRule, get_solver
from deqcert.starts import StartFile, StartPolicy, get_start, make_start

CONVERGED_DEPTH = 30
"""Evaluations that a converged solve may take at least, the default of cold solves."""

CONVERGED_ROWS = 16
"""Rows of its evaluations: an audit has few, and rows that pad a batch cost as much as others."""


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A model as it will be evaluated.

    Attributes:
        model: The model in its form.
        plain: The model as it was loaded or given; gradients go through it.
        form: The form's name.
        config: The model's configuration as JSON values; empty where it has none.
        identity: What the model is, as JSON values: hashes, not paths.
        notes: Names and paths as they were given.
    """

    model: ImplicitModel
    plain: ImplicitModel
    form: str
    config: dict[str, Any]
    identity: dict[str, Any]
    notes: dict[str, Any]

    def __getstate__(self) -> dict[str, Any]:
        """Leave the form behind, which each process makes for itself: see :func:`form_here`."""
        return {**self.__dict__, "model": None}


def prepare_process(threads: int | None) -> int:
    """Set this process up for long solves; return the number of CPU threads in use."""
    if threads is not None:
        torch.set_num_threads(threads)
    keep_freed_memory()
    return torch.get_num_threads()


def share_of_cores(spread: Spreading) -> int:
    """Return the threads of each of several processes, so that no core is asked for twice.

    Args:
        spread: How many there are.
    """
    if spread.workers is None:
        return 1
    return max(1, min(torch.get_num_threads(), cores() // spread.workers))


def make_executor(spread: Spreading, machine: Machine) -> Executor:
    """Make what computes the images.

    Args:
        spread: Where.
        machine: How; each worker has its threads and device.
    """
    if spread.workers is not None:
        return Pooled(partial(Processes, spread.workers))
    if spread.ray is not None:
        gpu = torch.device(machine.device).type == "cuda"
        return Pooled(partial(RayCluster, spread.ray, torch.get_num_threads(), gpu))
    return Serial()


def load(
    given: Any,
    machine: Machine,
    *,
    model_config: str | None = None,
    continues: Path | None = None,
) -> Loaded:
    """Load a model and put it into its form.

    Args:
        given: Name of a builtin checkpoint, a checkpoint file, or any implicit model.
        machine: How it is evaluated.
        model_config: The checkpoint's YAML configuration; None to look beside it.
        continues: A run folder whose form is kept where "auto" leaves it open: a choice that was
            measured since the run began must not end it.

    Raises:
        DeqcertError: If something is missing, damaged, or does not fit.
    """
    threads = prepare_process(machine.threads)
    open_device(machine.device)
    if isinstance(given, str | Path):
        model: Any = load_model(given, model_config)
        model.checkpoint = checkpoint_path(given)
        config = dataclasses.asdict(model.config)
        identity = {"checkpoint_sha256": file_hash(given), "model_config": config}
        notes = {"model": str(given), "config": model_config}
    else:
        model = _checked(given)
        found = getattr(model, "config", None)
        known = dataclasses.is_dataclass(found) and not isinstance(found, type)
        config = dataclasses.asdict(found) if known else {}  # type: ignore[arg-type]
        name = f"{type(model).__module__}.{type(model).__qualname__}"
        identity = {"weights_sha256": weights_hash(model), "model": name, "model_config": config}
        notes = {"model": name, "config": None}
    rows = machine.batch if machine.shape is None else machine.shape
    asked = machine.form
    if asked == "auto" and continues is not None:
        asked = _form_of(continues) or asked
    form = choose_form(asked, model, config, rows, threads, machine.device)
    formed = in_form(model, form, rows=rows, device=machine.device)
    return Loaded(formed, model, form, config, identity, notes)


def form_here(loaded: Loaded, machine: Machine) -> Loaded:
    """Put a model that came from another process into its form, and this process to work.

    Args:
        loaded: The model.
        machine: How it is evaluated; its form is the model's own.
    """
    prepare_process(machine.threads)
    rows = machine.batch if machine.shape is None else machine.shape
    formed = in_form(loaded.plain, loaded.form, rows=rows, device=machine.device)
    return dataclasses.replace(loaded, model=formed)


def noise_levels(machine: Machine, declared: int | None) -> int | None:
    """Return the steps of the grid that noise is exact on; None for float noise.

    Args:
        machine: What is asked for.
        declared: Steps of the grid that the data say they lie on; None where they say nothing.

    Raises:
        ConfigError: If exact noise is asked for where no grid is known.
    """
    if machine.noise == "float":
        return None
    levels = declared if machine.levels is None else machine.levels
    if machine.noise == "exact" and levels is None:
        raise ConfigError(
            "noise exact needs inputs on a grid, and these data do not say that they lie on one; "
            "give levels (--levels 255 for 8-bit images), or noise float"
        )
    return levels


def describe_evaluation(
    machine: Machine, sigma: float | None, form: str, levels: int | None = None
) -> dict[str, Any]:
    """Return what decides an answer besides model, data and predictor, as JSON values.

    Args:
        machine: How the model is evaluated.
        sigma: Standard deviation of the noise; None where none is drawn.
        form: Form of the model.
        levels: Steps of the grid of exact noise; None for float noise.
    """
    noise = {
        "sigma": sigma,
        "noise": "float" if levels is None else "exact",
        **({} if levels is None else {"levels": levels}),
        "seed": machine.seed,
        "batch": machine.batch,
        "shape": machine.batch if machine.shape is None else machine.shape,
    }
    return {
        **({} if sigma is None else noise),
        "device": machine.device,
        "form": form,
        "threads": torch.get_num_threads(),
        "kernels": kernels.status().path,
        "deqcert": __version__,
    }


def describe_data(data: str, split: str, dataset: Dataset) -> dict[str, Any]:
    """Return what identifies the images, as JSON values."""
    return {"data": data.partition(":")[0], "data_hash": dataset.hash(), "split": split}


def choose_form(
    asked: str,
    model: ImplicitModel,
    config: Mapping[str, Any],
    rows: int,
    threads: int,
    device: str,
) -> str:
    """Return the form to evaluate a model in: as asked for, or for "auto" the cached choice."""
    if asked != "auto":
        return asked
    possible = form_names(model)
    found = (
        form_cache.recall(form_cache.describe(config, rows, threads, device)) if config else None
    )
    if found in possible:
        return found
    return "folded" if "folded" in possible else "eager"


def recorded_noise_level(given: Any) -> float:
    """Return the sigma that `deqcert train` recorded beside a checkpoint.

    Raises:
        ConfigError: If there is no record.
        CheckpointError: If there is no such checkpoint.
    """
    try:
        record = checkpoint_path(given).with_suffix(".json")
        return float(json.loads(record.read_text(encoding="utf-8"))["parameters"]["sigma"])
    except (OSError, ValueError, KeyError, TypeError):
        named = isinstance(given, str | Path)
        if named and not checkpoint_path(given).exists():
            raise CheckpointError(
                f"there is no model {given}; give the path of a state_dict file, or one of the "
                f"names {', '.join(ZOO)}."
            ) from None
        name = given if named else type(given).__name__
        raise ConfigError(
            f"sigma is not given; add the noise that {name} was trained with (sigma=0.25, or "
            "--sigma 0.25)"
        ) from None


def recorded_levels(given: Any) -> int | None:
    """Return the grid of the data that `deqcert train` recorded beside a checkpoint.

    Returns:
        Steps of the grid between 0 and 1; None where there is no record, or the data lie on none.
    """
    try:
        record = checkpoint_path(given).with_suffix(".json")
        found = json.loads(record.read_text(encoding="utf-8")).get("levels")
    except (OSError, ValueError, TypeError, AttributeError):
        return None
    return found if isinstance(found, int) else None


def check_fit(model: Any, dataset: Dataset, images: range) -> None:
    """Refuse images of another size than the model's, and labels outside its classes.

    Raises:
        DataError: If they do not fit.
    """
    wanted = getattr(model, "input_shape", None)
    if wanted is not None and tuple(dataset.shape) != tuple(wanted):
        there, takes = ("x".join(map(str, s)) for s in (dataset.shape, wanted))
        raise DataError(
            f"the images of {dataset.name} are {there}, but the model takes {takes} "
            "(channels, height, width); give other images with --data or another --model"
        )
    classes = getattr(model, "num_classes", None)
    if classes is None:
        return
    for index in images:
        label = dataset.label(index)
        if not 0 <= label < classes:
            raise DataError(
                f"image {index} of {dataset.name} has label {label}, but the model has "
                f"{classes} classes (0 to {classes - 1}); give the data that it was trained for"
            )


def make_engine(
    model: ImplicitModel, machine: Machine, sigma: float, levels: int | None = None
) -> SmoothingEngine:
    """Make an engine as the settings say; where these leave the seed open, with one drawn now.

    Args:
        model: The model.
        machine: The settings.
        sigma: Standard deviation of the noise.
        levels: Steps of the grid that the noise is exact on; None for float noise.
    """
    return SmoothingEngine(
        model,
        sigma=sigma,
        seed=draw_seed() if isinstance(machine.seed, str) else machine.seed,
        batch=machine.batch,
        shape=machine.shape,
        device=machine.device,
        levels=levels,
    )


def make_solver(solving: Solving) -> Solver[Any]:
    """Make the solver with its options.

    Raises:
        ConfigError: If there is no such solver or option, or a value is out of range.
    """
    known = options_of(SOLVERS.get(solving.solver))
    options = read_options("solver option", solving.solver_options, known)
    if solving.window is not None:
        if "window" in options:
            raise ConfigError("the window is given twice; give --window or --solver-option window=")
        options["window"] = solving.window
    return get_solver(solving.solver, **options)


def make_cold(solving: Solving) -> Predictor:
    """Make the cold predictor, the base classifier that audits solve for.

    Raises:
        ConfigError: If a setting is out of range.
    """
    stop = StopRule(tol=solving.tol, max_nfe=solving.depth)
    return Predictor(make_solver(solving), stop, get_start("cold"))


def make_converged(solving: Solving) -> Predictor:
    """Make the cold solve that is called the converged model, whatever solve is certified.

    It is the cold solve of the settings, unless that one stops before a relative residual of 1e-3
    or may give up before 30 evaluations.

    Raises:
        ConfigError: If a setting is out of range.
    """
    tol = solving.tol if 0.0 < solving.tol <= CONVERGED else CONVERGED
    stop = StopRule(tol=tol, max_nfe=max(solving.depth, CONVERGED_DEPTH))
    return Predictor(make_solver(solving), stop, get_start("cold"))


def compared_with(certifier: Certifier[Any], solving: Solving) -> Predictor | None:
    """Return the converged solve where certificates are about another one, else None.

    Args:
        certifier: What certifies.
        solving: How a cold solve is done.
    """
    found = certifier.classifier if isinstance(certifier, SmoothingCertifier) else None
    if found is None or not found.independent or (found.converged and found.start.name == "cold"):
        return None
    return make_converged(solving)


def make_agreement_audit(
    certifier: Certifier[Any],
    engine: SmoothingEngine,
    loaded: Loaded,
    solving: Solving,
    budget: float,
) -> AgreementAudit | None:
    """Make the audit of a run's agreement with the converged model.

    Args:
        certifier: What certifies.
        engine: The engine that casts its votes.
        loaded: The model.
        solving: How a cold solve is done.
        budget: Share of the evaluations that it may cost.

    Returns:
        The audit; None where there is nothing to compare, or nothing may be spent on it.
    """
    converged = compared_with(certifier, solving)
    if converged is None or not budget:
        return None
    assert isinstance(certifier, SmoothingCertifier)
    assert certifier.classifier is not None
    # In the model's own precision, and in a form that takes any number of rows.
    form = "folded" if "folded" in form_names(loaded.plain) else "eager"
    model = loaded.model
    if form != loaded.form:
        device = str(engine.device)
        model = in_form(loaded.plain, form, rows=CONVERGED_ROWS, device=device)
    rows = engine.model.rows
    return AgreementAudit(
        engine=engine.beside(engine.raw, shape=rows),
        classifier=certifier.classifier,
        converging=engine.beside(model, shape=min(rows, CONVERGED_ROWS)),
        converged=converged,
        budget=budget,
    )


def make_predictor(given: Any, solving: Solving, starting: Starting, device: str) -> Predictor:
    """Make the predictor that casts the votes.

    Args:
        given: What the model was loaded from; a learned start belongs to it.
        solving: How a cold solve is done.
        starting: How a solve that casts a vote starts and ends.
        device: Where the model runs.

    Raises:
        ConfigError: If a setting says nothing about the start that is asked for.
        CheckpointError: If a learned start cannot be read or belongs to another model.
    """
    checkpoint = given if isinstance(given, str | Path) else None
    policy, tuned = make_start(starting.start, model=checkpoint, device=device)
    if not policy.independent:
        return _make_chained(solving, starting, policy)
    if starting.warmup is not None or starting.refresh:
        raise ConfigError(f"start {policy.name!r} has no chain; leave --warmup and --refresh out")
    early: EarlyStop | DecidedStop | CheckedStop | None = _early(starting, tuned)
    steps = starting.steps
    if steps is not None and not policy.follows_input:
        raise ConfigError(
            f"start {policy.name!r} is solved as --depth and --tol say; leave --steps out"
        )
    if tuned is None:
        if steps is None:
            steps = 0 if early is None else solving.depth
    elif steps is None:
        steps = tuned.steps
        if early is None:
            early = early_stop(tuned)
    if steps == 0:
        if early is not None:
            raise ConfigError(
                "--early and --margin end a solve of --steps evaluations; give 1 or more of them"
            )
        return dataclasses.replace(make_cold(solving), start=policy)
    stop = StopRule(tol=0.0, max_nfe=steps)
    return Predictor(make_solver(solving), stop, policy, early=early)


def early_stop(tuned: StartFile) -> EarlyStop | DecidedStop | CheckedStop | None:
    """Return the early stop that was tuned for a learned start, or None for a fixed depth."""
    if tuned.checks:
        depths, gaps = zip(*tuned.checks, strict=True)
        return CheckedStop(depths, gaps, tuned.readout)
    if tuned.margin is not None:
        return DecidedStop(tuned.margin, tuned.readout)
    return None if tuned.early is None else EarlyStop(tuned.early)


def describe_predictors(certifier: Certifier[Any]) -> dict[str, Any]:
    """Return the predictors that a certifier holds, by field, as JSON values."""
    held = {field.name: getattr(certifier, field.name) for field in dataclasses.fields(certifier)}
    return {
        name: describe_predictor(value)
        for name, value in held.items()
        if isinstance(value, Predictor)
    }


def describe_predictor(predictor: Predictor) -> dict[str, Any]:
    """Return what identifies a predictor, as JSON values."""
    parameters: dict[str, Any] = {
        "start": predictor.start.name,
        "solver": predictor.solver.name,
        "solver_options": {
            field.name: getattr(predictor.solver, field.name)
            for field in dataclasses.fields(predictor.solver)  # type: ignore[arg-type]
        },
        "stop": dataclasses.asdict(predictor.stop),
    }
    parameters |= predictor.start.facts()
    if predictor.early is not None:
        held = dataclasses.asdict(predictor.early)
        parameters["early"] = {k: list(v) if isinstance(v, tuple) else v for k, v in held.items()}
    if predictor.warmup is not None:
        parameters["warmup"] = dataclasses.asdict(predictor.warmup)
        parameters["refresh"] = predictor.refresh
    return parameters


def _checked(model: Any) -> Any:
    if not isinstance(model, ImplicitModel):
        raise ConfigError(
            f"{type(model).__name__} is no implicit model; give the name of one, a checkpoint "
            "file, an object with inject, initial_state, cell and readout, or what "
            "deqcert.ImplicitClassifier makes of your functions"
        )
    return model


def _form_of(folder: Path) -> str | None:
    try:
        begun = Manifest.read(folder)
    except RunError:  # whoever opens the run will say what is wrong with it
        return None
    form = None if begun is None else begun.parameters.get("form")
    return form if isinstance(form, str) else None


def _early(starting: Starting, tuned: StartFile | None) -> EarlyStop | DecidedStop | None:
    if starting.margin is None:
        return None if starting.early is None else EarlyStop(starting.early)
    if starting.early is not None:
        raise ConfigError("--early and --margin are two rules for one depth; give one of them")
    if tuned is None:
        raise ConfigError(
            "--margin counts readouts by their cost, which only a learned start's file holds; use "
            "--early, or --start learned"
        )
    return DecidedStop(starting.margin, tuned.readout)


def _make_chained(solving: Solving, starting: Starting, start: StartPolicy) -> Predictor:
    cold = make_cold(solving)
    if starting.early is not None or starting.margin is not None:
        raise ConfigError(
            f"start {starting.start!r} has a fixed depth; leave --early and --margin out"
        )
    if starting.steps == 0:
        raise ConfigError(
            f"steps is 0, but a solve from start {starting.start!r} needs a whole number from 1"
        )
    warmup = cold.stop
    if starting.warmup is not None:
        warmup = StopRule(tol=0.0, max_nfe=starting.warmup)
    return Predictor(
        solver=cold.solver,
        stop=StopRule(tol=0.0, max_nfe=3 if starting.steps is None else starting.steps),
        start=start,
        warmup=warmup,
        refresh=starting.refresh,
    )
