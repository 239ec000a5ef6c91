from .base import Forward, Objective, TrainingBatch, each, log_average
from .consistency import Consistency
from .gaussian import Gaussian
from .macer import Macer
from .smoothadv import SmoothAdv

__all__ = [
    "Consistency",
    "Forward",
    "Gaussian",
    "Macer",
    "Objective",
    "SmoothAdv",
    "TrainingBatch",
    "each",
    "log_average",
]
