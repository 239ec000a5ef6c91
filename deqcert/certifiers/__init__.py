"""Certificates for inputs: one file per method, bounds that take integers, metrics over inputs."""

from __future__ import annotations

from deqcert.certifiers.base import Certifier
from deqcert.certifiers.certificate import NORMS, Certificate, NoiseDetails, Norm
from deqcert.certifiers.prediction import predict
from deqcert.certifiers.registry import (
    CERTIFIERS,
    default_method,
    get_certifier,
    make_certifier,
)
from deqcert.certifiers.smoothed import SmoothingCertifier

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
