from .adaptive import Adaptive
from .base import Forward, Objective, Prove, TrainingBatch, each, log_average
from .certified import Certified
from .consistency import Consistency
from .faithful import Faithful
from .fixed_radius import FixedRadius
from .gaussian import Gaussian
from .macer import Macer
from .smoothadv import SmoothAdv

__all__ = [
    "Adaptive",
    "Certified",
    "Consistency",
    "Faithful",
    "FixedRadius",
    "Forward",
    "Gaussian",
    "Macer",
    "Objective",
    "Prove",
    "SmoothAdv",
    "TrainingBatch",
    "each",
    "log_average",
]
