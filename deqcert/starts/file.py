"""Start networks in files, each bound to the model that it was fitted to."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deqcert.errors import CheckpointError, ConfigError
from deqcert.files import write_atomically
from deqcert.models.checkpoints import file_hash
from deqcert.models.weight_files import read_torch_file
from deqcert.models.zoo import checkpoint_path
from deqcert.starts.network import build_start

FORMAT = "deqcert-start"
VERSION = 2
READABLE = (1, VERSION)


@dataclass(frozen=True)
class StartFile:
    """A start network and what belongs to it.

    Attributes:
        net: Maps injections, shape (b, ...), to states, shape (b, D), in evaluation mode.
        architecture: What :func:`deqcert.starts.network.build_start` made it from.
        model_sha256: Hash of the checkpoint that it was fitted to.
        sigma: Standard deviation of the noise that it was fitted with.
        cost: Measured time of the network in times of one cell evaluation.
        steps: Tuned depth, in cell evaluations.
        early: Relative residual at which a row ends before that depth, or None.
        margin: Instead, what the gap between the two largest logits is compared with, or None.
        checks: Instead, depth and gap of each check; empty for none.
        disagreement: Share of noisy training images to which these give another class than the
            converged solve is at most this, with 95% confidence; None where it was not measured.
        readout: Measured time of a readout in times of one cell evaluation.
    """

    net: nn.Module
    architecture: dict[str, Any]
    model_sha256: str
    sigma: float
    cost: float
    steps: int
    early: float | None
    margin: float | None
    readout: float
    checks: tuple[tuple[int, float], ...] = ()
    disagreement: float | None = None


def start_path(checkpoint: str | Path) -> Path:
    """Return where a checkpoint's start network is: beside it, ``NAME.start.pth``."""
    path = checkpoint_path(checkpoint)
    return path.with_name(Path(path.name.removesuffix(".tar")).stem + ".start.pth")


def start_bytes(start: StartFile) -> bytes:
    """Return the bytes of a start network's file."""
    content = {
        "format": FORMAT,
        "version": VERSION,
        "weights": {name: value.detach().cpu() for name, value in start.net.state_dict().items()},
        "architecture": start.architecture,
        "model_sha256": start.model_sha256,
        "sigma": start.sigma,
        "cost": start.cost,
        "steps": start.steps,
        "early": start.early,
        "margin": start.margin,
        "checks": [list(check) for check in start.checks],
        "disagreement": start.disagreement,
        "readout": start.readout,
    }
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def save_start(path: str | Path, start: StartFile) -> None:
    """Write a start network, whole or not at all.

    Raises:
        RunError: If the disk does not take it.
    """
    write_atomically(Path(path), start_bytes(start))


def load_start(path: str | Path, model: str | Path) -> StartFile:
    """Read a start network with torch's restricted unpickler, and see that it fits a model.

    Args:
        path: What :func:`save_start` wrote.
        model: The checkpoint that it is to be used with: a file, or the name of a builtin one.

    Raises:
        CheckpointError: If a file is missing or damaged, is no start network, or belongs to
            another model.
    """
    wanted = file_hash(model)
    try:
        content = read_torch_file(Path(path))
    except FileNotFoundError:
        raise CheckpointError(
            f"there is no start network {path}; make one with deqcert train-start."
        ) from None
    except Exception:  # a damaged archive makes torch raise nearly anything
        raise CheckpointError(_damaged(path)) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(_damaged(path))
    if content.get("version") not in READABLE:
        raise CheckpointError(
            f"start network {path} has format version {content.get('version')} and this deqcert "
            f"knows {VERSION}; train it anew."
        )
    if content.get("model_sha256") != wanted:
        raise CheckpointError(
            f"start network {path} was fitted to another model than {model}; fit one to this model "
            "with deqcert train-start."
        )
    try:
        net = build_start(content["architecture"])
        net.load_state_dict(content["weights"])
        early, margin = content["early"], content["margin"]
        disagreement = content.get("disagreement")
        return StartFile(
            net=net.eval().requires_grad_(False),
            architecture=dict(content["architecture"]),
            model_sha256=wanted,
            sigma=float(content["sigma"]),
            cost=float(content["cost"]),
            steps=int(content["steps"]),
            early=None if early is None else float(early),
            margin=None if margin is None else float(margin),
            readout=float(content["readout"]),
            checks=tuple((int(depth), float(gap)) for depth, gap in content.get("checks", ())),
            disagreement=None if disagreement is None else float(disagreement),
        )
    except (KeyError, TypeError, ValueError, RuntimeError, ConfigError):
        raise CheckpointError(_damaged(path)) from None


def _damaged(path: str | Path) -> str:
    return (
        f"{path} is damaged or no start network; make it anew with deqcert train-start, or give "
        "another file."
    )
