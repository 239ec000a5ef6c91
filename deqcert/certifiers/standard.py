"""Standard randomized smoothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from deqcert.certifiers.bounds import lower_confidence_bound
from deqcert.certifiers.certificate import Certificate
from deqcert.certifiers.smoothed import INDEPENDENCE, SmoothingCertifier
from deqcert.errors import ConfigError
from deqcert.smoothing.stage import Stage

if TYPE_CHECKING:
    from deqcert.smoothing import Input, SmoothingEngine


@dataclass(frozen=True)
class Standard(SmoothingCertifier):
    """Certify a base classifier from independent votes.

    Args:
        predictor: The base classifier; its start must be independent.

    Raises:
        ConfigError: If the start is chained, a number is out of range, or n is too small for alpha.

    **Guarantee:** with probability at least 1 - alpha over the noise, the certificate abstains or
    the classifier smoothed from ``predictor`` answers ``prediction`` at every point within
    ``radius`` of the input. No assumption on the solver's convergence: the solve is part of the
    base classifier.

    **Source:** Cohen, Rosenfeld, Kolter (2019), CERTIFY.
    """

    name: ClassVar[str] = "standard"

    def __post_init__(self) -> None:
        if not self.predictor.independent:
            raise ConfigError(
                f"method '{self.name}' needs independent samples, but start "
                f"'{self.predictor.start.name}' chains them; method 'serialized' audits a chained "
                "start."
            )
        super().__post_init__()

    def best_p_lower(self) -> float:
        """Return the bound of a unanimous vote."""
        return lower_confidence_bound(self.n, self.n, self.alpha)

    def certify(self, engine: SmoothingEngine, input: Input) -> Certificate:
        """Certify one input; see :meth:`Certifier.certify`."""
        guess, selection = self.select(engine, input)
        if guess is None:
            return self.certificate(engine, None, 0.0, (selection,))
        estimate = engine.votes(self.predictor, input, Stage.ESTIMATE, self.n)
        votes = int(estimate.counts[guess])
        p_lower = lower_confidence_bound(votes, self.n, self.alpha)
        return self.certificate(engine, guess, p_lower, (selection, estimate), votes=votes)

    def assumptions(self) -> str:
        """Say what the certificate is about."""
        about = f"holds for {self.about()}, smoothed: {self.predictor.describe()}"
        return about + INDEPENDENCE
