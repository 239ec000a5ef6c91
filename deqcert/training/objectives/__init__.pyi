from .adaptive import Adaptive
from .base import Forward, Objective, Prove, TrainingBatch, each, log_average
from .certified import Certified
from .consistency import Consistency
from .crown_ibp import CrownIbp
from .distill import Distill
from .faithful import Faithful
from .fixed_radius import FixedRadius
from .gaussian import Gaussian
from .macer import Macer
from .small_box import SmallBox
from .smoothadv import SmoothAdv

__all__ = [
    "Adaptive",
    "Certified",
    "Consistency",
    "CrownIbp",
    "Distill",
    "Faithful",
    "FixedRadius",
    "Forward",
    "Gaussian",
    "Macer",
    "Objective",
    "Prove",
    "SmallBox",
    "SmoothAdv",
    "TrainingBatch",
    "each",
    "log_average",
]
