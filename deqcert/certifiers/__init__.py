"""Certificates from votes: one file a method, bounds that take integers, metrics over inputs."""

from __future__ import annotations

from deqcert.certifiers.base import Certifier
from deqcert.certifiers.certificate import Certificate
from deqcert.certifiers.predict import predict
from deqcert.certifiers.registry import certifier_names, get_certifier, is_sound

__all__ = [
    "Certificate",
    "Certifier",
    "certifier_names",
    "get_certifier",
    "is_sound",
    "predict",
]
