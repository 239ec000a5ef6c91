from .base import Certifier
from .certificate import NORMS, Certificate, NoiseDetails, Norm
from .prediction import predict
from .registry import CERTIFIERS, default_method, get_certifier, make_certifier
from .smoothed import SmoothingCertifier

__all__ = [
    "CERTIFIERS",
    "NORMS",
    "Certificate",
    "Certifier",
    "NoiseDetails",
    "Norm",
    "SmoothingCertifier",
    "default_method",
    "get_certifier",
    "make_certifier",
    "predict",
]
