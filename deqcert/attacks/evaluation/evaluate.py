"""Every attack on every image of a run, a few images at a time, a line on the disk for each."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deqcert.attacks.base import Attack
from deqcert.attacks.evaluation.alarm import Alarm
from deqcert.attacks.evaluation.base_classifier import base_classes, base_distances
from deqcert.attacks.evaluation.certified import CertifiedImage
from deqcert.attacks.evaluation.counterexample import most_verdicts, nearest_counterexample
from deqcert.attacks.evaluation.judge import Judge
from deqcert.attacks.evaluation.outcome import Outcome, outcome_layout
from deqcert.attacks.target import Target
from deqcert.errors import ConfigError
from deqcert.smoothing import NO_VOTE, Input

if TYPE_CHECKING:
    from deqcert.data import Dataset
    from deqcert.models.base import ImplicitModel
    from deqcert.runs import Layout, Run
    from deqcert.smoothing import Predictor, SmoothingEngine

GRID = 3
"""Radii that every image is attacked at besides its certified one."""


@dataclass(frozen=True)
class Evaluation:
    """Attacks, and what they are held against.

    Args:
        judge: Decides what the smoothed classifier answers.
        target: What the attacks climb on.
        attacks: One or more, each name once.
        grid: Radii that every image is attacked at, above 0, besides its certified one.
        rows: Noisy copies that are differentiated together, from 1; memory grows with them.
        facts: What an alarm must name besides, such as the model's hash.

    Raises:
        ConfigError: If there are no attacks, two of one name, or a radius or number out of range.
    """

    judge: Judge
    target: Target
    attacks: Sequence[Attack]
    grid: Sequence[float]
    rows: int = 256
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [attack.name for attack in self.attacks]
        if not names or len(set(names)) < len(names):
            raise ConfigError("name at least one attack, and each only once.")
        if not self.grid or not all(0.0 < radius < float("inf") for radius in self.grid):
            raise ConfigError("attacked radii must be one or more finite numbers above 0.")
        if isinstance(self.rows, bool) or self.rows < 1:
            raise ConfigError(f"rows is {self.rows}, but it must be a whole number from 1.")

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
        if not any(image.radius > 0.0 for image in images):
            raise ConfigError("none of the chosen images has a certificate; attack others.")
        if reach is None:
            reach = max(6.0 * engine.sigma, *(image.radius for image in images))
        if not 0.0 < reach < math.inf:
            raise ConfigError(f"reach is {reach}, but it must be above 0.")
        grid = tuple(reach * step / GRID for step in range(1, GRID + 1))
        if not 0.0 < alpha < 1.0:
            raise ConfigError(f"alpha is {alpha}, but it must lie strictly between 0 and 1.")
        each = alpha / (len(images) * max(len(attacks), 1) * most_verdicts(1 + GRID))
        judge = Judge(engine, predictor, n=n, alpha=each, guesses=guesses, depth=depth)
        target = Target(model, predictor, engine.sigma, engine.seed)
        known = {"seed": engine.seed, "sigma": engine.sigma, "n": n, "alpha": each}
        if engine.levels is not None:
            known["levels"] = engine.levels
        return cls(judge, target, attacks, grid, rows, {**(facts or {}), **known})

    @property
    def together(self) -> int:
        """Images attacked together."""
        most = max(attack.view.copies for attack in self.attacks)
        return max(1, self.rows // (most * (1 + len(self.grid))))

    @property
    def layout(self) -> Layout:
        """What the lines of the journal hold."""
        return outcome_layout(self.attacks)

    def parameters(self) -> dict[str, Any]:
        """Return what decides the outcomes besides model, images and certificates, as JSON."""
        return {
            "attacks": [attack.describe() for attack in self.attacks],
            "grid": list(self.grid),
            "n": self.judge.n,
            "alpha_each": self.judge.alpha,
            "search": self.judge.guesses,
            "rows": self.rows,
        }

    def run(
        self,
        run: Run,
        images: Sequence[CertifiedImage],
        dataset: Dataset,
        tell: Callable[[Outcome], None] | None = None,
    ) -> None:
        """Attack what remains of a run; an image's line is on the disk before the next one's.

        Args:
            run: An open run, with the layout of the attacks' outcomes.
            images: The images of the run, all of them and in its order.
            dataset: Where the images are.
            tell: Called after each line is safe.

        Raises:
            RunError: If a line or an alarm could not be written; everything before it is safe.
        """
        size = self.together
        # Always the same images together, wherever a run was stopped: last bits may depend on it.
        for first in range(run.done // size * size, len(images), size):
            for outcome in self.outcomes(images[first : first + size], dataset):
                if outcome.idx not in run.remaining:
                    continue
                for alarm in outcome.alarms:
                    alarm.save(run.folder)
                run.append(outcome)
                if tell is not None:
                    tell(outcome)

    def outcomes(self, images: Sequence[CertifiedImage], dataset: Dataset) -> list[Outcome]:
        """Attack images together, and return what was found per image; :meth:`run` calls it."""
        began = time.perf_counter()
        judge, engine = self.judge, self.judge.engine
        x = torch.from_numpy(dataset.batch([image.index for image in images]))
        answers = [
            judge.answer(Input(x[i], image.index)) if image.prediction is None else image.prediction
            for i, image in enumerate(images)
        ]
        own = base_classes(engine, judge.predictor, x)
        numbers: list[dict[str, float]] = [{} for _ in images]
        alarms: list[list[Alarm]] = [[] for _ in images]
        for position, attack in enumerate(self.attacks):
            points = self._points(attack, x, images, answers, own)
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
                        label=dataset.label(image.index),
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
                label=dataset.label(image.index),
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

    def _points(
        self,
        attack: Attack,
        x: Tensor,
        images: Sequence[CertifiedImage],
        answers: Sequence[int],
        own: NDArray[np.int16],
    ) -> Tensor:
        """Attack images at every radius, shape (images, radii, C, H, W)."""
        radii = torch.tensor([[image.radius, *self.grid] for image in images], dtype=torch.float64)
        # An attack on the base classifier gets away from that one's class, where it has one.
        wanted = [
            answer if attack.smoothed or int(mine) == NO_VOTE else int(mine)
            for answer, mine in zip(answers, own, strict=True)
        ]
        each = radii.shape[1]
        device, dtype = self.judge.engine.device, self.judge.engine.dtype
        rows = x.to(device, dtype).repeat_interleave(each, dim=0)
        y = torch.tensor(wanted, device=device).repeat_interleave(each)
        indices = np.repeat([image.index for image in images], each).tolist()
        found = attack.run(self.target, rows, y, indices, radius=radii.flatten().to(device))
        return found.float().cpu().unflatten(0, (len(images), each))  # type: ignore[no-untyped-call, no-any-return]
