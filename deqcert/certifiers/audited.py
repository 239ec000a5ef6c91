"""What the methods with an audit share: a reference, and the random stream that chooses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from deqcert.certifiers.smoothed import INDEPENDENCE, SmoothingCertifier
from deqcert.errors import ConfigError
from deqcert.options import number
from deqcert.smoothing.seed import noise_key
from deqcert.smoothing.stage import Stage

if TYPE_CHECKING:
    from deqcert.smoothing import Predictor, SmoothingEngine


@dataclass(frozen=True, kw_only=True)
class Audited(SmoothingCertifier):
    """Certify from the votes of a cheap predictor, held against those of a reference.

    Args:
        predictor: How votes are cast; any start.
        n: Noisy copies that vote.
        alpha: Probability that a certificate may be wrong, in all; half goes to the audit and half
            to the estimate, fixed before any data is seen.
        reference: The base classifier that the certificate is about; its start is independent.
        audit: Votes that are solved again by the reference, at most n; 1000, or n if that is less,
            where nothing is given.

    Raises:
        ConfigError: If the reference is chained, a number is out of range, or even a unanimous
            vote without disagreements could certify nothing.
    """

    reference: Predictor
    audit: int = number(None, low=1, whole=True)

    def __post_init__(self) -> None:
        if not self.reference.independent:
            raise ConfigError(
                f"the audit needs an independent reference, but start '{self.reference.start.name}'"
                " chains its samples; use start 'cold' for it."
            )
        if cast("int | None", self.audit) is None:  # nothing was given
            object.__setattr__(self, "audit", min(1000, self.n))
        super().__post_init__()

    @property
    def classifier(self) -> Predictor:
        """The reference: what certificates are about, whoever casts the votes."""
        return self.reference

    def check_numbers(self) -> None:
        """Refuse numbers out of range, an audit of more votes than there are among them."""
        super().check_numbers()
        if self.audit > self.n:
            raise ConfigError(
                f"audit is {self.audit}, but it must be a whole number from 1 to n={self.n}."
            )

    def too_small(self) -> str:
        """Say that even a unanimous vote certifies nothing, and what would."""
        return (
            f"n={self.n} votes with an audit of {self.audit} can certify nothing at alpha "
            f"{self.alpha:g}, even without disagreements; raise n or audit."
        )

    def assumptions(self) -> str:
        """Say what the certificate is about."""
        return (
            f"holds for {self.about()}, smoothed: {self.reference.describe()}; votes cast by: "
            f"{self.predictor.describe()}{INDEPENDENCE}"
        )


def audit_subset(
    candidates: NDArray[np.int64], size: int, engine: SmoothingEngine, index: int
) -> NDArray[np.int64]:
    """Draw a uniformly random subset with a random stream used for nothing else.

    Args:
        candidates: Indices to draw from, shape (N,).
        size: Members wanted; all candidates where there are not more.
        engine: The engine, for its seed and its stages.
        index: Index of the input.

    Returns:
        The drawn indices in increasing order, shape (min(size, N),).
    """
    size = min(size, len(candidates))
    chosen = audit_generator(engine, index).choice(candidates, size=size, replace=False)
    return np.sort(chosen)


def audit_generator(
    engine: SmoothingEngine, index: int, stage: int = Stage.AUDIT
) -> np.random.Generator:
    """Return the random stream that chooses what is audited of an image, and nothing else.

    Args:
        engine: The engine, for its seed and its stages.
        index: Index of the input.
        stage: Which audit it is for; different ones share no random number.
    """
    place = engine.base_stage + int(stage)
    stream = np.random.SeedSequence([noise_key(engine.seed, index, place), index, place])
    return np.random.Generator(np.random.Philox(stream))
