"""Proven radii from latents: how far they are from another class, over the encoder's constant."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from deqcert.certifiers.certificate import Certificate
from deqcert.certifiers.proving import ProvingCertifier
from deqcert.options import check_options, choice, number

if TYPE_CHECKING:
    from deqcert.latents.reach import LatentReach
    from deqcert.models import ImplicitModel
    from deqcert.smoothing import Input

FORMULAS = ("exact", "published")
"""How the latent radius is computed: the exact distance, or the smaller one of the publication."""


@dataclass(frozen=True, slots=True)
class LatentDetails:
    """What a certificate from a latent rests on.

    Attributes:
        rival: Class that limits the radius.
        reach: Latent radius: how far the exact equilibrium's latent is from another class.
        lipschitz: Proven constant of the encoder, latent units per pixel unit.
        error: Distance from the exact latent that was charged to the latent radius.
    """

    rival: int
    reach: float
    lipschitz: float
    error: float


@dataclass(frozen=True)
class Latent(ProvingCertifier):
    """Prove an l2 radius from a Gaussian head: latent radius over the encoder's constant.

    With T(z) the distance from the latent z to where the head answers another class, and L a
    Lipschitz constant of x -> z that is proven over all inputs, R = T(z) / L.

    Args:
        formula: How T is computed: "exact", or "published", which is never larger.
        tol: Relative residual that ends a solve, in float64. What is left of the error is bounded
            and charged to T.
        max_nfe: Most cell evaluations of a solve.

    Raises:
        ConfigError: If a number is out of range.

    **Guarantee:** alpha = 0. Let F be the classifier that reads the exact equilibrium of the stored
    weights with the stored head, in exact arithmetic. The certificate abstains, or F answers
    ``prediction`` at every real input within ``radius`` of this one in l2. With ``formula`` exact,
    every rounding is charged. That the latents are Gaussian is not used.

    **Source:** docs/latents.md; the two-step rule is that of K. Emmanouilidis, T. Ding, N. Nguyen,
    N. Loizou, R. Vidal (2026), who divide by an estimate of L; here L is proven.
    """

    name: ClassVar[str] = "latent"
    record: ClassVar[type[LatentDetails] | None] = LatentDetails

    def __post_init__(self) -> None:
        check_options(self)

    formula: str = choice("exact", FORMULAS)
    tol: float = number(1e-10, above=0, high=1, whole=False)
    max_nfe: int = number(1000, low=1)

    def check(self, subject: ImplicitModel) -> None:
        """Refuse a model without a fitted head, or an encoder without a proven constant.

        Raises:
            ConfigError: If it is of that kind, or ``formula`` does not fit its head.
        """
        from deqcert.latents.estimate import check_head

        check_head(subject, self.name, published=self.formula == "published")
        self._reach(subject)

    def certify(self, subject: ImplicitModel, input: Input) -> Certificate:
        """Certify one input; see :meth:`Certifier.certify`."""
        began = time.perf_counter()
        reach = self._reach(subject)
        found = reach.at(input.x, formula=self.formula, tol=self.tol, depth=self.max_nfe)
        radius = found.radius
        return self.proven(
            found.best if radius > 0.0 else None,
            radius,
            nfe=found.nfe,
            began=began,
            details=LatentDetails(found.rival, found.reach, reach.lipschitz, found.error),
        )

    def assumptions(self) -> str:
        """Say what the certificate is about."""
        return (
            "proven, without noise, for the classifier that reads the exact equilibrium of the "
            "stored weights with the stored head, over all real inputs within the radius (l2); "
            f"latent radius: {self.formula}"
        )

    def _reach(self, subject: ImplicitModel) -> LatentReach:
        from deqcert.latents.reach import reach_of

        return reach_of(subject)
