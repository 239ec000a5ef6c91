from .architectures import ARCHITECTURES, architecture, read_config
from .base import (
    EnclosedModel,
    FoldableModel,
    ImplicitModel,
    IntervalModel,
    LatentModel,
    LipschitzModel,
    MappedModel,
    ModelConfig,
    NarrowableModel,
    PrescribedModel,
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
from .interval import IntervalConfig, IntervalDEQ
from .interval_form import Affine, IntervalBounds, IntervalForm, pixel_box
from .lipschitz_bounded import LipschitzBoundedConfig, LipschitzBoundedDEQ
from .lipschitz_conv import LipschitzConvConfig, LipschitzConvDEQ
from .mdeq import MDEQ
from .monotone import MonotoneConfig, MonotoneDEQ
from .monotone_conv import MonotoneConvConfig, MonotoneConvDEQ
from .monotone_multi_tier import MonotoneMultiTierConfig, MonotoneMultiTierDEQ
from .normalize import Normalize
from .relu_form import ReluForm
from .state import StateLayout
from .zoo import ZOO, checkpoint_path

__all__ = [
    "ARCHITECTURES",
    "FORMS",
    "MDEQ",
    "ZOO",
    "Affine",
    "ContractiveConfig",
    "ContractiveDEQ",
    "EnclosedModel",
    "FoldableModel",
    "HeadedConfig",
    "HeadedModel",
    "ImplicitClassifier",
    "ImplicitModel",
    "IntervalBounds",
    "IntervalConfig",
    "IntervalDEQ",
    "IntervalForm",
    "IntervalModel",
    "LatentModel",
    "LipschitzBoundedConfig",
    "LipschitzBoundedDEQ",
    "LipschitzConvConfig",
    "LipschitzConvDEQ",
    "LipschitzModel",
    "MDEQConfig",
    "MappedModel",
    "ModelConfig",
    "MonotoneConfig",
    "MonotoneConvConfig",
    "MonotoneConvDEQ",
    "MonotoneDEQ",
    "MonotoneMultiTierConfig",
    "MonotoneMultiTierDEQ",
    "NarrowableModel",
    "Normalize",
    "PrescribedModel",
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
    "pixel_box",
    "read_config",
    "with_head",
]
