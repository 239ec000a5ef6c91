"""Proven l-infinity radii of equilibrium networks: zonotopes, adjoint bounds and branches."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from deqcert.certifiers.certificate import Certificate, Norm
from deqcert.certifiers.goals import Goal, Radii, UntilSettled
from deqcert.certifiers.proving import IN_BOX, ProvingCertifier
from deqcert.options import check_options, number

if TYPE_CHECKING:
    from deqcert.models import ImplicitModel
    from deqcert.proofs.boxes import Boxes
    from deqcert.smoothing import Input


@dataclass(frozen=True, slots=True)
class ZonotopeDetails:
    """What a certificate from zonotopes rests on.

    Attributes:
        rival: Class that limits the radius, at the smallest one that was not proven; at the
            largest that was, where all were.
        refuted: Smallest radius at which an input with another class was found, in float64; None
            where none was. The best radius of any proof is below it.
        bounds: Linear bounds that were computed, branches included.
    """

    rival: int
    refuted: float | None
    bounds: int


@dataclass(frozen=True)
class Zonotope(ProvingCertifier, UntilSettled):
    """Prove an l-infinity radius of an equilibrium network; no noise is drawn.

    A ball and then zonotopes bound what enters every relu over the box. Each lead of the class over
    another is bounded through an adjoint equilibrium, and where that is not enough relus are split
    into on and off. The largest radius is found by halving.

    Args:
        eps: Largest radius that is looked for, in pixel units; a goal of radii asks for these
            alone.
        resolution: How near to a radius that is not proven the search comes.
        rounds: Most rounds of zonotopes. Later rounds gain little.
        steps: Steps that improve the slopes of each bound.
        branches: Bounds that may be spent per radius on branches; 0 splits nothing, which is
            quicker and proves less.

    Raises:
        ConfigError: If a number is out of range.

    **Guarantee:** alpha = 0. Let F be the classifier that computes the exact equilibrium of the
    stored weights for a real input, in exact arithmetic. The certificate abstains, or F answers
    ``prediction`` at every real input in [0, 1] within ``radius`` of this one in l-infinity. Every
    rounding of the proof's own arithmetic is bounded and charged. Assumed: the standard model of
    floating-point arithmetic in float64.

    **Source:** docs/proofs.md; zonotopes after M. N. Müller, R. Staab, M. Fischer, M. Vechev
    (2023), branches after S. Wang and others, "Beta-CROWN" (2021).
    """

    name: ClassVar[str] = "zonotope"
    norm: ClassVar[Norm] = "linf"
    record: ClassVar[type[ZonotopeDetails] | None] = ZonotopeDetails

    def __post_init__(self) -> None:
        check_options(self)

    eps: float = number(1.0, above=0, high=1, whole=False)
    resolution: float = number(1e-3, above=0, high=1, whole=False)
    rounds: int = number(4, low=0, high=1000)
    steps: int = number(2, low=0, high=1000)
    branches: int = number(3000, low=0)

    def check(self, subject: ImplicitModel) -> None:
        """Refuse a model that is not a relu layer with a proven equilibrium.

        Raises:
            ConfigError: If it is none, or nothing is proven of its weights.
        """
        self._boxes(subject)

    def certify(self, subject: ImplicitModel, input: Input) -> Certificate:
        """Certify one input; see :meth:`Certifier.certify`."""
        import torch

        began = time.perf_counter()
        boxes = self._boxes(subject)
        before = boxes.nfe
        x = torch.as_tensor(input.x, dtype=torch.float64)[None]
        best = boxes.classes(x)
        bounds, rivals, refuted = 0, {True: (0.0, -1), False: (math.inf, -1)}, math.inf

        def proves(radius: float) -> bool:
            nonlocal bounds, refuted
            found = boxes.decide(x, torch.tensor([radius], dtype=torch.float64), best)
            proven = bool(found.proven)
            nearer = max if proven else min
            rivals[proven] = nearer(rivals[proven], (radius, int(found.rival)))
            bounds += int(found.bounds)
            if bool(found.refuted):
                refuted = min(refuted, radius)
            return proven

        proven = proves(0.0)
        radius = self._largest(proves) if proven else 0.0
        return self.proven(
            int(best) if proven else None,
            radius,
            nfe=boxes.nfe - before,
            began=began,
            details=ZonotopeDetails(
                rival=rivals[rivals[False][1] < 0][1],
                refuted=refuted if math.isfinite(refuted) else None,
                bounds=bounds,
            ),
        )

    def assumptions(self) -> str:
        """Say what the certificate is about."""
        return IN_BOX

    def _boxes(self, subject: ImplicitModel) -> Boxes:
        from deqcert.proofs.boxes import boxes_of

        return boxes_of(subject, rounds=self.rounds, steps=self.steps, branches=self.branches)

    def _largest(self, proves: Callable[[float], bool]) -> float:
        return largest_proven(proves, self.eps, self.resolution, self.goal)


def largest_proven(
    proves: Callable[[float], bool], limit: float, resolution: float, goal: Goal | None
) -> float:
    """Find the largest radius that a proof reaches for one input, as far as a goal asks.

    Args:
        proves: Whether a radius is proven; one that is should be so at smaller ones.
        limit: Largest radius tried, above 0; tried first. A goal of radii tries these alone.
        resolution: Largest difference to a radius that was tried and failed, above 0.
        goal: When to stop earlier; None for no sooner.

    Returns:
        The largest radius that ``proves`` accepted; 0 if it accepted none.
    """
    low, failed = 0.0, math.inf
    while True:
        if isinstance(goal, Radii):
            left = [radius for radius in goal.radii if low < radius < failed]
            if not left:
                return low
            trial = left[len(left) // 2]
        elif failed == math.inf:
            if low >= limit:
                return low
            trial = limit
        else:
            now, best = np.array(low), np.array(failed)
            if failed - low <= resolution or (goal is not None and goal.settled(now, best)):
                return low
            trial = low + (failed - low) / 2.0
        if proves(trial):
            low = trial
        else:
            failed = trial
