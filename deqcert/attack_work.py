"""Attacks as work for any process: images and their certificates go in, outcomes come out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from deqcert import compose

if TYPE_CHECKING:
    from deqcert.attacks.evaluation import Evaluation, Group, Outcome
    from deqcert.settings import Machine


class AttackWork:
    """Attack images, here or in another process; see :class:`deqcert.scale.base.Work`.

    A copy in another process makes the evaluation anew, from the same weights and settings.

    Args:
        make: Makes the evaluation of a loaded model; it can be pickled.
        loaded: The model.
        machine: How it is evaluated, in every process.
    """

    def __init__(
        self,
        make: Callable[[compose.Loaded], Evaluation],
        loaded: compose.Loaded,
        machine: Machine,
    ) -> None:
        self._make, self._loaded, self._machine = make, loaded, machine
        self._evaluation: Evaluation | None = make(loaded)

    @property
    def evaluation(self) -> Evaluation:
        """The evaluation in this process."""
        if self._evaluation is None:
            self._loaded = compose.form_here(self._loaded, self._machine)
            self._evaluation = self._make(self._loaded)
        return self._evaluation

    @property
    def device(self) -> str:
        """Where it computes, as torch names it."""
        return self._machine.device

    def open(self) -> Callable[[Group], list[Outcome]]:
        """Get ready, and return what attacks images together."""
        return self.evaluation.outcomes

    def same(self, first: Sequence[Outcome], second: Sequence[Outcome]) -> bool:
        """Whether two outcomes of the same images are equal, wall times apart."""
        return [_timeless(one) for one in first] == [_timeless(one) for one in second]

    def __getstate__(self) -> dict[str, Any]:
        """Leave behind what is this process's own."""
        return {**self.__dict__, "_evaluation": None}


def _timeless(outcome: Outcome) -> tuple[Any, ...]:
    points = [alarm.counterexample.point.cpu().numpy().tobytes() for alarm in outcome.alarms]
    said = [alarm.sentence() for alarm in outcome.alarms]
    return dataclasses.replace(outcome, seconds=0.0, alarms=()), said, points
