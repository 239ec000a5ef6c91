"""From a checkpoint to its start network: fit, measure, tune, save."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

import numpy as np
import torch

from deqcert.data import load_dataset
from deqcert.files import write_atomically
from deqcert.models import file_hash, form_names, in_form, load_model
from deqcert.starts.file import StartFile, load_start, save_start, start_path
from deqcert.training.record import claim, command_line, parameters, thinned, versions
from deqcert.training.starts.config import StartConfig
from deqcert.training.starts.depth import CONFIDENCE, costs, follow, hold_depth
from deqcert.training.starts.fit import fit_start

ROWS = 100
"""Rows on which the cost of a start is measured."""


def train_start(config: StartConfig) -> Path:
    """Fit a start network to a checkpoint, tune its depth, and save both.

    Returns:
        The file. Beside it is a JSON record with the parameters, the versions, the history, and
        what was measured on noisy training images.

    Raises:
        ConfigError: If parameters do not fit, or the training diverges.
        CheckpointError: If the checkpoint cannot be read.
        DataError: If the images cannot be used.
        RunError: If the file exists already or cannot be written.
    """
    path = start_path(config.model) if config.out is None else Path(config.out)
    with claim(path):
        return _train_start(config, path)


def _train_start(config: StartConfig, path: Path) -> Path:
    began = time.perf_counter()
    model, sha256 = load_model(config.model, config.model_config), file_hash(config.model)
    init = None if config.init is None else load_start(config.init, config.model)
    data = load_dataset(config.data, "train")
    net, architecture, history = fit_start(model, data, config, init)
    fitted = time.perf_counter() - began
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
    agreement = (trajectories.classes[known] == trajectories.truth[known, None]).mean(axis=0)
    size, whole = (sum(p.numel() for p in module.parameters()) for module in (net, model))
    start = StartFile(
        net,
        architecture,
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
    record = {
        "command": command_line(),
        "parameters": parameters(config),
        "measured": {
            "cost": round(cost, 4),
            "readout": round(readout, 4),
            "parameters": size,
            "share_of_parameters": round(size / whole, 4),
            "agreement": [round(float(share), 4) for share in agreement],
            "depth": dataclasses.asdict(depth),
            "held": {
                "images": held.images,
                "bound": round(held.bound, 5),
                "confidence": CONFIDENCE,
            },
        },
        "seconds": round(time.perf_counter() - began, 1),
        "seconds_fitting": round(fitted, 1),
        "threads": torch.get_num_threads(),
        "model_sha256": sha256,
        "data_sha256": {"train": data.hash()},
        "versions": versions(),
        "history": thinned(history),
    }
    write_atomically(path.with_suffix(".json"), json.dumps(record, indent=2) + "\n")
    save_start(path, start)
    return path
