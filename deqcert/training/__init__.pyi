from .config import TrainConfig
from .loop import train
from .registry import AUGMENTATIONS, OBJECTIVES, get_objective, objective_options
from .starts import StartConfig, train_start

__all__ = [
    "AUGMENTATIONS",
    "OBJECTIVES",
    "StartConfig",
    "TrainConfig",
    "get_objective",
    "objective_options",
    "train",
    "train_start",
]
