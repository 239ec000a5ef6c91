from .architectures import ARCHITECTURES, architecture, read_config
from .base import (
    EnclosedModel,
    FoldableModel,
    ImplicitModel,
    MappedModel,
    ModelConfig,
    TrainableModel,
)
from .checkpoints import file_hash, load_model
from .config import MDEQConfig
from .contractive import ContractiveConfig, ContractiveDEQ
from .folding import fold
from .forms import FORMS, form_names, in_form
from .functions import ImplicitClassifier
from .mdeq import MDEQ
from .normalize import Normalize
from .old_names import Config, Model, build_model, preset, preset_names
from .state import StateLayout
from .zoo import ZOO, checkpoint_path

__all__ = [
    "ARCHITECTURES",
    "FORMS",
    "MDEQ",
    "ZOO",
    "Config",
    "ContractiveConfig",
    "ContractiveDEQ",
    "EnclosedModel",
    "FoldableModel",
    "ImplicitClassifier",
    "ImplicitModel",
    "MDEQConfig",
    "MappedModel",
    "Model",
    "ModelConfig",
    "Normalize",
    "StateLayout",
    "TrainableModel",
    "architecture",
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
