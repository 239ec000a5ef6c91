"""Serialized smoothing with an audit that is better spent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from deqcert.certifiers.audit import Audit
from deqcert.certifiers.audited import Audited, audit_generator
from deqcert.certifiers.bounds import certified_radius
from deqcert.certifiers.goals import UntilSettled, refuse_goal
from deqcert.smoothing.stage import Stage

if TYPE_CHECKING:
    from deqcert.certifiers.certificate import Certificate
    from deqcert.smoothing import Input, SmoothingEngine, Votes


@dataclass(frozen=True, kw_only=True)
class SerializedStrata(Audited, UntilSettled):
    """Certify from votes of any predictor, after an audit that looks where faults are likely.

    The voters for the class A are ordered by the margin of their own vote. Blocks of the smallest
    margins are audited whole, as long as a quarter of a block was wrong and at most to a quarter of
    the audit: their disagreements are known, not estimated. A random part of all other voters is
    audited after that; with a goal it grows until the goal is settled. Alpha is split between audit
    and estimate as is best for a unanimous vote without disagreements, fixed by n, audit and alpha.

    Args:
        alpha: Probability that a certificate may be wrong, in all.
        audit: Votes that are solved again by the reference at most, up to n; 1000, or n if that is
            less, where nothing is given.

    Raises:
        ConfigError: As for ``serialized``.

    **Guarantee:** with probability at least 1 - alpha over the noise and the draw of the audit, the
    certificate abstains or the classifier smoothed from ``reference`` answers ``prediction`` at
    every point within ``radius`` of the input, whenever the audit stops. Nothing is assumed of
    ``predictor`` or of its margins.

    **Source:** docs/bounds.md; the sequence is that of Waudby-Smith and Ramdas (2020).
    """

    name: ClassVar[str] = "serialized-strata"

    def best_p_lower(self) -> float:
        """Return the bound of a unanimous vote without disagreements."""
        return Audit(self.n, self.audit, self.alpha, self.goal).best(self.n)

    def check(self, engine: SmoothingEngine) -> None:
        """Refuse a goal that no vote could reach with this noise; see :meth:`Certifier.check`."""
        refuse_goal(
            self.goal,
            certified_radius(self.best_p_lower(), engine.sigma),
            f"n={self.n}, an audit of {self.audit}, alpha {self.alpha:g} and sigma "
            f"{engine.sigma:g}",
            "raise audit",
        )

    def certify(self, engine: SmoothingEngine, input: Input) -> Certificate:
        """Certify one input; see :meth:`Certifier.certify`."""
        self.check(engine)
        guess, selection = self.select(engine, input)
        if guess is None:
            return self.certificate(engine, None, 0.0, (selection,))
        estimate = engine.votes(self.predictor, input, Stage.ESTIMATE, self.n)
        voters = np.flatnonzero(estimate.predictions == guess)
        voters = voters[np.argsort(estimate.margins[voters], kind="stable")]
        spent: list[Votes] = [selection, estimate]

        def judge(numbers: NDArray[np.int64]) -> int:
            chosen = voters[numbers]
            spent.append(engine.classify(self.reference, input, Stage.ESTIMATE, chosen))
            return int(np.sum(spent[-1].predictions != guess))

        found = Audit(self.n, self.audit, self.alpha, self.goal).run(
            len(voters),
            judge,
            audit_generator(engine, input.index),
            sigma=engine.sigma,
            batch=engine.batch,
        )
        return self.certificate(
            engine,
            guess,
            found.p_lower,
            tuple(spent),
            votes=len(voters),
            audited=found.audited,
            disagreements=found.disagreements,
        )

    def assumptions(self) -> str:
        """Say what the certificate is about, and why it has as many audits as it has."""
        return self.until_settled(super().assumptions(), f"{self.audit} audited")
