"""What turns one noisy input into a class: a solver, a stop rule and a start."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deqcert.errors import ConfigError
from deqcert.smoothing.checked import CheckedStop
from deqcert.smoothing.early import DecidedStop, EarlyStop
from deqcert.smoothing.naming import classifier, converged
from deqcert.solvers import Solver, StopRule
from deqcert.starts.base import StartPolicy
from deqcert.starts.cold import Cold


@dataclass(frozen=True)
class Predictor:
    """A way to classify noisy inputs with an implicit model.

    With an independent start this is a base classifier in the sense of randomized smoothing. With
    a chained start it is a cheap guess that only an audit makes sound.

    Args:
        solver: The fixed-point solver.
        stop: When a solve ends. With a fixed depth every finite state votes; with a tolerance only
            rows that met it vote, which takes two evaluations or more: nobody has evaluated the
            cell at the state after a single one.
        start: Where solves start; cold by default.
        warmup: For a chained start, when the cold solves end that fill the chain: those of the
            first batch and of every ``refresh``-th. Must be None for an independent start.
        refresh: Batches between two cold ones, at least 1; 0 warms up only once.
        early: For an independent start and a fixed depth: when a row ends before that depth, and
            votes all the same.

    Raises:
        ConfigError: If warmup is missing for a chained start or given for an independent one, or
            if early is given where it has no meaning, or a tolerance could be held against no
            state.
    """

    solver: Solver[Any]
    stop: StopRule
    start: StartPolicy = field(default_factory=Cold)
    warmup: StopRule | None = None
    refresh: int = 0
    early: EarlyStop | DecidedStop | CheckedStop | None = None

    def __post_init__(self) -> None:
        if self.start.independent and (self.warmup is not None or self.refresh):
            raise ConfigError(f"start '{self.start.name}' has no chain, so it takes no warm-up.")
        if not self.start.independent and self.warmup is None:
            raise ConfigError(f"start '{self.start.name}' needs a warm-up stop rule.")
        if isinstance(self.refresh, bool) or self.refresh < 0:
            raise ConfigError(f"refresh is {self.refresh}, but it must be a whole number from 0.")
        unmeasured = (self.stop,) if self.early is None else ()
        for stop in (*unmeasured, *((self.warmup,) if self.warmup is not None else ())):
            if stop.tol > 0.0 and stop.max_nfe == 1:
                raise ConfigError(
                    "a single evaluation leaves the state that is read out unmeasured, so a tol of "
                    f"{stop.tol:g} cannot be held against it; allow 2 evaluations or more, or give "
                    "tol 0, with which every sample votes."
                )
        if self.early is not None and not self.start.independent:
            raise ConfigError(
                f"start '{self.start.name}' makes a fixed number of evaluations, so it takes no "
                "early stop; leave it out or use an independent start."
            )
        if self.early is not None and not self.stop.fixed_depth:
            raise ConfigError(
                "an early stop ends rows before a fixed depth; give a stop rule with tol 0."
            )

    @property
    def fixed_depth(self) -> bool:
        """Whether every solve makes the same number of evaluations, warm-up apart."""
        return self.stop.fixed_depth and self.early is None

    @property
    def independent(self) -> bool:
        """Whether samples are independent draws of one base classifier."""
        return self.start.independent

    @property
    def converged(self) -> bool:
        """Whether every vote is that of a state solved to a relative residual of at most 1e-3."""
        return converged(dataclasses.asdict(self.stop))

    @property
    def fewest(self) -> int:
        """Fewest evaluations of the cell that a vote takes."""
        if isinstance(self.early, CheckedStop):
            return min(self.early.depths[0], self.stop.max_nfe)
        return self.stop.max_nfe if self.fixed_depth else 1

    def about(self) -> str:
        """Name the classifier in a few words; see :func:`deqcert.smoothing.naming.classifier`."""
        early = None if self.early is None else dataclasses.asdict(self.early)
        return classifier(self.start.name, dataclasses.asdict(self.stop), early)

    def readouts(self, nfe: NDArray[np.int64]) -> int:
        """Count the readouts that only decide when to stop, given evaluations per sample, (n,)."""
        return 0 if self.early is None else self.early.readouts(nfe)

    def spent(self, cells: int, samples: int, readouts: int | None = None) -> float:
        """Return what solves cost in all, in cell evaluations.

        Starts count by their cost, and so do readouts that only decide when to stop. A whole number
        where there are none.

        Args:
            cells: Cell evaluations made, all samples together.
            samples: Number of samples.
            readouts: What :meth:`readouts` counted; if not given, one for each evaluation.
        """
        more = self.start.cost * samples
        if self.early is not None:
            more += self.early.readout * (cells if readouts is None else readouts)
        return cells + more if more else cells

    def describe(self) -> str:
        """Say in words what the predictor does."""
        if isinstance(self.early, CheckedStop):
            depth = f"{self.early.describe()}, or else {self.stop.max_nfe} evaluations"
        elif self.early is not None:
            depth = f"up to {self.stop.max_nfe} evaluations, the last {self.early.describe()}"
        elif self.stop.fixed_depth:
            most = self.stop.max_nfe
            depth = "1 evaluation" if most == 1 else f"{most} evaluations"
        else:
            depth = (
                f"residual ({self.stop.mode}) at most {self.stop.tol:g} "
                f"within {self.stop.max_nfe} evaluations"
            )
        return f"{self.solver.name} from {self.start.describe()}, {depth}"
