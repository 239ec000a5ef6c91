"""Multipliers kept beside a checkpoint: searched for once, and verified each time they are read."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deqcert.errors import RunError
from deqcert.files import cache_folder, read_regular, write_atomically
from deqcert.models import ReluForm
from deqcert.models.hashes import weights_hash
from deqcert.models.zoo import SHIPPED
from deqcert.proofs.lipschitz import bounds_matrix
from deqcert.proofs.multiplier import Multipliers, multiplier_bounds

FORMAT = "deqcert-lipschitz"
FORMAT_VERSION = 1
ENDING = ".lipschitz.json"


@dataclass(frozen=True)
class KeptConstants:
    """The constants of the multiplier rule, and where they came from.

    Attributes:
        bounds: Shape (K, K), float64, logits per pixel unit.
        file: Where their multipliers are kept; None where the folder cannot be written.
        read: How many pairs of classes were read from there and verified.
        searched: How many were searched for anew.
        multipliers: What proves each.
    """

    bounds: Tensor
    file: Path | None
    read: int
    searched: int
    multipliers: Multipliers


def kept_file(model: Any) -> Path | None:
    """Return where a model's multipliers are kept; None for a model that no file was named for.

    Beside the checkpoint, so that they move with it. Those of a checkpoint that comes with the
    package are in the user's cache, by the hash of its weights: a package is not written into.

    Args:
        model: Any model; one that :func:`deqcert.compose.load` has loaded says its checkpoint.
    """
    checkpoint = getattr(model, "checkpoint", None)
    if checkpoint is None:
        return None
    if checkpoint.resolve().is_relative_to(SHIPPED):
        return cache_folder() / f"{weights_hash(model)}{ENDING}"
    found: Path = checkpoint.with_suffix(ENDING)
    return found


def kept_constants(model: Any, form: ReluForm, file: Path) -> KeptConstants:
    """Read the multipliers of a network, verify them, search for those that are missing, keep all.

    What is read proves nothing: each pair's constant is verified with its multiplier against the
    network's own matrices, and searched for again where that fails. So a file that was tampered
    with, or belongs to other weights, costs time and no truth.

    Args:
        model: The network.
        form: The same as matrices.
        file: Where they are kept; see :func:`kept_file`.

    **Guarantee:** deterministic, that of :func:`deqcert.proofs.multiplier_bound`.
    """
    identity = _identity(model)
    found, read = multiplier_bounds(form, _read(file, identity, len(form.state)))
    searched = len(found) - read
    kept: Path | None = file
    if searched:
        pairs = [
            {"classes": list(pair), "constant": bound, "multiplier": multiplier.tolist()}
            for pair, (bound, multiplier) in found.items()
            if math.isfinite(bound)
        ]
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, json.dumps({**identity, "pairs": pairs}) + "\n")
        except (OSError, RunError):  # it only saves time
            kept = None
    return KeptConstants(bounds_matrix(len(form.readout), found), kept, read, searched, found)


def constants_hash(bounds: Tensor) -> str:
    """Return the SHA-256 of constants, shape (K, K), in hexadecimal."""
    return hashlib.sha256(bounds.double().contiguous().numpy().tobytes()).hexdigest()


def holds_constants(model: Any, file: Path) -> bool:
    """Whether a file holds multipliers of that very network, verified or not."""
    return bool(_read(file, _identity(model), None))


def _identity(model: Any) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "rule": "multiplier",
        "weights_sha256": weights_hash(model),
        "model_config": repr(getattr(model, "config", type(model))),
    }


def _read(file: Path, identity: dict[str, Any], width: int | None) -> Multipliers:
    """Return what a file of that very network holds; nothing where it is another's or damaged.

    Args:
        file: The file.
        identity: What it must say of itself.
        width: Elements of a multiplier; None for any number.
    """
    try:
        content = json.loads(read_regular(file))
        if any(content.get(key) != value for key, value in identity.items()):
            return {}
        found: Multipliers = {}
        for entry in content["pairs"]:
            i, j = map(int, entry["classes"])
            multiplier = torch.tensor(entry["multiplier"], dtype=torch.float64)
            if multiplier.ndim == 1 and width in (None, len(multiplier)):
                found[i, j] = float(entry["constant"]), multiplier
    except (
        OSError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        RecursionError,
        OverflowError,
    ):
        return {}
    return found
