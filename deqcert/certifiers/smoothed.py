"""What certifiers from noise share: the choice of the class, bounds, refusals up front."""

from __future__ import annotations

import functools
import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

from deqcert.certifiers.base import Certifier
from deqcert.certifiers.bounds import certified_radius, lower_confidence_bound
from deqcert.certifiers.certificate import Certificate, NoiseDetails
from deqcert.errors import ConfigError
from deqcert.options import check_options, number
from deqcert.smoothing.stage import Stage

if TYPE_CHECKING:
    from deqcert.smoothing import Input, Predictor, SmoothingEngine, Votes


INDEPENDENCE = "; the input and the model do not depend on the noise's seed"
"""What every certificate from noise assumes: whoever knows the seed can choose lucky inputs."""


@dataclass(frozen=True)
class SmoothingCertifier(Certifier["SmoothingEngine"]):
    """Certify from votes for noisy copies of an input.

    Exact noise is drawn from its law up to a known total variation. That much of alpha is set aside
    before :meth:`certify`, of this class or of one derived from it, sees any of it, so its bounds
    rest on the rest and the certificate states the whole.

    Args:
        predictor: How a noisy copy is classified.
        n0: Noisy copies that choose the class; 100 is usual.
        n: Noisy copies that bound its probability; 10000 to 100000 are usual.
        alpha: Probability that a certificate may be wrong, in all; 0.001 is usual.

    Raises:
        ConfigError: If a number is out of range, the predictor does not fit the method, or even a
            unanimous vote could certify nothing.
    """

    noise: ClassVar[bool] = True
    record: ClassVar[type[Any] | None] = NoiseDetails

    predictor: Predictor
    _: KW_ONLY
    n0: int = number(100, low=1)
    n: int = number(10000, low=1)
    alpha: float = number(0.001, above=0, below=1)

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "certify" in cls.__dict__:
            cls.certify = _paying(cls.certify)  # type: ignore[method-assign]

    def __post_init__(self) -> None:
        self.check_numbers()
        if not self.best_p_lower() > 0.5:
            raise ConfigError(self.too_small())

    @property
    def classifier(self) -> Predictor | None:
        """What turns a noisy copy into a class in the classifier that is certified.

        None where no solve does, as for the exact equilibrium.
        """
        return self.predictor

    def about(self) -> str:
        """Name the classifier that the certificates are about; see :meth:`Certifier.about`."""
        found = self.classifier
        return super().about() if found is None else found.about()

    def check_numbers(self) -> None:
        """Refuse numbers that are out of range.

        Raises:
            ConfigError: If there is one.
        """
        check_options(self)

    @abstractmethod
    def best_p_lower(self) -> float:
        """Return the bound that a unanimous vote without disagreements would give."""

    def too_small(self) -> str:
        """Say that even a unanimous vote certifies nothing, and what would."""
        # The bound of n votes out of n is alpha^(1/n); one more pays for what it is shaved by.
        enough = math.floor(math.log(self.alpha) / math.log(0.5)) + 1
        least = next(
            (n for n in (enough, enough + 1) if lower_confidence_bound(n, n, self.alpha) > 0.5),
            enough + 2,
        )
        return (
            f"n is {self.n}, too few samples to certify anything at alpha {self.alpha:g}; "
            f"n must be at least {least}."
        )

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
        """Put a certificate for the l2 norm together; it abstains where p_lower is at most 1/2.

        Args:
            engine: Where the votes come from.
            guess: The class that was selected, or None.
            p_lower: Lower bound of its probability under the noise; what is no number counts as 0.
            spent: All votes, for what they cost.
            n: Samples drawn, where they are fewer than asked for.
            votes: Samples among n that voted for the class.
            audited: Samples solved again by the reference.
            disagreements: Those of them whose class changed.
        """
        if not p_lower >= 0.0:
            p_lower = 0.0
        return Certificate(
            prediction=guess if p_lower > 0.5 else None,
            radius=certified_radius(p_lower, engine.sigma),
            alpha=self.alpha,
            method=self.name,
            sound=self.sound,
            assumptions=self.assumptions(),
            nfe=sum(part.nfe for part in spent),
            seconds=sum(part.seconds for part in spent),
            details=NoiseDetails(
                p_lower=p_lower,
                sigma=engine.sigma,
                n0=self.n0,
                n=self.n if n is None else n,
                votes=votes,
                audited=audited,
                disagreements=disagreements,
                seed=engine.seed,
            ),
        )


def _paying(certify: Callable[..., Certificate]) -> Callable[..., Certificate]:
    """Make a method that certifies set aside what exact noise costs of alpha, and say so."""

    @functools.wraps(certify)
    def paying(self: Any, engine: SmoothingEngine, input: Input) -> Certificate:
        if "_paid" in self.__dict__:  # by the method of a class derived from this one
            return certify(self, engine, input)
        charge = engine.charge(input.x, self.n0 + self.n)
        if charge >= self.alpha:
            raise ConfigError(
                f"exact noise for {self.n0 + self.n} samples takes {charge:.1e} of alpha, which is "
                f"only {self.alpha:g}; raise alpha or lower n"
            )
        # Not by replace: what is too small for the rest of alpha abstains, rather than ends a run.
        held = object.__new__(type(self))
        for field in fields(self):
            object.__setattr__(held, field.name, getattr(self, field.name))
        object.__setattr__(held, "alpha", self.alpha - charge)
        object.__setattr__(held, "_paid", True)
        made = certify(held, engine, input)
        details = made.details
        if isinstance(details, NoiseDetails):
            details = replace(details, charge=charge)
        stated = f"{made.assumptions}; {engine.describe_noise(charge)}"
        return replace(made, alpha=self.alpha, assumptions=stated, details=details)

    return paying
