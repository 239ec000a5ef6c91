"""Every attack on every image of a run, a few images at a time, a line on the disk for each."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deqcert.attacks import Attack, Target
from deqcert.attacks.evaluation.clean import base_classes, base_distances
from deqcert.attacks.evaluation.judge import Judge
from deqcert.attacks.evaluation.outcome import Alarm, Outcome
from deqcert.attacks.evaluation.search import most_verdicts, nearest
from deqcert.errors import ConfigError
from deqcert.smoothing import NO_VOTE, Input

if TYPE_CHECKING:
    from deqcert.data import Dataset
    from deqcert.runs import Run


@dataclass(frozen=True)
class CertifiedImage:
    """One certified image.

    Args:
        index: its index in the data set.
        predict: the certified class; -1: the certificate abstains.
        radius: the certified radius.
    """

    index: int
    predict: int
    radius: float


@dataclass(frozen=True)
class Evaluation:
    """Attacks, and what they are held against.

    Args:
        judge: decides what the smoothed classifier answers.
        target: what the attacks climb on.
        attacks: one or more.
        grid: radii that every image is attacked at, above 0, besides its certified one.
        rows: noisy copies that are differentiated together, from 1.
        facts: what an alarm must name besides, such as the model's hash.

    Raises:
        ConfigError: there are no attacks, two of one name, or a radius or number out of range.
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

    @property
    def together(self) -> int:
        """Images attacked together."""
        most = max(attack.draws or 1 for attack in self.attacks)
        return max(1, self.rows // (most * (1 + len(self.grid))))

    def outcomes(self, subjects: Sequence[CertifiedImage], dataset: Dataset) -> list[Outcome]:
        """Attack images; see `evaluate_images`."""
        began = time.perf_counter()
        judge, engine = self.judge, self.judge.engine
        x = torch.from_numpy(dataset.batch([subject.index for subject in subjects]))
        answers = [
            subject.predict if subject.predict >= 0 else judge.answer(Input(x[i], subject.index))
            for i, subject in enumerate(subjects)
        ]
        own = base_classes(engine, judge.predictor, x)
        numbers: list[dict[str, float]] = [{} for _ in subjects]
        alarms: list[list[Alarm]] = [[] for _ in subjects]
        for position, attack in enumerate(self.attacks):
            points = self._points(attack, x, subjects, answers, own)
            if not attack.smoothed:
                distances = base_distances(engine, judge.predictor, x, own, points)
            for i, subject in enumerate(subjects):
                reached = nearest(
                    judge,
                    x[i],
                    subject.index,
                    answers[i],
                    subject.radius,
                    points[i],
                    position * most_verdicts(points.shape[1]),
                )
                found = reached.found
                numbers[i][f"norm:{attack.name}"] = (
                    float("inf") if found is None else found.distance
                )
                numbers[i][f"lead:{attack.name}"] = reached.lead
                if not attack.smoothed:
                    numbers[i][f"base:{attack.name}"] = distances[i]
                if found is not None and found.distance <= subject.radius:
                    label = dataset.label(subject.index)
                    image: NDArray[np.float32] = x[i].numpy()
                    alarms[i].append(
                        Alarm(
                            subject.index,
                            label,
                            answers[i],
                            subject.radius,
                            attack,
                            image,
                            found,
                            self.facts,
                        )
                    )
        seconds = (time.perf_counter() - began) / len(subjects)
        return [
            Outcome(
                subject.index,
                dataset.label(subject.index),
                answers[i],
                subject.radius,
                int(own[i]),
                numbers[i],
                tuple(alarms[i]),
                seconds,
            )
            for i, subject in enumerate(subjects)
        ]

    def _points(
        self,
        attack: Attack,
        x: Tensor,
        subjects: Sequence[CertifiedImage],
        answers: Sequence[int],
        own: NDArray[np.int16],
    ) -> Tensor:
        """Attack images at every radius, shape (images, radii, C, H, W)."""
        radii = torch.tensor(
            [[subject.radius, *self.grid] for subject in subjects], dtype=torch.float64
        )
        # An attack on the base classifier gets away from that one's class, where it has one.
        wanted = [
            answer if attack.smoothed or int(mine) == NO_VOTE else int(mine)
            for answer, mine in zip(answers, own, strict=True)
        ]
        each = radii.shape[1]
        device, dtype = self.judge.engine.device, self.judge.engine.dtype
        rows = x.to(device, dtype).repeat_interleave(each, dim=0)
        y = torch.tensor(wanted, device=device).repeat_interleave(each)
        images = np.repeat([subject.index for subject in subjects], each).tolist()
        found = attack.run(self.target, rows, y, images, radius=radii.flatten().to(device))
        return found.float().cpu().unflatten(0, (len(subjects), each))  # type: ignore[no-untyped-call, no-any-return]


def evaluate_images(
    run: Run,
    evaluation: Evaluation,
    subjects: Sequence[CertifiedImage],
    dataset: Dataset,
    tell: Callable[[Outcome], None] | None = None,
) -> None:
    """Attack what remains of a run; an image's line is on the disk before the next one's.

    Args:
        run: an open run, with the layout of the attacks' outcomes.
        evaluation: the attacks and the judge.
        subjects: the images of the run, all of them and in its order.
        dataset: the images.
        tell: called after each line is safe.

    Raises:
        RunError: a line or an alarm could not be written; everything before it is safe.
    """
    size = evaluation.together
    # Always the same images together, wherever a run was stopped: last bits may depend on it.
    for first in range(run.done // size * size, len(subjects), size):
        for outcome in evaluation.outcomes(subjects[first : first + size], dataset):
            if outcome.idx not in run.remaining:
                continue
            for alarm in outcome.alarms:
                alarm.save(run.folder)
            run.append(outcome)
            if tell is not None:
                tell(outcome)
