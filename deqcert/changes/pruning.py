"""From a checkpoint to the same model with fewer weights: prune, count, save."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from deqcert.changes.channels import zero_channels
from deqcert.changes.config import PruneConfig
from deqcert.changes.layers import Layer, total, zeros
from deqcert.changes.magnitude import prune_by_magnitude
from deqcert.errors import ConfigError
from deqcert.files import write_atomically
from deqcert.models import NarrowableModel, file_hash, load_model
from deqcert.models.headed import HeadedModel
from deqcert.models.prunable import prunable
from deqcert.training.record import (
    claim,
    command_line,
    of_ending,
    parameters,
    versions,
    weights_bytes,
)


def prune(config: PruneConfig) -> Path:
    """Prune a checkpoint and save what is left as another one.

    Unstructured: the smallest weights of the whole model become zero, by magnitude, those of
    weight-normalised convolutions by that of their kernels. Structured: see
    :meth:`deqcert.models.NarrowableModel.narrowed`, which an MDEQ has, and
    :func:`deqcert.changes.channels.zero_channels` for any other model.

    Returns:
        The checkpoint. Beside it are its YAML configuration and a JSON record: the parent's hash,
        what was done, and how much of each layer is pruned.

    Raises:
        ConfigError: If the model cannot be pruned so, or the sparsity takes nothing or all of it.
        CheckpointError: If the checkpoint cannot be read.
        RunError: If the file exists already or cannot be written.
    """
    of_ending(config.out, ".pth")
    with claim(config.out, "another out"):
        return _prune(config)


def _prune(config: PruneConfig) -> Path:
    model = load_model(config.model, config.model_config)
    if isinstance(model, HeadedModel):
        raise ConfigError(
            f"checkpoint {config.model} has a head that was fitted to its latents, which pruning "
            "moves; prune the model that it was fitted to, and fit a head to what comes out."
        )
    before = sum(weight.value().numel() for weight in prunable(model))
    if not config.structured:
        how = "weights of least magnitude set to zero"
        prune_by_magnitude(prunable(model), config.sparsity)
        layers = zeros(prunable(model))
    elif isinstance(model, NarrowableModel):
        how = "channels removed"
        model, removed = model.narrowed(config.sparsity)
        layers = [Layer(name, gone, of) for name, (gone, of) in removed.items()]
    else:
        how = "channels of least norm set to zero"
        layers = zero_channels(prunable(model), config.sparsity)
    left = zeros(prunable(model))
    weights, path = weights_bytes(model), config.out
    record = {
        "command": command_line(),
        "parameters": parameters(config),
        "parent_sha256": file_hash(config.model),
        "checkpoint_sha256": hashlib.sha256(weights).hexdigest(),
        "how": how,
        "unit": "channels" if config.structured else "weights",
        "sparsity": round(total(layers).share, 6),
        "layers": [
            {"name": layer.name, "pruned": layer.pruned, "of": layer.of} for layer in layers
        ],
        "weights": {"before": before, "left": sum(layer.of - layer.pruned for layer in left)},
        "versions": versions(),
    }
    write_atomically(path.with_suffix(".yaml"), model.config.to_yaml())
    write_atomically(path.with_suffix(".json"), json.dumps(record, indent=2) + "\n")
    write_atomically(path, weights)
    return path
