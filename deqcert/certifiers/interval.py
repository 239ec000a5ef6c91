"""Proven l-infinity radii from intervals that hold the equilibria of a box of inputs."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from deqcert.certifiers.certificate import Certificate, Norm
from deqcert.certifiers.proving import IN_BOX, ProvingCertifier
from deqcert.options import check_options, number

if TYPE_CHECKING:
    from deqcert.models import ImplicitModel
    from deqcert.proofs.intervals import Intervals
    from deqcert.smoothing import Input

SPLIT = 16
"""Parts of an interval of radii that are tried together, which one image is quick with."""


@dataclass(frozen=True, slots=True)
class IntervalDetails:
    """What a certificate from intervals rests on.

    Attributes:
        rival: Class that the certified one leads least over.
        gap: Lower bound of that lead, in logits, everywhere within the radius.
        eps: Largest radius that was looked for.
    """

    rival: int
    gap: float
    eps: float


@dataclass(frozen=True)
class Interval(ProvingCertifier):
    """Prove an l-infinity radius by interval bound propagation; no noise is drawn.

    Of an interval model the interval fixed point over a box of inputs is widened until it is proven
    to be a post-fixed point: a box of states that every input maps into itself. Of a monotone model
    a ball that holds all equilibria a priori is intersected with interval images. In both the last
    layer is merged with the differences of classes. The largest radius is found by a search, and
    the radius that is returned was itself proven.

    Args:
        eps: Largest radius that is looked for, in pixel units of [0, 1].
        resolution: How near the search comes to the first radius that is not proven.
        tol: Relative residual that ends the solve of an interval fixed point, in float64. What is
            left of the error is bounded and charged, so a larger one only makes radii smaller.
        max_nfe: Most evaluations of a solve, or steps of narrowing, per radius.

    Raises:
        ConfigError: If a number is out of range.

    **Guarantee:** alpha = 0. Let F be the classifier that computes the exact equilibrium of the
    stored weights for a real input, in exact arithmetic. The certificate abstains, or F answers
    ``prediction`` at every real input in [0, 1] within ``radius`` of this one in l-infinity. Every
    rounding of the proof's own arithmetic is bounded and charged. Assumed: the standard model of
    floating-point arithmetic in float64.

    **Source:** C. Wei, J. Z. Kolter, "Certified robustness for deep equilibrium models via interval
    bound propagation" (2022), for intervals at an equilibrium; docs/proofs.md.
    """

    name: ClassVar[str] = "interval"
    norm: ClassVar[Norm] = "linf"
    record: ClassVar[type[IntervalDetails] | None] = IntervalDetails

    def __post_init__(self) -> None:
        check_options(self)

    eps: float = number(1.0, above=0, high=1, whole=False)
    resolution: float = number(1e-4, low=1e-6, high=1, whole=False)
    tol: float = number(1e-7, above=0, high=1, whole=False)
    max_nfe: int = number(1000, low=1)

    def check(self, subject: ImplicitModel) -> None:
        """Refuse a model without intervals.

        Raises:
            ConfigError: If it offers none, or they are not proven for its weights.
        """
        self._intervals(subject)

    def certify(self, subject: ImplicitModel, input: Input) -> Certificate:
        """Certify one input; see :meth:`Certifier.certify`."""
        import torch

        began = time.perf_counter()
        x = torch.as_tensor(input.x, dtype=torch.float64)[None]
        (found,) = self._intervals(subject).reach(
            x, self.eps, resolution=self.resolution, split=SPLIT
        )
        return self.proven(
            found.best if found.proven else None,
            found.radius,
            nfe=found.nfe,
            began=began,
            details=IntervalDetails(found.rival, found.gap, self.eps),
        )

    def assumptions(self) -> str:
        """Say what the certificate is about."""
        return IN_BOX

    def _intervals(self, subject: ImplicitModel) -> Intervals:
        from deqcert.proofs.intervals import intervals_of

        return intervals_of(subject, tol=self.tol, max_nfe=self.max_nfe)
