from .architectures import ARCHITECTURES, architecture, read_config
from .base import (
    EnclosedModel,
    FoldableModel,
    ImplicitModel,
    LatentModel,
    MappedModel,
    ModelConfig,
    ProvenModel,
    TrainableModel,
)
from .checkpoints import file_hash, load_model
from .config import MDEQConfig
from .contractive import ContractiveConfig, ContractiveDEQ
from .folding import fold
from .forms import FORMS, form_names, in_form
from .functions import ImplicitClassifier
from .headed import HeadedConfig, HeadedModel, with_head
from .lipschitz_bounded import LipschitzBoundedConfig, LipschitzBoundedDEQ
from .mdeq import MDEQ
from .monotone import MonotoneConfig, MonotoneDEQ
from .monotone_conv import MonotoneConvConfig, MonotoneConvDEQ
from .normalize import Normalize
from .relu_form import ReluForm
from .state import StateLayout
from .zoo import ZOO, checkpoint_path

__all__ = [
    "ARCHITECTURES",
    "FORMS",
    "MDEQ",
    "ZOO",
    "ContractiveConfig",
    "ContractiveDEQ",
    "EnclosedModel",
    "FoldableModel",
    "HeadedConfig",
    "HeadedModel",
    "ImplicitClassifier",
    "ImplicitModel",
    "LatentModel",
    "LipschitzBoundedConfig",
    "LipschitzBoundedDEQ",
    "MDEQConfig",
    "MappedModel",
    "ModelConfig",
    "MonotoneConfig",
    "MonotoneConvConfig",
    "MonotoneConvDEQ",
    "MonotoneDEQ",
    "Normalize",
    "ProvenModel",
    "ReluForm",
    "StateLayout",
    "TrainableModel",
    "architecture",
    "checkpoint_path",
    "file_hash",
    "fold",
    "form_names",
    "in_form",
    "load_model",
    "read_config",
    "with_head",
]
