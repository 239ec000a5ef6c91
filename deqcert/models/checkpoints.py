"""Checkpoints in: weights only, in the formats of the public MDEQ repositories and our own."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deqcert.errors import CheckpointError, ConfigError
from deqcert.files import open_regular
from deqcert.models.architectures import read_config
from deqcert.models.base import ModelConfig, TrainableModel
from deqcert.models.parameter_names import fit_names
from deqcert.models.published import PUBLISHED_NAMES, published_config
from deqcert.models.skeleton import skeleton
from deqcert.models.weight_files import read_weight_file
from deqcert.models.zoo import ZOO, checkpoint_path
from deqcert.options import Option, parse_pairs

_M = Option("float", 20.0, low=0.0, low_open=True, name="m")
"""What may be said of a published network in place of a configuration."""

WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net")
"""Keys under which training scripts store the weights among other things."""


def file_hash(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal.

    Args:
        path: A file, or the name of a builtin checkpoint.

    Raises:
        CheckpointError: If the file cannot be read.
    """
    path = checkpoint_path(path)
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(_unreadable(path, error)) from None


def load_model(
    checkpoint: str | Path, config: str | Path | ModelConfig | None = None
) -> TrainableModel:
    """Build the model of a checkpoint, in evaluation mode.

    Args:
        checkpoint: A file with a state_dict of the MDEQ-Vision family or of any other model that
            can be trained, or a name of :data:`deqcert.models.ZOO`, such as "digits" for the one
            that comes with the package. Every parameter's name may begin with ``module.``, and the
            state_dict may be inside a dictionary (:data:`WRAPPERS`).
        config: YAML file in the public layout, or a configuration. If not given, the ``.yaml``
            beside the checkpoint that has its name; a published monotone network needs none, but
            its m: in the file's name, or here, as in ``"m=20"``.

    Returns:
        The model, in float32; in float64 where all its weights are.

    Raises:
        CheckpointError: If the file is missing, damaged, not weights, made for another
            architecture, or holds values that are not finite.
        ConfigError: If the configuration cannot be used.
    """
    path = checkpoint_path(checkpoint)
    weights = read_weights(path)
    if config is None or isinstance(config, str | Path):
        config = _find_config(path, weights, config)
    shapes = skeleton(config)  # what asks for terabytes is refused before it takes them
    if shapes is not None:
        _check_names(path, fit_names(weights, shapes), shapes)
    model = config.build()
    floats = [value.dtype for value in weights.values() if value.is_floating_point()]
    if floats and all(dtype == torch.float64 for dtype in floats):
        model.double()
    wanted = model.state_dict()
    weights = fit_names(weights, wanted)
    _check_names(path, weights, wanted)
    for name, value in weights.items():
        if value.is_meta or value.layout != torch.strided or value.is_quantized:
            raise CheckpointError(
                f"checkpoint {path} has '{name}' as something else than plain numbers; save the "
                "state_dict() of a model that is neither empty, sparse nor quantised."
            )
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise CheckpointError(
                f"checkpoint {path} holds values that are not finite in '{name}'; the training "
                "that wrote it diverged, so use an earlier checkpoint."
            )
    model.load_state_dict(weights)
    return model.eval()


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read the state_dict in a checkpoint file, without wrapper, with the names as they are.

    Raises:
        CheckpointError: If the file is missing, damaged or holds anything but weights.
    """
    path = Path(path)
    try:
        content = read_weight_file(path)
    except OSError as error:
        raise CheckpointError(_unreadable(path, error)) from None
    return _unwrap(path, content)


def _unwrap(path: Path, content: Any) -> dict[str, Tensor]:
    candidates = [content]
    if isinstance(content, Mapping):
        candidates += [content[key] for key in WRAPPERS if key in content]
    for candidate in candidates:
        if isinstance(candidate, Mapping) and candidate and _is_weights(candidate):
            return dict(candidate)
    raise CheckpointError(
        f"checkpoint {path} holds no weights; it must be a state_dict or a dictionary with one "
        f"under {', '.join(WRAPPERS)}."
    )


def _is_weights(candidate: Mapping[Any, Any]) -> bool:
    return all(isinstance(k, str) and isinstance(v, Tensor) for k, v in candidate.items())


def _check_names(path: Path, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    advice = "give the YAML configuration that this checkpoint was trained with."
    for name, value in wanted.items():
        if name not in found:
            raise CheckpointError(
                f"checkpoint {path} lacks '{name}' that its configuration asks for; {advice}"
            )
        if found[name].shape != value.shape:
            raise CheckpointError(
                f"checkpoint {path} has '{name}' of shape {tuple(found[name].shape)} but its "
                f"configuration asks for {tuple(value.shape)}; {advice}"
            )
    for name in found:
        if name not in wanted:
            raise CheckpointError(
                f"checkpoint {path} has '{name}' that its configuration has no place for; {advice}"
            )


def _find_config(
    path: Path, weights: Mapping[str, Tensor], config: str | Path | None
) -> ModelConfig:
    """Read a configuration, from the file that is given, the one beside, or the weights."""
    said: dict[str, float] = {}
    if isinstance(config, str) and "=" in config and not Path(config).exists():
        said = parse_pairs("--model-config", config.split(","), {"m": _M})
    elif config is not None:
        return read_config(config)
    beside = path.with_name(path.name.removesuffix(".tar")).with_suffix(".yaml")
    if said or not beside.is_file():
        published = published_config(path, fit_names(weights, PUBLISHED_NAMES), said)
        if published is not None:
            return published
    if not beside.is_file():
        raise ConfigError(
            f"there is no {beside} beside the checkpoint; give its YAML configuration by name."
        )
    return read_config(beside)


def _unreadable(path: Path, error: OSError) -> str:
    reason = error.strerror or "it cannot be read"
    return (
        f"cannot read checkpoint {path} ({reason}); give the path of a state_dict file, or one of "
        f"the names {', '.join(ZOO)}."
    )
