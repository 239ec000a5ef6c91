"""Implicit models: the protocol, the multiscale DEQ, a contractive one, and checkpoints."""

from __future__ import annotations

from deqcert.models.architectures import (
    Config,
    Model,
    build_model,
    preset,
    preset_names,
    read_config,
)
from deqcert.models.base import EnclosedModel, ImplicitModel, Normalize
from deqcert.models.checkpoints import checkpoint_path, file_hash, load_model
from deqcert.models.config import MDEQConfig
from deqcert.models.contractive import ContractiveConfig, ContractiveDEQ
from deqcert.models.folding import fold
from deqcert.models.forms import FORMS, form_names, in_form
from deqcert.models.functions import ImplicitClassifier
from deqcert.models.mdeq import MDEQ
from deqcert.models.state import StateLayout

__all__ = [
    "FORMS",
    "MDEQ",
    "Config",
    "ContractiveConfig",
    "ContractiveDEQ",
    "EnclosedModel",
    "ImplicitClassifier",
    "ImplicitModel",
    "MDEQConfig",
    "Model",
    "Normalize",
    "StateLayout",
    "build_model",
    "checkpoint_path",
    "file_hash",
    "fold",
    "form_names",
    "in_form",
    "load_model",
    "preset",
    "preset_names",
    "read_config",
]
