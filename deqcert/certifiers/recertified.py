"""A changed model, certified by an audit of the votes that an earlier run has kept."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from deqcert.certifiers.audited import audit_generator
from deqcert.certifiers.bounds import certified_radius
from deqcert.certifiers.goals import Goal, UntilSettled, refuse_goal
from deqcert.certifiers.kept_votes import KeptVotes, ParentRun
from deqcert.certifiers.looks import VotesAudit
from deqcert.certifiers.smoothed import INDEPENDENCE, SmoothingCertifier
from deqcert.errors import ConfigError
from deqcert.options import number
from deqcert.smoothing.stage import Stage

if TYPE_CHECKING:
    from deqcert.certifiers.certificate import Certificate
    from deqcert.smoothing import Input, SmoothingEngine, Votes


@dataclass(frozen=True, kw_only=True)
class FromVotes(SmoothingCertifier):
    """Certify a changed model by casting some votes of an earlier run again.

    Args:
        predictor: The changed base classifier; its start must be independent.
        parent: The earlier run. Its noise, its selected classes and its votes are taken.
        n0: Noisy copies that chose the classes of that run.
        n: Noisy copies that voted there; with a goal, the most of them.
        alpha: Probability that a certificate may be wrong, in all. Nothing of it is left over from
            the earlier run, whose certificates are about another model.
        audit: Votes that are cast again, at most n; 1000, or n if that is less, where nothing is
            given.

    Raises:
        ConfigError: If the start is chained, a number is out of range, the audit is larger than
            the votes, or even a unanimous vote without disagreements could certify nothing.
    """

    parent: ParentRun
    audit: int = number(None, low=1, whole=True)

    def __post_init__(self) -> None:
        if not self.predictor.independent:
            raise ConfigError(
                f"a changed model is certified from an independent start, but start "
                f"'{self.predictor.start.name}' chains its samples; give --start cold or learned"
            )
        if cast("int | None", self.audit) is None:  # nothing was given
            object.__setattr__(self, "audit", min(self.usual_audit, self.n))
        super().__post_init__()

    @property
    def usual_audit(self) -> int:
        """Votes that are cast again where no number is given."""
        return 1000

    def check_numbers(self) -> None:
        """Refuse numbers out of range, an audit of more votes than there are among them."""
        super().check_numbers()
        if self.audit > self.n:
            raise ConfigError(
                f"audit is {self.audit}, but the run holds n={self.n} votes of an image; give "
                "that many or fewer"
            )

    def too_small(self) -> str:
        """Say that even a unanimous vote certifies nothing, and what would."""
        return (
            f"n={self.n} votes with an audit of {self.audit} can certify nothing at alpha "
            f"{self.alpha:g}, even without disagreements; raise audit or alpha."
        )

    def check(self, engine: SmoothingEngine) -> None:
        """Refuse a model with other classes than the one that voted; see :class:`Certifier`."""
        found = getattr(engine.raw, "num_classes", None)
        if found is not None and found != self.parent.classes:
            raise ConfigError(
                f"the changed model has {found} classes, but the votes of the run are for "
                f"{self.parent.classes}; give a changed version of the model that voted"
            )

    def parameters(self) -> dict[str, Any]:
        """Return what decides the certificates; see :meth:`Certifier.parameters`."""
        return {**super().parameters(), "parent": dict(self.parent.identity)}

    def notes(self, subject: SmoothingEngine, /) -> dict[str, Any]:
        """Return where the earlier run is; see :meth:`Certifier.notes`."""
        return {"parent": self.parent.place}

    def certify(self, engine: SmoothingEngine, input: Input) -> Certificate:
        """Certify one input; see :meth:`Certifier.certify`."""
        self.check(engine)
        kept = self.parent.votes(input.index)
        if kept.selected is None:
            return self.certificate(engine, None, 0.0, (), n=len(kept.predictions))
        return self.audited(engine, input, kept)

    @abstractmethod
    def audited(self, engine: SmoothingEngine, input: Input, kept: KeptVotes) -> Certificate:
        """Certify one input whose class was selected.

        Args:
            engine: The engine of the changed model, which draws the earlier run's noise.
            input: The input.
            kept: Its votes in the earlier run.
        """

    def assumptions(self) -> str:
        """Say what the certificate is about."""
        return (
            f"holds for {self.about()}, smoothed: {self.predictor.describe()}; votes kept of "
            f"{self.parent.voted_by}{INDEPENDENCE}, and the change was not chosen by looking at "
            "that run's votes"
        )


@dataclass(frozen=True, kw_only=True)
class Recertified(FromVotes, UntilSettled):
    """Certify a changed model by the exact audit of an earlier run's votes.

    Of the N_A samples that voted for the class A, which that run selected from noise of its own,
    the most doubtful ones are cast again by the changed model as long as they often disagree, and
    a uniformly random part of the others; with a goal it grows until the goal is settled. The most
    doubtful samples without a vote for A are cast again, too, as long as many have it now. With
    D_up the upper bound of the votes that the changed model does not share, and G those found that
    it has gained, p_lower is the Clopper-Pearson bound of N_A - D_up + G successes among n, with
    alpha split between the two as for ``serialized-strata``. Where it is larger, p_lower is the
    bound of the votes that were cast again by themselves, as samples of the changed model, as if
    there were no others: each of the two has half of alpha. Where the earlier run itself stopped by
    a goal, only the first counts, by the bound of that run's confidence sequence.

    Args:
        audit: Votes for A that are cast again at most, up to n; where nothing is given, 1000, or n
            if that is less; with a goal n. Up to a quarter as many other votes come to it.

    **Guarantee:** with probability at least 1 - alpha over the noise and the draw of the audit, the
    certificate abstains or the classifier smoothed from ``predictor`` (the changed model with its
    solve) answers ``prediction`` at every point within ``radius`` of the input, whenever the audit
    stops. Nothing is assumed of the earlier run's votes. Assumed is that the change does not depend
    on that run's noise.

    **Source:** docs/recertify.md; it is ``serialized`` with the changed model for a reference.
    """

    name: ClassVar[str] = "recertified"

    @property
    def usual_audit(self) -> int:
        """Votes that are cast again where no number is given."""
        goal: object = self.goal  # as it was given, perhaps still in words
        return self.n if isinstance(goal, Goal) else super().usual_audit

    def best_p_lower(self) -> float:
        """Return the bound of a unanimous vote without disagreements."""
        return self._audit(self.n).best()

    def check(self, engine: SmoothingEngine) -> None:
        """Refuse other classes, and a goal that no vote could reach with this noise."""
        super().check(engine)
        refuse_goal(
            self.goal,
            certified_radius(self.best_p_lower(), engine.sigma),
            f"n={self.n}, an audit of {self.audit}, alpha {self.alpha:g} and sigma "
            f"{engine.sigma:g}",
            "raise audit",
        )

    def audited(self, engine: SmoothingEngine, input: Input, kept: KeptVotes) -> Certificate:
        """Certify one input whose class was selected; see :meth:`FromVotes.audited`."""
        voters, n = kept.voters, len(kept.predictions)
        spent: list[Votes] = []

        def judge(samples: NDArray[np.int64]) -> NDArray[np.bool_]:
            spent.append(engine.classify(self.predictor, input, Stage.ESTIMATE, samples))
            right: NDArray[np.bool_] = spent[-1].predictions == kept.selected
            return right

        found = self._audit(n).run(
            voters,
            kept.others,
            judge,
            audit_generator(engine, input.index, Stage.RECERTIFY),
            sigma=engine.sigma,
            batch=engine.batch,
        )
        return self.certificate(
            engine,
            kept.selected,
            found.p_lower,
            tuple(spent),
            n=n,
            votes=len(voters),
            audited=found.audited,
            disagreements=found.disagreements,
        )

    def assumptions(self) -> str:
        """Say what the certificate is about, and why it has as many audits as it has."""
        return self.until_settled(super().assumptions(), f"{self.audit} audited")

    def _audit(self, drawn: int) -> VotesAudit:
        most = self.n if self.parent.stopped else None
        return VotesAudit(drawn, self.audit, self.alpha, self.goal, most)
