"""A fitted head in a file of its own, for latents that no model of ours makes."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch

from deqcert.data.npz import read_arrays
from deqcert.errors import ConfigError, DataError
from deqcert.models.quadratic import Quadratics

PARTS = ("means", "linear", "offsets")


def head_bytes(scores: Quadratics) -> bytes:
    """Return the content of a head's file: an .npz archive of its numbers in float64."""
    arrays = {name: getattr(scores, name).numpy() for name in PARTS}
    if scores.precisions is not None:
        arrays["precisions"] = scores.precisions.numpy()
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def read_head(path: str | Path) -> Quadratics:
    """Read the head that ``deqcert fit-latent --features`` has written.

    >>> LatentRadius(read_head("features-lda.npz")).at(z).radius   # doctest: +SKIP

    Raises:
        DataError: If the file is missing or no head.
    """
    found = read_arrays(Path(path), PARTS, optional=("precisions",))
    try:
        parts = {name: torch.from_numpy(array) for name, array in found.items()}
        return Quadratics(
            parts["means"], parts.get("precisions"), parts["linear"], parts["offsets"]
        )
    except (ConfigError, TypeError, ValueError):
        raise DataError(
            f"{path} is not a fitted head; write one with deqcert fit-latent --features."
        ) from None
