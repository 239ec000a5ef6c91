"""What all certifiers that prove, without noise, have in common."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deqcert.certifiers.base import Certifier
from deqcert.certifiers.certificate import LARGEST_RADIUS, Certificate
from deqcert.smoothing.naming import EXACT

if TYPE_CHECKING:
    from deqcert.models import ImplicitModel  # noqa: F401  # in the name of the base class

IN_BOX = (
    "proven, without noise, for the classifier that computes the exact equilibrium of the "
    "stored weights, over all real inputs in [0, 1] within the radius (linf)"
)
"""What a certificate over an l-infinity box of pixels is about."""


@dataclass(frozen=True)
class ProvingCertifier(Certifier["ImplicitModel"]):
    """Prove of the exact equilibrium of the stored weights; alpha is 0."""

    def about(self) -> str:
        """Name the classifier that the certificates are about; see :meth:`Certifier.about`."""
        return EXACT

    def proven(
        self, prediction: int | None, radius: float, *, nfe: float, began: float, details: Any
    ) -> Certificate:
        """Put a certificate together.

        Args:
            prediction: The class that is proven; None abstains.
            radius: The proven radius; infinity is the largest that is believed.
            nfe: Cell evaluations.
            began: When work on the input began, by :func:`time.perf_counter`.
            details: An object of the certifier's ``record``.
        """
        return Certificate(
            prediction=prediction,
            radius=min(radius, LARGEST_RADIUS),
            norm=self.norm,
            alpha=0.0,
            method=self.name,
            assumptions=self.assumptions(),
            nfe=nfe,
            seconds=time.perf_counter() - began,
            details=details,
        )
