"""Whether the smoothed classifier answers another class at a point: a guess, and a verdict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from deqcert.certifiers.bounds import two_sided_p_value
from deqcert.errors import ConfigError
from deqcert.models.forms import Compiled
from deqcert.proofs.enclosure import Enclosure
from deqcert.smoothing import NO_VOTE, Input, Predictor, SmoothingEngine, Stage
from deqcert.smoothing.proven import proven_votes


@dataclass(frozen=True, slots=True)
class Verdict:
    """What fresh noise says about a point.

    Attributes:
        differs: Whether the smoothed classifier is held to answer another class than the given one.
        leader: The class with the most votes.
        counts: Votes per class, shape (K,).
        p_value: Of the test between the two classes with the most votes.
        stage: Stage of the noise.
    """

    differs: bool
    leader: int
    counts: NDArray[np.int64]
    p_value: float
    stage: int

    def words(self, answer: int) -> str:
        """Say what speaks against the certified class."""
        mine, other = int(self.counts[answer]), int(self.counts[self.leader])
        return f"{other} votes against {mine}, p {self.p_value:.1e}"

    def facts(self) -> dict[str, Any]:
        """Return what else it takes to see it again."""
        return {"noise stage": self.stage}

    def arrays(self) -> dict[str, Any]:
        """Return what an alarm's file holds of it."""
        return {"counts": self.counts, "p_value": self.p_value, "stage": self.stage}


class Judge:
    """Says what a smoothed classifier answers at points that attacks have found.

    Args:
        engine: The engine of the certificate: its model in its form, sigma, shape; any seed.
        predictor: The base classifier that the certificate is about; its start is independent.
        n: Fresh samples of a verdict.
        alpha: Probability that one verdict is wrong, in (0, 1).
        guesses: Samples of a guess, which only steers the search, from 1.
        depth: For certificates of method 'enclosed': most evaluations for the proof of a vote. A
            vote that is not proven then counts for the class that was certified.

    Raises:
        ConfigError: If a number is out of range, n is so small that no vote could differ, or alpha
            so small that it cannot pay for exact noise.
    """

    def __init__(
        self,
        engine: SmoothingEngine,
        predictor: Predictor,
        *,
        n: int,
        alpha: float,
        guesses: int,
        depth: int | None = None,
    ) -> None:
        if not 0.0 < alpha < 1.0:
            raise ConfigError(f"alpha is {alpha}, but it must lie strictly between 0 and 1.")
        least = int(np.ceil(1.0 - np.log2(alpha)))
        for name, value, lowest in (("n", n, least), ("search", guesses, 1)):
            if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
                raise ConfigError(
                    f"{name} is {value!r}, but it must be a whole number from {lowest}."
                )
        if not predictor.independent:
            raise ConfigError(
                f"start '{predictor.start.name}' chains samples; a verdict needs the base "
                "classifier that the certificate is about."
            )
        shape = getattr(engine.raw, "input_shape", ())
        charge = engine.charge(np.broadcast_to(0.0, shape), n)
        if charge >= alpha:
            raise ConfigError(
                f"exact noise for a verdict takes {charge:.1e} of its alpha, which is only "
                f"{alpha:.1e}; raise alpha, lower n, or attack fewer images in one run."
            )
        self.engine, self.predictor = engine, predictor
        self.n, self.alpha, self.guesses, self.depth = n, alpha, guesses, depth
        self._enclosure = None if depth is None else Enclosure(engine.raw)
        self._scout = _smaller(engine, guesses)

    @property
    def needed(self) -> float:
        """Lead, as a share of the votes, with which a verdict goes against a class."""
        return float(stats.norm.isf(self.alpha / 2.0) / np.sqrt(self.n))

    def lead(self, point: Input, answer: int) -> float:
        """Guess by what share of the votes another class leads at a point, -1 to 1.

        The noise is the same for every point of an image, so that points compare well. It steers
        the search and decides nothing.
        """
        counts = self._counts(point, Stage.SEARCH, self.guesses, answer, self._scout)
        others = np.delete(counts, answer)
        return float(others.max(initial=0) - counts[answer]) / self.guesses

    def answer(self, point: Input) -> int:
        """Return the class with the most of n votes."""
        return int(self._counts(point, Stage.ANSWER, self.n, None).argmax())

    def verdict(self, point: Input, answer: int, number: int) -> Verdict:
        """Test whether another class than the given one is answered at a point.

        Args:
            point: The point, and the index of the image that it was made from.
            answer: The class that was certified.
            number: Of the verdict among those on this image; no two share noise.

        **Guarantee:** if the point does not depend on this verdict's noise, and the smoothed
        classifier answers ``answer`` there, it "differs" with probability at most alpha.

        **Source:** Cohen et al. (2019), PREDICT; Hung and Fithian (2019).
        """
        stage = Stage.VERDICT + number
        counts = self._counts(point, stage, self.n, answer)
        order = np.argsort(-counts, kind="stable")
        leader = int(order[0])
        second = int(counts[order[1]]) if len(counts) > 1 else 0
        p_value = two_sided_p_value(int(counts[leader]), second)
        differs = leader != answer and p_value <= self.alpha - self.engine.charge(point.x, self.n)
        return Verdict(differs, leader, counts, p_value, stage)

    def _counts(
        self,
        point: Input,
        stage: int,
        n: int,
        answer: int | None,
        engine: SmoothingEngine | None = None,
    ) -> NDArray[np.int64]:
        """Count votes, shape (K,); unproven ones for the given class where votes are proven."""
        engine = engine or self.engine
        if self._enclosure is None or self.depth is None:
            return engine.votes(self.predictor, point, stage, n).counts
        votes = proven_votes(
            engine, self._enclosure, self.predictor, point, stage, n, depth=self.depth
        )
        counts = votes.counts
        if answer is not None:
            counts[answer] += int(np.sum(votes.predictions == NO_VOTE))
        return counts


def _smaller(engine: SmoothingEngine, rows: int) -> SmoothingEngine:
    """Return an engine for few samples: a large declared shape would be filled up with nothing."""
    if rows >= engine.batch or isinstance(engine.raw, Compiled):
        return engine
    device = str(engine.device)
    return SmoothingEngine(
        engine.raw,
        sigma=engine.sigma,
        seed=engine.seed,
        batch=rows,
        device=device,
        base_stage=engine.base_stage,
        levels=engine.levels,
    )
