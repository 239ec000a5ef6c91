"""Noisy copies in, votes out: batches, chains and exact counts, in memory that does not grow."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from deqcert.devices import open_device
from deqcert.errors import ConfigError, DataError
from deqcert.models.base import ImplicitModel
from deqcert.models.shaped import ShapedModel
from deqcert.smoothing.grid import grid_law
from deqcert.smoothing.input import Input
from deqcert.smoothing.noise import (
    LIMIT,
    check_counters,
    describe_noise,
    grid_points,
    noisy_copies,
    on_grid,
)
from deqcert.smoothing.predictor import Predictor
from deqcert.smoothing.stage import Stage
from deqcert.smoothing.stream import SolvedRows, solve_stream
from deqcert.solvers import SolveResult, Status, StopRule, bind

NO_VOTE = -1
"""The prediction of a sample that votes for no class."""

MOST_CLASSES = int(np.iinfo(np.int16).max)
"""Classes that predictions can tell apart."""


@dataclass(frozen=True, slots=True)
class Votes:
    """How the noisy copies of one input were classified.

    Attributes:
        predictions: Class per sample, shape (n,), int16; -1 where it has no vote, because
            its solve did not converge or was not finite. Such samples stay in n.
        classes: Number of classes.
        nfe: Cell evaluations spent, start-up included: a learned start counts by its cost.
        seconds: Wall time, in seconds.
        margins: Gap between the two largest logits per sample, shape (n,), float32; how sure a vote
            is of itself. 0 where a sample has no vote.
    """

    predictions: NDArray[np.int16]
    classes: int
    nfe: float
    seconds: float
    margins: NDArray[np.float32]

    @property
    def counts(self) -> NDArray[np.int64]:
        """Votes per class, shape (K,)."""
        voted = self.predictions[self.predictions != NO_VOTE]
        return np.bincount(voted, minlength=self.classes).astype(np.int64)


@dataclass(frozen=True, slots=True)
class VoteBatch:
    """One solved batch of noisy copies, as :meth:`SmoothingEngine.batches` yields it.

    Attributes:
        samples: Indices of the samples, shape (b,); rows that stop by their own residual come in
            the order in which they ended.
        logits: Shape (b, K).
        predictions: Class per sample, shape (b,), int16; -1 where it has no vote.
        residual: Residual of the state read out per sample, shape (b,); NaN at a fixed depth.
        nfe: Cell evaluations per sample, shape (b,), int64; what else it cost says
            :meth:`Predictor.spent`.
        overhead: Further evaluations spent for this batch, such as the noiseless solve.
        z: States read out, shape (b, D).
        injection: What entered the cell, shape (b, ...).
    """

    samples: NDArray[np.int64]
    logits: Tensor
    predictions: NDArray[np.int16]
    residual: NDArray[np.float64]
    nfe: NDArray[np.int64]
    overhead: int
    z: Tensor
    injection: Tensor

    @property
    def margins(self) -> NDArray[np.float32]:
        """Gap between the two largest logits per sample, shape (b,); 0 without a vote."""
        gaps = np.zeros(len(self.predictions), dtype=np.float32)
        if self.logits.shape[1] > 1:
            leading = self.logits.topk(2, dim=1).values.float()
            gaps[:] = (leading[:, 0] - leading[:, 1]).cpu().numpy()
        gaps[self.predictions == NO_VOTE] = 0.0
        return gaps


class Callback(Protocol):
    """What looks on while votes are cast; it changes none."""

    def __call__(self, batch: VoteBatch, *, predictor: Predictor, stage: int, number: int) -> None:
        """Take note of a solved batch.

        Args:
            batch: The batch.
            predictor: How it was classified.
            stage: What its samples are for.
            number: Batches of the same call before it.
        """
        ...


class SmoothingEngine:
    """Classify noisy copies of inputs with an implicit model.

    Args:
        model: Any model of the four-method protocol; put into evaluation mode and moved to the
            device where it is a torch module.
        sigma: Standard deviation of the noise, in input units ([0, 1] pixels), above 0.
        seed: Seed of the noise, 0 to 2^128 - 1.
        batch: Samples solved together, and slots of a chained start, at least 1.
        shape: Rows of every evaluation of the model; smaller batches are padded to it and larger
            ones are split. The default is the batch. Votes of independent starts do not depend on
            ``batch``; they may depend on ``shape`` in the last bit.
        device: Where the model runs, as torch names it.
        levels: L for exact noise on inputs of the grid 0, 1/L, ..., 1, such as 255 for 8-bit
            images: the base classifier then is the model behind a rounding to that grid, and
            nothing about floating point is left to assume. None for float noise.
        callbacks: Called with each batch once it is solved.
        base_stage: Added to every stage that noise is asked for: 0, or ``Stage.BENCH`` where
            nothing that is certified may see the same noise.

    Raises:
        ConfigError: If a value is out of range, the device is not there, or there are no tables
            for so fine a grid and so large a sigma.
    """

    def __init__(
        self,
        model: ImplicitModel,
        *,
        sigma: float,
        seed: int = 0,
        batch: int = 100,
        shape: int | None = None,
        device: str = "cpu",
        levels: int | None = None,
        callbacks: Sequence[Callback] = (),
        base_stage: int = 0,
    ) -> None:
        shape = batch if shape is None else shape
        if not 0.0 < sigma < float("inf"):
            raise ConfigError(f"sigma is {sigma}, but it must be above 0 (in [0, 1] pixel units).")
        for name, value in (("batch", batch), ("shape", shape)):
            if isinstance(value, bool) or value < 1:
                raise ConfigError(f"{name} is {value}, but it must be a whole number from 1.")
        check_counters(seed=seed, index=0, stage=0)
        check_classes(getattr(model, "num_classes", None))
        self.device = open_device(device)
        self.dtype = torch.float32
        if isinstance(model, torch.nn.Module):
            model.eval().to(self.device)
            self.dtype = next((p.dtype for p in model.parameters()), torch.float32)
        self.sigma, self.seed, self.batch = float(sigma), int(seed), int(batch)
        self.levels = levels
        if levels is not None:
            grid_law(levels, self.sigma)
        self.callbacks = list(callbacks)
        self.base_stage = int(base_stage)
        self.raw = model
        self.model = ShapedModel(model, int(shape))

    def charge(self, x: ArrayLike | Tensor, samples: int) -> float:
        """Return what statements about an input must pay of alpha for how noise is drawn.

        Args:
            x: The input.
            samples: Noisy copies that they rest on.

        Returns:
            A bound of the total variation between the noise that is drawn and that of the law, for
            all copies together; 0 for float noise, whose law is assumed.
        """
        if self.levels is None:
            return 0.0
        return grid_law(self.levels, self.sigma).charge(samples, int(np.prod(np.shape(x))))

    def describe_noise(self, charge: float = 0.0) -> str:
        """Say in words what noise is drawn, and what is assumed of it."""
        return describe_noise(self.levels, self.sigma, charge)

    def seen(self, x: Tensor) -> Tensor:
        """Return what the base classifier makes of pixels in [0, 1] before the model sees them."""
        return x if self.levels is None else on_grid(x, self.levels).to(x.dtype)

    def beside(self, model: ImplicitModel, *, shape: int) -> SmoothingEngine:
        """Return an engine that draws the very same noise for another model, and calls nobody.

        Args:
            model: The model, which is put into evaluation mode and moved like the engine's own.
            shape: Rows of every evaluation of it, at least 1.
        """
        twin = copy.copy(self)
        if isinstance(model, torch.nn.Module):
            model.eval().to(self.device)
            twin.dtype = next((p.dtype for p in model.parameters()), torch.float32)
        twin.raw, twin.model, twin.callbacks = model, ShapedModel(model, shape), []
        return twin

    def votes(self, predictor: Predictor, input: Input, stage: int, n: int) -> Votes:
        """Classify n noisy copies of an input.

        Args:
            predictor: How a copy is classified.
            input: The input, and the index that selects its noise.
            stage: What the samples are for; different stages never share noise.
            n: Number of copies, from 1.

        Raises:
            ConfigError: If a number is out of range.
            DataError: If the input does not fit the model.
        """
        return self.classify(predictor, input, stage, np.arange(n, dtype=np.int64))

    def classify(
        self,
        predictor: Predictor,
        input: Input,
        stage: int,
        samples: NDArray[np.int64],
    ) -> Votes:
        """Classify the noisy copies with the given indices; see :meth:`votes`.

        Args:
            predictor: How a copy is classified.
            input: The input, and the index that selects its noise.
            stage: What the samples are for; different stages never share noise.
            samples: Indices of the copies, shape (n,), 0 to 2^32 - 1, all different, in any order.

        Returns:
            Their votes in that order.

        Raises:
            ConfigError: If a number is out of range or a sample is given twice.
            DataError: If the input does not fit the model.
        """
        began = time.perf_counter()
        places = np.argsort(samples, kind="stable")
        ordered = np.asarray(samples)[places]
        predictions = np.empty(len(samples), dtype=np.int16)
        margins = np.empty(len(samples), dtype=np.float32)
        cells = readouts = overhead = classes = 0
        for batch in self.batches(predictor, input, stage, samples):
            at = places[np.searchsorted(ordered, batch.samples)]
            predictions[at], margins[at] = batch.predictions, batch.margins
            cells, overhead = cells + int(batch.nfe.sum()), overhead + batch.overhead
            readouts += predictor.readouts(batch.nfe)
            classes = batch.logits.shape[1]
        # Once, at the end: a sum of fractions would depend on how the samples were split.
        spent = predictor.spent(cells, len(samples), readouts) + overhead
        return Votes(predictions, classes, spent, time.perf_counter() - began, margins)

    @torch.no_grad()  # while this runs: not while the caller holds what it yielded
    def batches(
        self,
        predictor: Predictor,
        input: Input,
        stage: int,
        samples: NDArray[np.int64],
    ) -> Iterator[VoteBatch]:
        """Solve the noisy copies with the given indices, batch by batch.

        The caller's grad mode is its own between two batches.

        Args:
            predictor: How a copy is classified.
            input: The input, and the index that selects its noise.
            stage: What the samples are for; different stages never share noise.
            samples: Indices of the copies, shape (n,), 0 to 2^32 - 1, all different.

        Yields:
            Solved batches, each sample in one of them.

        Raises:
            ConfigError: If a number is out of range or a sample is given twice.
            DataError: If the input does not fit the model.
        """
        samples = np.asarray(samples, dtype=np.int64)
        if samples.size == 0 or samples.min() < 0 or samples.max() >= LIMIT:
            raise ConfigError(f"sample indices must be one or more numbers from 0 to {LIMIT - 1}.")
        if len(np.unique(samples)) != len(samples):
            raise ConfigError("sample indices must differ: a sample has one vote.")
        if not 0 <= stage < Stage.BENCH:
            raise ConfigError(f"stage is {stage}, but it must be from 0 to {Stage.BENCH - 1}.")
        check_counters(seed=self.seed, index=input.index, stage=self.base_stage + stage)
        clean = self.prepare(input.x)
        blocks = self._blocks(clean, input.index, self.base_stage + stage, samples)
        if predictor.independent and not predictor.fixed_depth:
            solved = self._streamed(predictor, blocks)
        else:
            solved = self._batched(predictor, clean, blocks)
        for number, batch in enumerate(solved):
            for callback in self.callbacks:
                callback(batch, predictor=predictor, stage=stage, number=number)
            yield batch

    def _blocks(
        self, clean: Tensor, index: int, stage: int, samples: NDArray[np.int64]
    ) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
        """Yield the injections of the noisy copies, a batch at a time."""
        for first in range(0, len(samples), self.batch):
            part = samples[first : first + self.batch]
            noisy = noisy_copies(
                clean,
                part,
                sigma=self.sigma,
                seed=self.seed,
                index=index,
                stage=stage,
                levels=self.levels,
            )
            yield part, self._inject(noisy)

    def _streamed(
        self, predictor: Predictor, blocks: Iterator[tuple[NDArray[np.int64], Tensor]]
    ) -> Iterator[VoteBatch]:
        """Solve until each row ends by itself, keeping the batch full."""
        stop = predictor.stop
        for solved in solve_stream(self.model, predictor, blocks, self.batch):
            yield self.read(solved, stop)

    def _batched(
        self,
        predictor: Predictor,
        clean: Tensor,
        blocks: Iterator[tuple[NDArray[np.int64], Tensor]],
    ) -> Iterator[VoteBatch]:
        """Solve batch after batch, each from where the start policy says."""
        overhead = 0

        def equilibrium() -> Tensor:
            nonlocal overhead
            assert predictor.warmup is not None
            result = self._solve(predictor, self._inject(clean[None]), None, predictor.warmup)
            overhead = int(result.nfe.sum())
            return result.z[0]

        chain = predictor.start.begin(self.batch, equilibrium)
        for number, (samples, injection) in enumerate(blocks):
            stop, start = predictor.stop, None
            refresh = predictor.refresh > 0 and number % predictor.refresh == 0
            if chain.ready and not refresh:
                start = chain.start(predictor.start.initial(self.model, injection))
            elif predictor.warmup is not None:
                stop = predictor.warmup
            result = self._solve(predictor, injection, start, stop)
            batch, usable = self._read(samples, injection, result, stop, overhead)
            chain.learn(result.z, usable)
            yield batch
            overhead = 0

    def _read(
        self,
        samples: NDArray[np.int64],
        injection: Tensor,
        result: SolveResult,
        stop: StopRule,
        overhead: int = 0,
        logits: Tensor | None = None,
    ) -> tuple[VoteBatch, Tensor]:
        """Read the classes out; also return per row whether it may vote, shape (b,)."""
        usable = result.status != Status.NONFINITE if stop.fixed_depth else result.converged
        if logits is None:
            logits = self.model.readout(result.z)
        check_classes(logits.shape[1])
        usable = usable & torch.isfinite(logits).all(dim=1)
        winners = torch.where(usable, logits.argmax(dim=1), NO_VOTE)
        batch = VoteBatch(
            samples=samples,
            logits=logits,
            predictions=winners.cpu().numpy().astype(np.int16),
            residual=result.residual.cpu().numpy(),
            nfe=result.nfe.cpu().numpy(),
            overhead=overhead,
            z=result.z,
            injection=injection,
        )
        return batch, usable

    def read(self, solved: SolvedRows, stop: StopRule) -> VoteBatch:
        """Read the classes of solved rows out.

        Args:
            solved: The rows.
            stop: When their solves ended.
        """
        return self._read(
            solved.samples, solved.injection, solved.result, stop, logits=solved.logits
        )[0]

    def prepare(self, x: ArrayLike | Tensor) -> Tensor:
        """Bring an input to the device, shape (C, H, W), float32.

        Raises:
            DataError: If it does not fit the model, is not finite, or lies off the grid of exact
                noise.
        """
        clean = torch.as_tensor(x, dtype=torch.float32, device=self.device)
        expected = getattr(self.raw, "input_shape", None)
        if expected is not None and tuple(clean.shape) != tuple(expected):
            raise DataError(
                f"the image has shape {tuple(clean.shape)}, but the model takes "
                f"{tuple(expected)} (channels, height, width)."
            )
        if not bool(torch.isfinite(clean).all()):
            raise DataError("the image has values that are not finite; pixels must be in [0, 1].")
        if self.levels is not None:
            grid_points(clean, self.levels)
        return clean

    def _inject(self, x: Tensor) -> Tensor:
        return self.model.inject(x.to(self.dtype))

    def _solve(
        self, predictor: Predictor, injection: Tensor, start: Tensor | None, stop: StopRule
    ) -> SolveResult:
        if start is None:
            start = self.model.initial_state(injection)
        return predictor.solver.solve(bind(self.model.cell, injection), start, stop)


def check_classes(count: int | None) -> None:
    """Refuse more classes than predictions can tell apart; None is not known yet.

    Raises:
        ConfigError: If there are more.
    """
    if count is not None and count > MOST_CLASSES:
        raise ConfigError(
            f"the model has {count} classes, but votes are counted for at most {MOST_CLASSES}; "
            "give a model that answers with fewer."
        )
