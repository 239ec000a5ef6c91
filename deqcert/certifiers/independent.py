"""Smoothing of any classifier whose solve depends on its own noisy input alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from deqcert.certifiers.bounds import certified_radius, lower_confidence_bound
from deqcert.certifiers.goals import UntilSettled, refuse_goal
from deqcert.certifiers.sampling import Sampling, looks, radii
from deqcert.certifiers.standard import Standard
from deqcert.smoothing.stage import Stage

if TYPE_CHECKING:
    from deqcert.certifiers.certificate import Certificate
    from deqcert.smoothing import Input, SmoothingEngine


@dataclass(frozen=True)
class Independent(Standard, UntilSettled):
    """Certify the classifier made of a start, a few solver steps, a stop rule and the readout.

    Where a solve starts and when it stops may be any function of its own noisy input, a learned
    one too: together with the readout it is the base classifier, and the certificate is about that
    one, not about the converged equilibrium. With a goal the samples are drawn until it is settled.

    Args:
        predictor: The base classifier; its start and its stop rule must be functions of the row.
        n: Noisy copies that bound the probability of the class; with a goal, the most of them.

    Raises:
        ConfigError: If the start or stop rule looks at other rows, a number is out of range, or n
            is too small for alpha.

    **Guarantee:** with probability at least 1 - alpha over the noise, the certificate abstains or
    the classifier smoothed from ``predictor`` answers ``prediction`` at every point within
    ``radius`` of the input; the same as without a goal, whenever sampling stops. Stopping draws no
    random number of its own.

    **Source:** Cohen, Rosenfeld, Kolter (2019), CERTIFY; with a goal, the confidence sequence of
    docs/bounds.md.
    """

    name: ClassVar[str] = "independent"

    def best_p_lower(self) -> float:
        """Return the bound of a unanimous vote of all n samples."""
        if self.goal is None:
            return super().best_p_lower()
        return float(Sampling(self.n, self.alpha).p_lower(self.n, self.n))

    def too_small(self) -> str:
        """Say that even a unanimous vote certifies nothing, and what would."""
        share = 1.0 if self.goal is None else 0.5
        least = self.n
        while not lower_confidence_bound(least, least, share * self.alpha) > 0.5:
            least += 1
        return (
            f"n is {self.n}, too few samples to certify anything at alpha {self.alpha:g}; "
            f"n must be at least {least}."
        )

    def check(self, engine: SmoothingEngine) -> None:
        """Refuse a goal that no vote could reach with this noise; see :meth:`Certifier.check`."""
        refuse_goal(
            self.goal,
            certified_radius(self.best_p_lower(), engine.sigma),
            f"n={self.n}, alpha {self.alpha:g} and sigma {engine.sigma:g}",
            "raise n",
        )

    def certify(self, engine: SmoothingEngine, input: Input) -> Certificate:
        """Certify one input; see :meth:`Certifier.certify`."""
        if self.goal is None:
            return super().certify(engine, input)
        self.check(engine)
        guess, selection = self.select(engine, input)
        if guess is None:
            return self.certificate(engine, None, 0.0, (selection,))
        sampling, parts = Sampling(self.n, self.alpha), [selection]
        votes = drawn = 0
        p_lower = 0.0
        for look in looks(self.n, engine.batch):
            samples = np.arange(drawn, look, dtype=np.int64)
            part = engine.classify(self.predictor, input, Stage.ESTIMATE, samples)
            parts.append(part)
            votes, drawn = votes + int(part.counts[guess]), look
            p_lower = max(p_lower, float(sampling.p_lower(votes, drawn)))
            best = max(p_lower, float(sampling.reachable(votes, drawn)))
            if self.goal.settled(radii(p_lower, engine.sigma), radii(best, engine.sigma)):
                break
        return self.certificate(engine, guess, p_lower, tuple(parts), votes=votes, n=drawn)

    def assumptions(self) -> str:
        """Say what the certificate is about, and why it has as many samples as it has."""
        return self.until_settled(super().assumptions(), f"{self.n} samples, drawn")
