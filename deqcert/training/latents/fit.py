"""From a checkpoint, or latents, to a Gaussian head: encode, fit, measure, save."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deqcert.certifiers.metrics import certified_accuracy
from deqcert.data import load_dataset
from deqcert.data.indices import parse_images
from deqcert.devices import open_device
from deqcert.errors import ConfigError, DataError
from deqcert.files import write_atomically
from deqcert.latents.encoder import encode
from deqcert.latents.evidence import METHOD, estimate_gap, normality
from deqcert.latents.head_file import head_bytes
from deqcert.latents.heads import fit_head
from deqcert.latents.mixture import Mixture, fit_mixture
from deqcert.latents.prediction import label_band, linear_accuracy, under_drift
from deqcert.latents.radius import LatentRadius
from deqcert.models import ZOO, ProvenModel, checkpoint_path, file_hash, load_model, with_head
from deqcert.models.quadratic import Quadratics
from deqcert.proofs.multiplier import multiplier_bound
from deqcert.solvers import StopRule
from deqcert.training.latents.config import OF_MODELS, LatentConfig
from deqcert.training.latents.features import read_features
from deqcert.training.latents.picture import draw
from deqcert.training.record import (
    claim,
    command_line,
    of_ending,
    parameters,
    versions,
    weights_bytes,
)

POINTS = 41
"""Latent radii that the curves are written at."""

DRAWS = 4000
"""Latents that the curve of a quadratic head is simulated with."""


def fit_latent(config: LatentConfig) -> Path:
    """Fit a head to latents, measure it, and save it.

    Returns:
        The checkpoint, which is loaded, certified and smoothed like any other; for features the
        head's own file, which :func:`deqcert.latents.read_head` reads. Beside it are a JSON record
        (hashes, held-out accuracy, evidence for and against the Gaussian law, the measured and the
        predicted curve), a picture of the curves, and a checkpoint's YAML configuration.

    Raises:
        ConfigError: If parameters do not fit, or a covariance cannot be inverted.
        CheckpointError: If the checkpoint cannot be read.
        DataError: If the images or features cannot be used, or a class has too few.
        RunError: If the file exists already or cannot be written.
    """
    if config.features is not None:
        path = of_ending(config.out or _beside(config.features, config.head, ".npz"), ".npz")
        with claim(path, "another out"):
            return _fit_features(config, config.features, path)
    open_device(config.device)
    path = _target(config)
    with claim(path, "another out"):
        return _fit_model(config, path)


def _target(config: LatentConfig) -> Path:
    if config.out is not None:
        return of_ending(config.out, ".pth")
    if config.model in ZOO:
        raise ConfigError(
            f"the model {config.model} lies in the installed package, where a head does not "
            f"belong; name its file, as in --out {config.model}-{config.head}.pth."
        )
    return _beside(checkpoint_path(config.model), config.head, ".pth")


def _beside(file: Path, head: str, suffix: str) -> Path:
    return file.with_name(f"{file.name.removesuffix('.tar').removesuffix(suffix)}-{head}{suffix}")


def _fit_model(config: LatentConfig, path: Path) -> Path:
    began = time.perf_counter()
    model: Any = load_model(config.model, config.model_config).to(config.device)
    data = load_dataset(config.data, "train")
    fitting, held = _split(len(data), config)
    stop = StopRule(tol=config.tol, max_nfe=config.max_nfe)
    how: dict[str, Any] = {
        "sigma": config.sigma,
        "stop": stop,
        "batch": config.batch,
        "device": config.device,
    }
    z = encode(model, data, fitting, seed=config.seed, **how)
    others = encode(model, data, held, seed=config.seed + 1, **how)
    labels = data.labels()
    y, truth = labels[fitting], labels[held]
    _refuse_missing(y, model.num_classes, f"the images of {data.name}")
    fitted = _Fitted.of(config, z, y, others, truth)
    headed = with_head(model.cpu(), fitted.scores)
    lipschitz = _lipschitz(headed.base)
    own = _own_accuracy(headed.base, torch.from_numpy(others), truth)
    weights = weights_bytes(headed)
    write_atomically(path.with_suffix(".yaml"), headed.config.to_yaml())
    draw(path.with_suffix(".png"), fitted.curves, config=config, lipschitz=lipschitz, n=len(truth))
    record = {
        "command": command_line(),
        "parameters": parameters(config),
        "measured": {
            **fitted.measured,
            "accuracy_of_own_readout": own,
            "lipschitz": lipschitz,
        },
        "seconds": round(time.perf_counter() - began, 1),
        "checkpoint_sha256": hashlib.sha256(weights).hexdigest(),
        "model_sha256": file_hash(config.model),
        "data_sha256": {"train": data.hash()},
        "levels": data.levels,
        "versions": versions(),
    }
    write_atomically(path.with_suffix(".json"), json.dumps(record, indent=2) + "\n")
    write_atomically(path, weights)
    return path


def _fit_features(config: LatentConfig, features: Path, path: Path) -> Path:
    began = time.perf_counter()
    z, y = read_features(features)
    fitting, held = _split(len(z), config)
    _refuse_missing(y[fitting], int(y.max()) + 1, str(features))
    fitted = _Fitted.of(config, z[fitting], y[fitting], z[held], y[held])
    content = head_bytes(fitted.scores)
    used = [name for name in parameters(config) if name not in OF_MODELS]
    draw(path.with_suffix(".png"), fitted.curves, config=config, lipschitz=None, n=len(held))
    record = {
        "command": command_line(),
        "parameters": {name: parameters(config)[name] for name in used},
        "measured": fitted.measured,
        "seconds": round(time.perf_counter() - began, 1),
        "head_sha256": hashlib.sha256(content).hexdigest(),
        "features_sha256": file_hash(features),
        "versions": versions(),
    }
    write_atomically(path.with_suffix(".json"), json.dumps(record, indent=2) + "\n")
    write_atomically(path, content)
    return path


@dataclasses.dataclass(frozen=True)
class _Fitted:
    """A head, the curves of its picture, and what a record says of it."""

    scores: Quadratics
    curves: dict[str, NDArray[np.float64]]
    measured: dict[str, Any]

    @classmethod
    def of(
        cls,
        config: LatentConfig,
        z: NDArray[np.float64],
        y: NDArray[np.int64],
        others: NDArray[np.float64],
        truth: NDArray[np.int64],
    ) -> _Fitted:
        """Fit to latents z of classes y, and measure on the others."""
        mixture = fit_mixture(z, y, shared=config.head != "qda", shrinkage=config.shrinkage)
        scores = fit_head(config.head, mixture, config.reach)
        reach = LatentRadius(scores).at(torch.from_numpy(others))
        right = reach.best.numpy() == truth
        largest = float(reach.radius[torch.from_numpy(right)].max()) if right.any() else 1.0
        radii = np.linspace(0.0, largest, POINTS)
        predicted = predict(mixture, scores, radii, config.seed)
        curves = {
            "radius": radii,
            "measured": certified_accuracy(right, reach.radius.numpy(), radii.tolist()),
            "predicted": predicted,
            "under_drift": under_drift(predicted, config.kappa),
        }
        evidence = [
            dataclasses.asdict(
                normality(others[truth == k], mixture.means[k], mixture.covariance(k), config.seed)
            )
            for k in range(len(mixture.means))
            if (truth == k).sum() > 1
        ]
        measured = {
            "held_out": len(truth),
            "accuracy": round(float(right.mean()), 5),
            "band": round(label_band(len(truth), config.alpha), 5),
            "gap_estimate": round(estimate_gap(mixture, z, y, others, truth), 5),
            "gap_method": f"an estimate, not a bound: {METHOD}",
            "normality": evidence,
            "curves": {key: [round(float(v), 5) for v in values] for key, values in curves.items()},
        }
        return cls(scores, curves, measured)


def predict(
    mixture: Mixture, scores: Quadratics, radii: NDArray[np.float64], seed: int
) -> NDArray[np.float64]:
    """Return the certified accuracy that a mixture predicts for a head at latent radii."""
    if scores.precisions is None:
        return linear_accuracy(mixture, scores.linear, scores.offsets, radii.tolist())
    z, y = mixture.sample(DRAWS, seed)
    reach = LatentRadius(scores).at(torch.from_numpy(z))
    return certified_accuracy(reach.best.numpy() == y, reach.radius.numpy(), radii.tolist())


def _split(count: int, config: LatentConfig) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the indices to fit to, and those held out: every so many, evenly spread."""
    chosen = np.asarray(parse_images(config.images, count), dtype=np.int64)
    place = np.arange(1, len(chosen) + 1) * config.held
    out = np.floor(place) > np.floor(place - config.held)
    if not out.any() or out.all():
        raise DataError(f"{len(chosen)} images cannot be parted by held {config.held}; give more.")
    return chosen[~out], chosen[out]


def _refuse_missing(y: NDArray[np.int64], classes: int, what: str) -> None:
    counts = np.bincount(y, minlength=classes)
    if len(counts) != classes:
        raise DataError(f"{what} have {len(counts)} classes, but the model has {classes}.")
    if counts.min() < 2:
        raise DataError(
            f"class {int(counts.argmin())} of {what} has {counts.min()} latents to fit a Gaussian "
            "to, which needs at least two; give more --images or hold out fewer."
        )


def _lipschitz(base: Any) -> float | None:
    """Return the proven constant of an encoder; None where there is none."""
    if not isinstance(base, ProvenModel):
        return None
    form = base.relu_form()
    bound, _ = multiplier_bound(form, torch.eye(form.state.shape[0], dtype=torch.float64))
    return bound if bound < float("inf") else None


def _own_accuracy(base: Any, latents: torch.Tensor, truth: NDArray[np.int64]) -> float | None:
    """Return the accuracy of a model's own last layer on the same latents."""
    last = getattr(base, "classifier", getattr(base, "Wout", None))
    if not isinstance(last, torch.nn.Linear):
        return None
    with torch.no_grad():
        found = last(latents.to(last.weight.dtype)).argmax(dim=1).numpy()
    return round(float((found == truth).mean()), 5)
