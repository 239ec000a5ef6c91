"""Certificates from votes: one file a method, bounds that take integers, metrics over inputs."""

from __future__ import annotations

from deqcert.certify.base import Certifier, Stage
from deqcert.certify.certificate import Certificate
from deqcert.certify.predict import predict
from deqcert.certify.registry import certifier_names, get_certifier, is_sound

__all__ = [
    "Certificate",
    "Certifier",
    "Stage",
    "certifier_names",
    "get_certifier",
    "is_sound",
    "predict",
]
