"""Implicit models whose smoothed classifier is known in closed form, and adversaries of them."""

from __future__ import annotations

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from deqcert.smoothing import Predictor
from deqcert.solvers import StopRule, get_solver
from deqcert.starts.policies import Chain, StartPolicy

SIGMA = 0.5


class HalfLine:
    """One number in, class 0 below ``threshold`` and class 1 above it.

    The cell moves a thousandth of the way from the state to the input: its equilibrium is the
    input, Anderson finds it at once, and one Picard step leaves a state nearly where it started.
    So a start policy decides alone what a one-step warm solve answers.
    """

    input_shape = (1, 1, 1)
    num_classes = 2

    def __init__(self, probability: float) -> None:
        """Class 0 has this probability at the input 0 under noise of deviation SIGMA."""
        self.threshold = SIGMA * float(stats.norm.ppf(probability))

    def inject(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), 1)

    def initial_state(self, injection: Tensor) -> Tensor:
        return injection.clone()

    def cell(self, z: Tensor, injection: Tensor) -> Tensor:
        return z + 1e-3 * (injection - z)

    def readout(self, z: Tensor) -> Tensor:
        return torch.cat([self.threshold - z, z - self.threshold], dim=1)


class _Adversary(Chain):
    def __init__(self, start) -> None:
        self._start = start

    def start(self, cold: Tensor) -> Tensor:
        return self._start(cold)


class AlwaysFirst(StartPolicy):
    """Answer class 0 whatever the sample."""

    name = "always first"
    independent = False

    def begin(self, batch, equilibrium):
        return _Adversary(lambda cold: torch.full_like(cold, -100.0))


class WrongWhereItHurts(StartPolicy):
    """Answer class 0 rightly, and for every second sample that is not class 0 wrongly."""

    name = "wrong where it hurts"
    independent = False

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold

    def begin(self, batch, equilibrium):
        def start(cold: Tensor) -> Tensor:
            wrong = (cold[:, 0] > self.threshold) & (torch.arange(len(cold)) % 2 == 0)
            return torch.where(wrong[:, None], torch.full_like(cold, -100.0), cold)

        return _Adversary(start)


class CopiesItsNeighbour(StartPolicy):
    """Answer for eight samples in a row what the first of them is."""

    name = "copies its neighbour"
    independent = False

    def begin(self, batch, equilibrium):
        return _Adversary(lambda cold: cold[(torch.arange(len(cold)) // 8) * 8])


def adversaries(model: HalfLine) -> list[StartPolicy]:
    return [AlwaysFirst(), WrongWhereItHurts(model.threshold), CopiesItsNeighbour()]


def reference() -> Predictor:
    """The base classifier: an exact solve."""
    return Predictor(get_solver("anderson"), StopRule(tol=0, max_nfe=3))


def warm(start: StartPolicy) -> Predictor:
    """One step that leaves the answer to the start policy."""
    return Predictor(
        get_solver("picard"), StopRule(tol=0, max_nfe=1), start, warmup=StopRule(tol=0, max_nfe=3)
    )


ORIGIN = np.zeros((1, 1, 1), dtype=np.float32)
