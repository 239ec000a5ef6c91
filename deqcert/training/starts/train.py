"""From a checkpoint to its start network: fit, measure, tune, save."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from pathlib import Path

import numpy as np
import torch

from deqcert.data import Dataset, load_dataset
from deqcert.devices import open_device
from deqcert.errors import ConfigError
from deqcert.files import write_atomically
from deqcert.models import ZOO, TrainableModel, file_hash, form_names, in_form, load_model
from deqcert.starts.file import StartFile, load_start, start_bytes, start_path
from deqcert.training.progress import TrainingProgress
from deqcert.training.record import claim, command_line, parameters, thinned, versions
from deqcert.training.starts.config import StartConfig
from deqcert.training.starts.depth import CONFIDENCE, costs, follow, hold_depth
from deqcert.training.starts.fit import Fitted, fit_start
from deqcert.training.unfinished import ALREADY, Unfinished, saying_what_is_safe

BESIDE = (".json", ".unfinished")
"""Endings of what is kept beside a start: its record and, before it is there, its state."""

ROWS = 100
"""Rows on which the cost of a start is measured."""


def train_start(config: StartConfig) -> Path:
    """Fit a start network to a checkpoint, tune its depth, and save both.

    A training for the same file that was interrupted goes on. With ``steps`` it gives, bit for bit,
    the network that an uninterrupted one gives on the same machine; the costs in the file are
    measured times. With ``minutes`` the time before counts.

    Returns:
        The file. Beside it is a JSON record with the parameters, the versions, the history, and
        what was measured on noisy training images.

    Raises:
        ConfigError: If parameters do not fit, or the training diverges.
        CheckpointError: If the checkpoint cannot be read.
        DataError: If the images cannot be used.
        RunError: If the file exists already (one that was finished but for tidying up is returned)
            or cannot be written, holds an unfinished training with other parameters, or one that
            another process works on.
        Interrupted: On Ctrl-C, when the step is done and everything is saved.
    """
    open_device(config.device)
    if config.out is None and str(config.model) in ZOO:
        raise ConfigError(
            f"the model {config.model} lies in the installed package, where a start does not "
            f"belong; name its file, as in --out {config.model}.start.pth."
        )
    path = start_path(config.model) if config.out is None else Path(config.out)
    if path.suffix in BESIDE:
        raise ConfigError(
            f"out is {path}, but what is kept beside a start ends in {path.suffix}; give a name "
            "that ends in .pth."
        )
    with claim(path, "another out"), saying_what_is_safe(path):
        return _train_start(config, path)


def _train_start(config: StartConfig, path: Path) -> Path:
    model, sha256 = load_model(config.model, config.model_config), file_hash(config.model)
    init = None if config.init is None else load_start(config.init, config.model)
    data = load_dataset(config.data, "train")
    facts = {"weights": sha256, "images": data.hash(), "configuration": model.config.to_yaml()}
    if config.init is not None:
        facts["weights of init"] = file_hash(config.init)
    unfinished = Unfinished(path, config, facts)
    if unfinished.outlived():
        TrainingProgress(config.progress).say(ALREADY)
        return path
    fitted = fit_start(model, data, config, unfinished, init)
    return _finish(fitted, model, data, config, unfinished, sha256)


def _finish(
    fitted: Fitted,
    model: TrainableModel,
    data: Dataset,
    config: StartConfig,
    unfinished: Unfinished,
    sha256: str,
) -> Path:
    """Measure the start, tune its depth and save it."""
    began, net, path = time.perf_counter(), fitted.net, unfinished.target
    # The start is held against the quickest cell that gives the same numbers.
    quick = in_form(model, "folded" if "folded" in form_names(model) else "eager", rows=ROWS)
    x = torch.from_numpy(data.batch(np.arange(min(ROWS, len(data))))).to(config.device)
    with torch.no_grad():
        cost, readout = costs(quick, net, quick.inject(x))
    trajectories = follow(
        quick,
        net,
        data,
        sigma=config.sigma,
        images=config.tune_images,
        batch=ROWS,
        steps=config.most,
        seed=config.seed,
        device=config.device,
    )
    held = hold_depth(trajectories, config.disagreement, readout=readout)
    depth = held.depth
    known = trajectories.truth >= 0
    agreement = []
    if known.any():
        same = trajectories.classes[known] == trajectories.truth[known, None]
        agreement = [round(float(share), 4) for share in same.mean(axis=0)]
    size, whole = (sum(p.numel() for p in module.parameters()) for module in (net, model))
    start = StartFile(
        net,
        fitted.architecture,
        sha256,
        config.sigma,
        cost,
        steps=depth.steps,
        early=depth.early,
        margin=depth.margin,
        checks=depth.checks,
        disagreement=held.bound,
        readout=readout,
    )
    content = start_bytes(start)
    record = {
        "command": command_line(),
        "parameters": parameters(config),
        "measured": {
            "cost": round(cost, 4),
            "readout": round(readout, 4),
            "parameters": size,
            "share_of_parameters": round(size / whole, 4),
            "agreement": agreement,
            "depth": dataclasses.asdict(depth),
            "held": {
                "images": held.images,
                "bound": round(held.bound, 5),
                "confidence": CONFIDENCE,
            },
        },
        "seconds": round(fitted.seconds + time.perf_counter() - began, 1),
        "seconds_fitting": round(fitted.seconds, 1),
        "resumed": fitted.resumed,
        "threads": torch.get_num_threads(),
        "start_sha256": hashlib.sha256(content).hexdigest(),
        "model_sha256": sha256,
        "data_sha256": {"train": data.hash()},
        "versions": versions(),
        "history": thinned(fitted.history),
    }
    write_atomically(path.with_suffix(".json"), json.dumps(record, indent=2) + "\n")
    write_atomically(path, content)
    unfinished.remove()
    return path
