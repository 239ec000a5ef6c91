from .base import Forward, Objective, TrainingBatch, each, log_average
from .consistency import Consistency
from .faithful import Faithful
from .gaussian import Gaussian
from .macer import Macer
from .smoothadv import SmoothAdv

__all__ = [
    "Consistency",
    "Faithful",
    "Forward",
    "Gaussian",
    "Macer",
    "Objective",
    "SmoothAdv",
    "TrainingBatch",
    "each",
    "log_average",
]
