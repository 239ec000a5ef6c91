"""What every certifier shares: stages of noise, the choice of the class, refusals up front."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from deqcert.certifiers.bounds import certified_radius, lower_confidence_bound
from deqcert.certifiers.certificate import Certificate
from deqcert.errors import ConfigError
from deqcert.smoothing.stage import Stage

if TYPE_CHECKING:
    from deqcert.smoothing import Input, Predictor, SmoothingEngine, Votes


class Certifier(ABC):
    """Turn votes for noisy copies of an input into a certificate.

    Labels never enter. A subclass says in its docstring what it guarantees.

    Args:
        predictor: How a noisy copy is classified.
        n0: Samples that choose the class, at least 1.
        n: Samples that bound its probability, at least 1.
        alpha: Failure probability of a certificate in all, in (0, 1).

    Raises:
        ConfigError: If a number is out of range, the predictor does not fit the method, or even a
            unanimous vote could certify nothing.
    """

    name: ClassVar[str]
    sound: ClassVar[bool] = True

    def __init__(self, predictor: Predictor, *, n0: int, n: int, alpha: float) -> None:
        for label, value in (("n0", n0), ("n", n)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"{label} is {value!r}, but it must be a whole number from 1.")
        if not 0.0 < alpha < 1.0:
            raise ConfigError(f"alpha is {alpha}, but it must lie strictly between 0 and 1.")
        self.predictor, self.n0, self.n, self.alpha = predictor, n0, n, alpha
        if not self.best_p_lower() > 0.5:
            raise ConfigError(self.too_small())

    @abstractmethod
    def best_p_lower(self) -> float:
        """Return the bound that a unanimous vote without disagreements would give."""

    def check(self, engine: SmoothingEngine) -> None:  # noqa: B027
        """Refuse an engine whose model or noise cannot serve, before the first solve; here none.

        Raises:
            ConfigError: If there is something of that kind.
        """

    def too_small(self) -> str:
        """Say that even a unanimous vote certifies nothing, and what would."""
        least = self.n
        while not lower_confidence_bound(least, least, self.alpha) > 0.5:
            least += 1
        return (
            f"n is {self.n}, too few samples to certify anything at alpha {self.alpha:g}; "
            f"n must be at least {least}."
        )

    @abstractmethod
    def certify(self, engine: SmoothingEngine, input: Input) -> Certificate:
        """Certify one input.

        Args:
            engine: The engine, which holds the model, sigma and the seed.
            input: The input, and the index that selects its noise.

        Raises:
            DataError: If the input does not fit the model.
        """

    def select(self, engine: SmoothingEngine, input: Input) -> tuple[int | None, Votes]:
        """Choose the class from noise that nothing else uses; None if no sample votes."""
        votes = engine.votes(self.predictor, input, Stage.SELECT, self.n0)
        counts = votes.counts
        return (int(counts.argmax()) if counts.sum() else None), votes

    def certificate(
        self,
        engine: SmoothingEngine,
        guess: int | None,
        p_lower: float,
        spent: tuple[Votes, ...],
        *,
        n: int | None = None,
        votes: int = 0,
        audited: int = 0,
        disagreements: int = 0,
    ) -> Certificate:
        """Put a certificate together; it abstains where p_lower is at most 1/2.

        ``n`` is given where fewer samples than asked for were drawn.
        """
        prediction = guess if p_lower > 0.5 else None
        return Certificate(
            prediction=prediction,
            radius=certified_radius(p_lower, engine.sigma),
            p_lower=p_lower,
            sigma=engine.sigma,
            n0=self.n0,
            n=self.n if n is None else n,
            alpha=self.alpha,
            method=self.name,
            sound=self.sound,
            assumptions=self.assumptions(),
            votes=votes,
            audited=audited,
            disagreements=disagreements,
            nfe=sum(part.nfe for part in spent),
            seed=engine.seed,
            seconds=sum(part.seconds for part in spent),
        )

    @abstractmethod
    def assumptions(self) -> str:
        """Say what the certificate is about and what it assumes."""


def audit_subset(
    candidates: NDArray[np.int64], size: int, *, seed: int, index: int
) -> NDArray[np.int64]:
    """Draw a uniformly random subset with a random stream used for nothing else.

    Args:
        candidates: Indices to draw from, shape (N,).
        size: Members wanted; all candidates where there are not more.
        seed: Seed of the run.
        index: Index of the input.

    Returns:
        The drawn indices in increasing order, shape (min(size, N),).
    """
    size = min(size, len(candidates))
    chosen = audit_generator(seed=seed, index=index).choice(candidates, size=size, replace=False)
    return np.sort(chosen)


def audit_generator(*, seed: int, index: int) -> np.random.Generator:
    """Return the random stream that chooses what is audited of an image, and nothing else."""
    stream = np.random.SeedSequence([seed, index, int(Stage.AUDIT)])
    return np.random.Generator(np.random.Philox(stream))
