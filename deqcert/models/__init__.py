"""Implicit models: the protocols, the multiscale DEQ, a contractive one, forms and checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deqcert.lazy import lazy

if TYPE_CHECKING:
    from deqcert.models.architectures import ARCHITECTURES as ARCHITECTURES
    from deqcert.models.architectures import architecture as architecture
    from deqcert.models.architectures import read_config as read_config
    from deqcert.models.base import EnclosedModel as EnclosedModel
    from deqcert.models.base import FoldableModel as FoldableModel
    from deqcert.models.base import ImplicitModel as ImplicitModel
    from deqcert.models.base import MappedModel as MappedModel
    from deqcert.models.base import ModelConfig as ModelConfig
    from deqcert.models.base import TrainableModel as TrainableModel
    from deqcert.models.checkpoints import file_hash as file_hash
    from deqcert.models.checkpoints import load_model as load_model
    from deqcert.models.config import MDEQConfig as MDEQConfig
    from deqcert.models.contractive import ContractiveConfig as ContractiveConfig
    from deqcert.models.contractive import ContractiveDEQ as ContractiveDEQ
    from deqcert.models.folding import fold as fold
    from deqcert.models.forms import FORMS as FORMS
    from deqcert.models.forms import form_names as form_names
    from deqcert.models.forms import in_form as in_form
    from deqcert.models.mdeq import MDEQ as MDEQ
    from deqcert.models.normalize import Normalize as Normalize
    from deqcert.models.old_names import Config as Config
    from deqcert.models.old_names import Model as Model
    from deqcert.models.old_names import build_model as build_model
    from deqcert.models.old_names import preset as preset
    from deqcert.models.old_names import preset_names as preset_names
    from deqcert.models.state import StateLayout as StateLayout
    from deqcert.models.zoo import ZOO as ZOO
    from deqcert.models.zoo import checkpoint_path as checkpoint_path

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "deqcert.models.architectures": ["ARCHITECTURES", "architecture", "read_config"],
        "deqcert.models.base": [
            *("EnclosedModel", "FoldableModel", "ImplicitModel", "MappedModel"),
            *("ModelConfig", "TrainableModel"),
        ],
        "deqcert.models.checkpoints": ["file_hash", "load_model"],
        "deqcert.models.config": ["MDEQConfig"],
        "deqcert.models.contractive": ["ContractiveConfig", "ContractiveDEQ"],
        "deqcert.models.folding": ["fold"],
        "deqcert.models.forms": ["FORMS", "form_names", "in_form"],
        "deqcert.models.mdeq": ["MDEQ"],
        "deqcert.models.normalize": ["Normalize"],
        "deqcert.models.old_names": ["Config", "Model", "build_model", "preset", "preset_names"],
        "deqcert.models.state": ["StateLayout"],
        "deqcert.models.zoo": ["ZOO", "checkpoint_path"],
    },
)
