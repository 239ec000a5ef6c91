"""From options to a model, images, an engine and the ways to solve; refusals come before solves."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from deqcert import __version__, kernels
from deqcert.cli import choices
from deqcert.cli.options import Solving, Source, Starting, parse_images, parse_knobs
from deqcert.data import Dataset, load_dataset
from deqcert.errors import ConfigError, DataError, RunError
from deqcert.memory import keep_freed_memory
from deqcert.models import (
    ImplicitModel,
    Model,
    checkpoint_path,
    file_hash,
    form_names,
    in_form,
    load_model,
)
from deqcert.runs import Manifest
from deqcert.smoothing import DecidedStop, EarlyStop, Predictor, SmoothingEngine
from deqcert.solvers import Solver, StopRule, get_solver, solver_options
from deqcert.starts import Learned, StartPolicy, get_start
from deqcert.starts.file import StartFile, load_start, start_path


@dataclass(frozen=True)
class Subject:
    """What is certified, predicted or measured.

    Args:
        model: the loaded checkpoint, in its form.
        dataset: the images.
        images: the chosen indices.
        parameters: what identifies all of it, as JSON values.
        notes: the paths as they were given.
    """

    model: ImplicitModel
    dataset: Dataset
    images: range
    parameters: dict[str, Any]
    notes: dict[str, Any]


def prepare_process(threads: int | None) -> int:
    """Set this process up for long solves; return the number of CPU threads in use.

    Raises:
        ConfigError: it is below 1.
    """
    if threads is not None:
        if threads < 1:
            raise ConfigError(f"threads is {threads}, but it must be a whole number from 1")
        torch.set_num_threads(threads)
    keep_freed_memory()
    return torch.get_num_threads()


def load(source: Source) -> Subject:
    """Load model and images and check that they fit each other.

    Raises:
        DeqcertError: something is missing, damaged, or does not fit.
    """
    threads = prepare_process(source.threads)
    sigma = noise(source)
    model = load_model(source.model, source.config)
    dataset = load_dataset(source.data, source.split)
    images = parse_images(source.images, len(dataset))
    check_fit(model, dataset, images)
    shape = source.batch if source.shape is None else source.shape
    form = choose_form(source.form, model, shape, threads, source.device)
    parameters = {
        "checkpoint_sha256": file_hash(source.model),
        "model_config": dataclasses.asdict(model.config),
        "data": source.data.partition(":")[0],
        "data_hash": dataset.hash(),
        "split": source.split,
        "sigma": sigma,
        "seed": source.seed,
        "batch": source.batch,
        "shape": shape,
        "device": source.device,
        "form": form,
        "threads": threads,
        "kernels": kernels.status().path,
        "deqcert": __version__,
    }
    notes = {"model": source.model, "config": source.config, "data": source.data}
    formed = in_form(model, form, rows=shape, device=source.device)
    return Subject(formed, dataset, images, parameters, notes)


def continued(source: Source, folder: Path) -> Source:
    """Return the options with the form of the run in a folder, where "auto" leaves it open.

    A choice that was measured since the run began must not end it.
    """
    if source.form != "auto":
        return source
    try:
        begun = Manifest.read(folder)
    except RunError:  # whoever opens the run will say what is wrong with it
        return source
    form = None if begun is None else begun.parameters.get("form")
    return dataclasses.replace(source, form=form) if isinstance(form, str) else source


def choose_form(asked: str, model: Model, rows: int, threads: int, device: str) -> str:
    """Return the form to evaluate a model in: as asked for, or for "auto" the cached choice."""
    if asked != "auto":
        return asked
    possible = form_names(model)
    key = choices.describe(dataclasses.asdict(model.config), rows, threads, device)
    found = choices.recall(key)
    if found in possible:
        return found
    return "folded" if "folded" in possible else "eager"


def noise(source: Source) -> float:
    """Return sigma: as given, or as `deqcert train` recorded it beside the checkpoint.

    Raises:
        ConfigError: it is not given and there is no record.
    """
    if source.sigma is not None:
        return source.sigma
    record = checkpoint_path(source.model).with_suffix(".json")
    try:
        return float(json.loads(record.read_text(encoding="utf-8"))["parameters"]["sigma"])
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(
            f"sigma is not given; add --sigma with the noise that {source.model} was trained with"
        ) from None


def check_fit(model: Model, dataset: Dataset, images: range) -> None:
    """Refuse images of another size than the model's, and labels outside its classes.

    Raises:
        DataError: they do not fit.
    """
    if tuple(dataset.shape) != tuple(model.input_shape):
        there, wanted = ("x".join(map(str, s)) for s in (dataset.shape, model.input_shape))
        raise DataError(
            f"the images of {dataset.name} are {there}, but the model takes {wanted} "
            "(channels, height, width); give other images with --data or another --model"
        )
    for image in images:
        label = dataset.label(image)
        if not 0 <= label < model.num_classes:
            raise DataError(
                f"image {image} of {dataset.name} has label {label}, but the model has "
                f"{model.num_classes} classes (0 to {model.num_classes - 1}); "
                "give the data that it was trained for"
            )


def make_engine(source: Source, model: ImplicitModel) -> SmoothingEngine:
    """Make an engine as the options say.

    Raises:
        ConfigError: an option is out of range.
    """
    return SmoothingEngine(
        model,
        sigma=noise(source),
        seed=source.seed,
        batch=source.batch,
        shape=source.shape,
        device=source.device,
    )


def make_solver(solving: Solving) -> Solver[Any]:
    """Make the solver with its knobs.

    Raises:
        ConfigError: no such solver or knob, or a value out of range.
    """
    return get_solver(solving.solver, **parse_knobs(solving, solver_options(solving.solver)))


def make_cold(solving: Solving) -> Predictor:
    """Make the cold predictor, the base classifier that certificates are about.

    Raises:
        ConfigError: an option is out of range.
    """
    stop = StopRule(tol=solving.tol, max_nfe=solving.depth)
    return Predictor(make_solver(solving), stop, get_start("cold"))


def make_predictor(source: Source, solving: Solving, starting: Starting) -> Predictor:
    """Make the predictor that casts the votes.

    Raises:
        ConfigError: an option is out of range, or says nothing about the start that is asked for.
        CheckpointError: a learned start cannot be read or belongs to another model.
    """
    policy, tuned = make_policy(starting.start, source)
    if not policy.independent:
        return _make_chained(solving, starting, policy)
    if starting.warmup is not None or starting.refresh:
        raise ConfigError(f"start {policy.name!r} has no chain; leave --warmup and --refresh out")
    early = _early(starting, tuned)
    steps = starting.steps
    if tuned is None:
        if steps is not None:
            raise ConfigError("a cold start is solved as --depth and --tol say; leave --steps out")
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


def early_stop(tuned: StartFile) -> EarlyStop | DecidedStop | None:
    """Return the early stop that was tuned for a learned start, or None for a fixed depth."""
    if tuned.margin is not None:
        return DecidedStop(tuned.margin, tuned.readout)
    return None if tuned.early is None else EarlyStop(tuned.early)


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


def make_policy(text: str, source: Source) -> tuple[StartPolicy, StartFile | None]:
    """Make the start policy of that name; also return the file of a learned one.

    Raises:
        ConfigError: there is none of that name, or it takes no file.
        CheckpointError: a learned start cannot be read or belongs to another model.
    """
    name, _, file = text.partition(":")
    if name != Learned.name:
        if file:
            raise ConfigError(f"start {name!r} takes no file; only learned:FILE does")
        return get_start(name), None
    path = file or start_path(source.model)
    found = load_start(path, source.model)
    return Learned(found.net.to(source.device), found.cost, file_hash(path)), found


def _make_chained(solving: Solving, starting: Starting, start: StartPolicy) -> Predictor:
    cold = make_cold(solving)
    if starting.early is not None or starting.margin is not None:
        raise ConfigError(
            f"start {starting.start!r} has a fixed depth; leave --early and --margin out"
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
    if isinstance(predictor.start, Learned):
        parameters["start_sha256"] = predictor.start.sha256
    if predictor.early is not None:
        parameters["early"] = dataclasses.asdict(predictor.early)
    if predictor.warmup is not None:
        parameters["warmup"] = dataclasses.asdict(predictor.warmup)
        parameters["refresh"] = predictor.refresh
    return parameters
