"""Proven radii from Lipschitz constants: margins over them, no noise and no chance."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from deqcert.certifiers.certificate import Certificate
from deqcert.certifiers.proving import ProvingCertifier
from deqcert.options import check_options, choice, number
from deqcert.proofs.lipschitz import LOCAL, RULES

if TYPE_CHECKING:
    from deqcert.models import ImplicitModel
    from deqcert.proofs.margins import Margins
    from deqcert.smoothing import Input


CHEAP = "classical"
"""A rule whose constants cost nothing, to time a solve by."""


@dataclass(frozen=True, slots=True)
class LipschitzDetails:
    """What a certificate from Lipschitz constants rests on.

    Attributes:
        rival: Class that limits the radius.
        gap: Lower bound of the logit difference to it at the exact equilibrium.
        lipschitz: Upper bound of how fast that difference changes, per pixel unit; if the radius
            is local, of how much it can fall within the radius, over the radius.
        error: Distance from the exact equilibrium that was charged to the gap.
    """

    rival: int
    gap: float
    lipschitz: float
    error: float


@dataclass(frozen=True)
class Lipschitz(ProvingCertifier):
    """Prove an l2 radius from the margins of the exact equilibrium; no noise is drawn.

    With L_Aj a Lipschitz constant of logit A minus logit j over all inputs,

        R = min over j of (y_A - y_j) / L_Aj.

    Args:
        bound: How the constants are proven: "multiplier" (the smallest), or one of the classical
            ones to compare with: "classical" and "published". Computed once per network. "local"
            proves more around each input, by a search of some milliseconds whose cost grows with
            the cube of the state's size.
        tol: Relative residual that ends a solve, in float64. What is left of the error is bounded
            and charged to the margin, so a larger one only makes radii smaller.
        max_nfe: Most cell evaluations of a solve.

    Raises:
        ConfigError: If a number is out of range.

    **Guarantee:** alpha = 0. Let F be the classifier that computes the exact equilibrium of the
    stored weights for a real input, in exact arithmetic. The certificate abstains, or F answers
    ``prediction`` at every real input within ``radius`` of this one in l2, pixels outside [0, 1]
    included. Every rounding of the proof's own arithmetic is bounded and charged. Assumed: the
    standard model of floating-point arithmetic in float64.

    **Source:** docs/proofs.md; the rule of one constant per pair of classes is classical.
    """

    name: ClassVar[str] = "lipschitz"
    record: ClassVar[type[LipschitzDetails] | None] = LipschitzDetails

    def __post_init__(self) -> None:
        check_options(self)

    bound: str = choice("multiplier", (*RULES, LOCAL))
    tol: float = number(1e-10, above=0, high=1, whole=False)
    max_nfe: int = number(1000, low=1)

    def check(self, subject: ImplicitModel) -> None:
        """Refuse a model without proven constants.

        Raises:
            ConfigError: If it offers none, or they do not hold for its weights.
        """
        self._margins(subject)

    def certify(self, subject: ImplicitModel, input: Input) -> Certificate:
        """Certify one input; see :meth:`Certifier.certify`."""
        began = time.perf_counter()
        margins = self._margins(subject)
        found = margins.at(input.x, tol=self.tol, depth=self.max_nfe)
        radius, rival = margins.radius(found)
        proven = radius > 0.0
        gap, constant = float(found.gaps[rival]), float(margins.constants[found.best, rival])
        return self.proven(
            found.best if proven else None,
            radius if proven else 0.0,
            nfe=found.nfe,
            began=began,
            details=LipschitzDetails(
                rival=rival,
                gap=gap,
                lipschitz=min(constant, gap / radius) if proven else constant,
                error=found.error,
            ),
        )

    def notes(self, subject: ImplicitModel) -> dict[str, Any]:
        """Name the constants that a run used, and where their multipliers are kept."""
        from deqcert.proofs.kept import constants_hash

        margins = self._margins(subject)
        kept = margins.kept
        known: dict[str, Any] = {"rule": self.bound, "sha256": constants_hash(margins.constants)}
        if kept is not None and kept.file is not None:
            known |= {"file": str(kept.file), "read": kept.read, "searched": kept.searched}
        return {"constants": known}

    def forecast(self, subject: ImplicitModel, input: Input) -> tuple[float, float]:
        """Forecast the search for the constants by one pair of classes, and time a solve.

        Returns:
            Seconds for the constants, 0 where they are known or kept; and seconds for an input.
        """
        from deqcert.models import ProvenModel
        from deqcert.proofs import multiplier_bound
        from deqcert.proofs.margins import margins_known

        # A solve is the same by every rule, and this one's constants cost nothing.
        quick = dataclasses.replace(self, bound=CHEAP)
        quick.check(subject)
        each = quick.certify(subject, input).seconds
        if self.bound == LOCAL:
            began = time.perf_counter()
            around = quick._margins(subject).locally()
            around.radius(around.at(input.x, tol=self.tol, depth=self.max_nfe))
            each = time.perf_counter() - began
        if not isinstance(subject, ProvenModel) or margins_known(subject, self.bound):
            return 0.0, each
        began = time.perf_counter()
        form = subject.relu_form()
        multiplier_bound(form, form.readout[1] - form.readout[0])
        pairs = len(form.readout) * (len(form.readout) - 1) // 2
        return pairs * (time.perf_counter() - began), each

    def assumptions(self) -> str:
        """Say what the certificate is about."""
        return (
            "proven, without noise, for the classifier that computes the exact equilibrium of the "
            f"stored weights, over all real inputs within the radius (l2); constants: {self.bound}"
        )

    def _margins(self, subject: ImplicitModel) -> Margins:
        from deqcert.proofs.margins import margins_of

        return margins_of(subject, self.bound)
