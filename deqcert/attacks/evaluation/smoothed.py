"""Attacks held against a smoothed classifier: fresh noise decides what it answers."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from deqcert.attacks.base import Attack
from deqcert.attacks.evaluation.alarm import Alarm
from deqcert.attacks.evaluation.base import GRID, Evaluation, Group, check_certified, radii_up_to
from deqcert.attacks.evaluation.base_classifier import base_classes, base_distances
from deqcert.attacks.evaluation.certified import CertifiedImage
from deqcert.attacks.evaluation.counterexample import most_verdicts, nearest_counterexample
from deqcert.attacks.evaluation.judge import Judge
from deqcert.attacks.evaluation.outcome import Outcome
from deqcert.attacks.target import Target
from deqcert.errors import ConfigError
from deqcert.smoothing import NO_VOTE, Input

if TYPE_CHECKING:
    from deqcert.models.base import ImplicitModel
    from deqcert.smoothing import Predictor, SmoothingEngine


@dataclass(frozen=True, kw_only=True)
class SmoothedEvaluation(Evaluation):
    """Attacks, and the smoothed classifier that they are held against.

    Args:
        judge: Decides what the smoothed classifier answers.
    """

    judge: Judge

    @classmethod
    def of_run(
        cls,
        engine: SmoothingEngine,
        predictor: Predictor,
        model: ImplicitModel,
        attacks: Sequence[Attack],
        images: Sequence[CertifiedImage],
        *,
        n: int,
        alpha: float,
        guesses: int,
        depth: int | None = None,
        reach: float | None = None,
        rows: int = 256,
        facts: Mapping[str, Any] | None = None,
    ) -> Self:
        """Make the evaluation of a run so that all its verdicts together keep to alpha.

        Images whose certificate abstains get verdicts as well, so alpha is spread over all images.

        Args:
            engine: The engine of the certificates; its seed decides all that is random.
            predictor: The base classifier that the certificates are about.
            model: The same model in a form that gradients can go through.
            attacks: One or more, each name once.
            images: The images of the run, one of them with a certificate at least.
            n: Fresh noisy copies of a verdict.
            alpha: Probability that any verdict of the whole evaluation is wrong, in (0, 1).
            guesses: Noisy copies of a guess, from 1.
            depth: Most evaluations for the proof of a vote; None where votes need none.
            reach: Largest radius attacked, above 0; 6 sigma, or the largest certified radius if
                that is more, if not given.
            rows: Noisy copies that are differentiated together, from 1.
            facts: What an alarm must name besides seed, sigma, n and its alpha.

        Raises:
            ConfigError: If no image has a certificate, or a value is out of range.
        """
        check_certified(images)
        if reach is None:
            reach = max(6.0 * engine.sigma, *(image.radius for image in images))
        grid = radii_up_to(reach)
        if not 0.0 < alpha < 1.0:
            raise ConfigError(f"alpha is {alpha}, but it must lie strictly between 0 and 1.")
        each = alpha / (len(images) * max(len(attacks), 1) * most_verdicts(1 + GRID))
        judge = Judge(engine, predictor, n=n, alpha=each, guesses=guesses, depth=depth)
        known = {"seed": engine.seed, "sigma": engine.sigma, "n": n, "alpha": each}
        if engine.levels is not None:
            known["levels"] = engine.levels
        return cls(
            judge=judge,
            target=Target(model, predictor, engine.sigma, engine.seed),
            attacks=attacks,
            grid=grid,
            rows=rows,
            facts={**(facts or {}), **known},
        )

    def parameters(self) -> dict[str, Any]:
        """Return what decides the outcomes besides model, images and certificates, as JSON."""
        return {
            **super().parameters(),
            "n": self.judge.n,
            "alpha_each": self.judge.alpha,
            "search": self.judge.guesses,
        }

    def outcomes(self, group: Group) -> list[Outcome]:
        """Attack images together, and return what was found per image; :meth:`run` calls it."""
        began = time.perf_counter()
        judge, engine = self.judge, self.judge.engine
        images, x = group.images, group.x
        answers = [
            judge.answer(Input(x[i], image.index)) if image.prediction is None else image.prediction
            for i, image in enumerate(images)
        ]
        own = base_classes(engine, judge.predictor, x)
        numbers: list[dict[str, float]] = [{} for _ in images]
        alarms: list[list[Alarm]] = [[] for _ in images]
        for position, attack in enumerate(self.attacks):
            # An attack on the base classifier gets away from that one's class, where it has one.
            away = [
                answer if attack.smoothed or int(mine) == NO_VOTE else int(mine)
                for answer, mine in zip(answers, own, strict=True)
            ]
            points = self.points(attack, x, images, away, engine.device, engine.dtype)
            first = position * most_verdicts(points.shape[1])
            for i, image in enumerate(images):
                reached = nearest_counterexample(
                    judge, x[i], image.index, answers[i], image.radius, points[i], first
                )
                found = reached.counterexample
                numbers[i][f"norm:{attack.name}"] = math.inf if found is None else found.distance
                numbers[i][f"lead:{attack.name}"] = reached.lead
                if found is None or image.radius <= 0.0 or found.distance > image.radius:
                    continue
                alarms[i].append(
                    Alarm(
                        index=image.index,
                        label=group.labels[i],
                        answer=answers[i],
                        radius=image.radius,
                        attack=attack,
                        x=x[i].numpy(),
                        counterexample=found,
                        facts=self.facts,
                    )
                )
            if not attack.smoothed:
                distances = base_distances(engine, judge.predictor, x, own, points)
                for mine, distance in zip(numbers, distances, strict=True):
                    mine[f"base:{attack.name}"] = distance
        seconds = (time.perf_counter() - began) / len(images)
        return [
            Outcome(
                idx=image.index,
                label=group.labels[i],
                answer=answers[i],
                radius=image.radius,
                base=int(own[i]),
                numbers=numbers[i],
                alarms=tuple(alarms[i]),
                seconds=seconds,
                columns=self.layout.columns,
            )
            for i, image in enumerate(images)
        ]
