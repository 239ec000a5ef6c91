"""Radii from latents over an estimated constant: NOT SOUND, for comparison with the literature."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from deqcert.certifiers.base import Certifier
from deqcert.certifiers.certificate import LARGEST_RADIUS, Certificate
from deqcert.certifiers.latent import FORMULAS
from deqcert.options import check_options, choice, number

if TYPE_CHECKING:
    from deqcert.models import ImplicitModel
    from deqcert.smoothing import Input


@dataclass(frozen=True, slots=True)
class LatentEstimate:
    """What an estimated radius rests on.

    Attributes:
        rival: Class that limits the latent radius.
        reach: Latent radius of the latent that was solved for, its error not charged.
        estimate: Estimated slope of the encoder in the ball, latent units per pixel unit.
        largest: The largest slope that was seen: the Lipschitz constant is at least about that.
        points: Points at which a slope was taken.
    """

    rival: int
    reach: float
    estimate: float
    largest: float
    points: int


@dataclass(frozen=True)
class LatentEstimated(Certifier["ImplicitModel"]):
    """Divide the latent radius by an estimate of the encoder's constant, as published.

    With T(z) the distance from the latent z to where the head answers another class, and L an
    *estimate* of how fast the latent moves within ``ball`` of the image, R = min(T / L, ball). For
    any model with a fitted head, an MDEQ too.

    Args:
        formula: How T is computed: "exact", or "published", which is never larger and for qda.
        ball: l2 size of the ball that slopes are sampled in, in pixel units. No radius is larger.
        batches: Batches of points, whose largest slopes the estimate is an extrapolation of.
        points: Points per batch. The publication of the estimate takes hundreds of each.
        tol: Relative residual that ends a solve.
        max_nfe: Most cell evaluations of a solve.

    Raises:
        ConfigError: If a number is out of range.

    **Guarantee:** none. A slope between the sampled points is not seen; on a network of two units
    it reports 0.5 where another class is 0.32 away (docs/latents.md), every time. It exists to be
    compared with published numbers and is never a default.

    **Source:** K. Emmanouilidis, T. Ding, N. Nguyen, N. Loizou, R. Vidal (2026), whose encoders
    have an estimated constant; the estimate is in the manner of CLEVER (Weng et al. 2018).
    """

    name: ClassVar[str] = "latent-estimated"
    sound: ClassVar[bool] = False
    record: ClassVar[type[LatentEstimate] | None] = LatentEstimate

    def __post_init__(self) -> None:
        check_options(self)

    formula: str = choice("exact", FORMULAS)
    ball: float = number(0.5, above=0, high=LARGEST_RADIUS, whole=False)
    batches: int = number(10, low=2, high=10_000)
    points: int = number(10, low=1, high=10_000)
    tol: float = number(1e-4, above=0, high=1, whole=False)
    max_nfe: int = number(100, low=1)

    def check(self, subject: ImplicitModel) -> None:
        """Refuse a model without a fitted head, and a formula that is not about its head.

        Raises:
            ConfigError: If it is of that kind.
        """
        from deqcert.latents.estimate import check_head

        check_head(subject, self.name, published=self.formula == "published")

    def certify(self, subject: ImplicitModel, input: Input) -> Certificate:
        """Estimate a radius for one input; see :meth:`Certifier.certify`."""
        from deqcert.latents.estimate import check_head, estimate_reach
        from deqcert.solvers import StopRule

        began = time.perf_counter()
        head = check_head(subject, self.name, published=self.formula == "published")
        found = estimate_reach(
            head,
            input.x,
            published=self.formula == "published",
            ball=self.ball,
            batches=self.batches,
            points=self.points,
            stop=StopRule(tol=self.tol, max_nfe=self.max_nfe),
            seed=input.index,
        )
        return Certificate(
            prediction=found.best if found.radius > 0.0 else None,
            radius=found.radius,
            norm=self.norm,
            alpha=0.0,
            method=self.name,
            sound=self.sound,
            assumptions=self.assumptions(),
            nfe=found.nfe,
            seconds=time.perf_counter() - began,
            details=LatentEstimate(
                found.rival,
                found.reach,
                found.slopes.estimate,
                found.slopes.largest,
                self.batches * self.points,
            ),
        )

    def assumptions(self) -> str:
        """Warn."""
        return (
            "UNSOUND: an ESTIMATE from sampled slopes of the encoder, kept to compare with "
            f"published numbers; no perturbation is excluded by it; latent radius: {self.formula}"
        )
