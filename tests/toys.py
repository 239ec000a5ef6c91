"""Implicit models whose smoothed classifier is known in closed form, and adversaries of them."""

from __future__ import annotations

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from deqcert.smoothing import Predictor
from deqcert.solvers import StopRule, get_solver
from deqcert.starts.base import Chain, StartPolicy

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


class ReadsLastBits(HalfLine):
    """Class 0 if every value of the noisy input can be fl(x + y) for one image x and a float y.

    Near 0, where x and y nearly cancel, floats lie closer than those that x + y can be: which of
    them are hit tells x. So the class is always 0 around x, and nowhere else.
    """

    def __init__(self, image: Tensor) -> None:
        self.image = image.flatten()
        self.input_shape = tuple(image.shape)

    def inject(self, x: Tensor) -> Tensor:
        values = x.flatten(1)
        # The difference is exact in float64; the y that could have made the value are those nearby.
        apart = (values.double() - self.image.double()).float()
        possible = torch.zeros_like(values, dtype=torch.bool)
        for y in (apart, *(torch.nextafter(apart, torch.full_like(apart, s)) for s in (-9.0, 9.0))):
            possible |= self.image + y == values
        return (~possible).sum(dim=1, keepdim=True).float()

    def readout(self, z: Tensor) -> Tensor:
        return torch.cat([0.5 - z, z - 0.5], dim=1)


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
