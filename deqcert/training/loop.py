"""The training loop: unrolled at first, through the equilibrium afterwards."""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deqcert.data import Dataset, load_dataset
from deqcert.errors import ConfigError
from deqcert.models import TrainableModel, file_hash
from deqcert.models.prunable import hold_zeros
from deqcert.options import options_of
from deqcert.starts.file import StartFile, load_start, save_start, start_path
from deqcert.training.architecture import initial_model
from deqcert.training.augment import crop
from deqcert.training.average import Average
from deqcert.training.config import TrainConfig
from deqcert.training.curve import Row
from deqcert.training.extra import with_extra
from deqcert.training.history import History
from deqcert.training.interrupt import CtrlC
from deqcert.training.measure import measure
from deqcert.training.objectives.base import Objective, TrainingBatch
from deqcert.training.objectives.certified import Certified
from deqcert.training.passes import Passes
from deqcert.training.progress import TrainingProgress
from deqcert.training.proof import proven_norm
from deqcert.training.record import claim, save
from deqcert.training.registry import AUGMENTATIONS, get_objective
from deqcert.training.schedule import Schedule
from deqcert.training.teacher import Teacher, load_teacher
from deqcert.training.unfinished import (
    ALREADY,
    SAVE_AT_END,
    SAVE_EVERY,
    Unfinished,
    resumption,
    saying_what_is_safe,
)
from deqcert.training.workers import Workers

RESTARTS = 5
"""How often a training that diverged goes back to its last good epoch before it gives up."""

POSITION = ("epoch", "step", "order", "good", "caution", "restarts", "resumed")
"""What says where a training is, besides what is saved by parts."""


def train(config: TrainConfig) -> Path:
    """Train a model and save it, or go on with a training of that name that was interrupted.

    Processes that ``torchrun`` starts train one model together, each on its share of every batch;
    the first of them writes.

    With ``epochs`` an interrupted training gives, bit for bit, what an uninterrupted one gives on
    the same machine; with ``minutes`` the time before counts.

    Returns:
        The checkpoint: a state_dict in the public format. Beside it are its YAML configuration, a
        JSON record with the parameters, the versions, the history and the measured accuracy, and
        the whole history as a table and a picture.

    Raises:
        ConfigError: If parameters do not fit, or the training diverges again and again.
        DataError: If the images cannot be used.
        RunError: If the folder cannot be written, already holds a model of that name (one that was
            finished but for tidying up is returned), holds an unfinished training with other
            parameters, or one that another process works on.
        Interrupted: On Ctrl-C, when the step is done and everything is saved.
    """
    workers = Workers(config.device)
    path = Path(config.out) / f"{config.name}.pth"
    try:
        with claim(path) if workers.rank == 0 else nullcontext(), saying_what_is_safe(path):
            return _train(config, workers)
    finally:
        workers.close()


def _train(config: TrainConfig, workers: Workers) -> Path:
    if config.batch % workers.size:
        raise ConfigError(
            f"batch is {config.batch}, but {workers.size} processes share it; make it a multiple."
        )
    data = load_dataset(config.data, "train")
    test = load_dataset(config.data if config.test_data is None else config.test_data, "test")
    if data.hash() == test.hash():
        raise ConfigError(
            f"training and test images are the same ({test.name}); give test_data with others."
        )
    if len(data) < config.batch:
        raise ConfigError(
            f"batch is {config.batch}, but there are {len(data)} training images; lower it."
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = initial_model(config, data).to(config.device)
    if config.keep_zeros:
        hold_zeros(model)
    if config.extra is not None:
        data = with_extra(config, data)
    hashes = {"train": data.hash(), "test": test.hash()}
    for checkpoint in ("init", "teacher"):
        if (given := getattr(config, checkpoint)) is not None:
            hashes[checkpoint] = file_hash(given)
    start = get_objective(config.objective, config.sigma, **config.objective_options).start_file()
    if start is not None:
        hashes["start"] = file_hash(start)
    facts = {"images": str(hashes), "model": model.config.to_yaml()}
    if workers.size > 1:
        facts["processes"] = str(workers.size)
    path = Path(config.out) / f"{config.name}.pth"
    unfinished = Unfinished(path, config, facts)
    if workers.same(workers.rank == 0 and unfinished.outlived()):
        TrainingProgress(config.progress and workers.rank == 0).say(ALREADY)
        return path
    return _finish(_Training(model, config, data, test, unfinished, workers), hashes)


def _finish(training: _Training, hashes: dict[str, str]) -> Path:
    """Train to the end, measure the model and save it."""
    config, workers, test = training.config, training.workers, training.test
    history = training.run()
    if workers.rank > 0:
        return Path(config.out) / f"{config.name}.pth"
    best = training.best.eval()
    with TrainingProgress(config.progress, "measuring") as progress:
        measured = measure(
            best,
            test,
            sigma=config.sigma,
            draws=config.test_draws,
            seed=config.seed,
            device=config.device,
            progress=progress,
            radii=training.radii,
        )
    objective = training.objective
    options = {name: getattr(objective, name) for name in options_of(type(objective))}
    path = save(
        dataclasses.replace(config, objective_options=options),
        best,
        history=history,
        measured=measured,
        seconds=training.seconds,
        hashes=hashes,
        levels=test.levels,
        resumed=training.resumed,
        processes=workers.size,
    )
    if training.start is not None:
        save_start(
            start_path(path), dataclasses.replace(training.start, model_sha256=file_hash(path))
        )
    training.unfinished.remove()
    return path


def _start_of(objective: Objective, config: TrainConfig) -> StartFile | None:
    """Read the start network that an objective's evaluations begin at.

    Raises:
        ConfigError: If the training begins with no checkpoint that it could belong to.
        CheckpointError: If it cannot be read or belongs to another checkpoint.
    """
    file = objective.start_file()
    if file is None:
        return None
    if config.init is None:
        raise ConfigError(
            f"start is {file}, which belongs to a checkpoint; begin with that one (--init FILE)."
        )
    return load_start(file, config.init)


def _teacher_of(objective: Objective, config: TrainConfig, data: Dataset) -> Teacher | None:
    """Load the model that an objective learns from."""
    if not objective.needs_teacher:
        return None
    assert config.teacher is not None  # the configuration has checked it
    return Teacher(load_teacher(config.teacher, data, config.device))


class _Training:
    """The state of one training: model, optimiser, and where it stands.

    It goes on where an unfinished training of that name was.

    Attributes:
        best: The model to be saved.
        resumed: Steps that were done when it went on, and in what surroundings.
    """

    def __init__(
        self,
        model: TrainableModel,
        config: TrainConfig,
        data: Dataset,
        test: Dataset,
        unfinished: Unfinished,
        workers: Workers,
    ) -> None:
        self.model, self.config, self.data, self.test = model, config, data, test
        self.unfinished, self.workers = unfinished, workers
        self.generator = torch.Generator().manual_seed(config.seed)
        self.shared = self.generator
        if workers.size > 1:  # what all must draw alike, and what each must draw on its own
            self.shared = torch.Generator().manual_seed(config.seed)
            own = np.random.SeedSequence([config.seed, workers.rank]).generate_state(1)
            self.generator.manual_seed(int(own[0]))
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=config.lr, weight_decay=config.weight_decay
        )
        self.average = Average(model, config.ema) if config.ema > 0.0 else None
        self.best = model if self.average is None else self.average.model
        self.objective = get_objective(config.objective, config.sigma, **config.objective_options)
        self.teacher = _teacher_of(self.objective, config, data)
        self.norm = proven_norm(model)
        self.objective.check(self.norm)
        self.radii = self.objective.radii if isinstance(self.objective, Certified) else None
        self.augment = AUGMENTATIONS.get(config.augment)
        self.schedule = Schedule(config, model.config)
        self.passes = Passes(model, config, self.generator)
        self.start = _start_of(self.objective, config)
        if self.start is not None:
            self.passes.start = self.start.net.to(config.device)
        self.labels = torch.from_numpy(data.labels())
        self.steps = len(data) // config.batch
        self.caution, self.restarts = 1.0, 0
        self.epoch, self.step = 0, 0
        self.order = self._shuffle()
        self.history = History(config, test, self.radii)
        self.good = self._snapshot()
        self.resumed: list[dict[str, Any]] = []
        self.began = time.perf_counter()
        found = unfinished.load()
        if found is not None:
            self._restore(found)
        if workers.rank == 0:
            self.history.begin()

    @property
    def seconds(self) -> float:
        """Time spent so far, that before an interruption included."""
        return time.perf_counter() - self.began

    def run(self) -> list[Row]:
        """Train to the end; return the history."""
        shown = self.config.progress and self.workers.rank == 0
        with TrainingProgress(shown) as progress, CtrlC(shown) as self.ctrl_c:
            if self.resumed:
                progress.say(f"going on after {self._total()} steps")
            while self._share() < 1.0:
                self.model.train()
                if self._epoch(progress):
                    self.epoch, self.step = self.epoch + 1, 0
                    self.order, self.good = self._shuffle(), self._snapshot()
                else:
                    self._go_back(progress)
                self._save(SAVE_AT_END if self._share() < 1.0 else 0.0)
        if self.workers.same(self.ctrl_c.pressed):
            raise KeyboardInterrupt
        return self.history.rows

    def _epoch(self, progress: TrainingProgress) -> bool:
        """Train to the end of the epoch; False if a loss or a gradient was not finite."""
        while self.step < self.steps and (share := self._share()) < 1.0:
            loss = self._step(*self._batch(share), share)
            if loss is None:
                return False
            self.step += 1
            self.history.add(loss, self.passes.nfe)
            if self.step == self.steps or self.history.due:
                self._row(share, progress)
            stop = bool(self.workers.same(self.ctrl_c.pressed))
            self._save(0.0 if stop else SAVE_EVERY)
            if stop:
                raise KeyboardInterrupt
        if self.history.waiting:  # the time was up
            self._row(1.0, progress)
        return True

    def _row(self, share: float, progress: TrainingProgress) -> None:
        """Enter a row into the history."""
        row: Row = {
            "epoch": self.epoch + self.step / self.steps,
            "step": self._total(),
            "seconds": self.seconds,
            "rate": self.caution * self.schedule.rate(share),
            "unrolled": float(self.passes.unrolled > 0),
        }
        done = self._share()
        if self.workers.rank > 0:
            self.history.waiting.clear()
            return
        progress.update(done, self.history.enter(row, self.best, last=done >= 1.0))

    def _step(self, x: Tensor, y: Tensor, share: float) -> float | None:
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = self.caution * self.schedule.rate(share)
        unrolled = self.schedule.unrolled(share)
        self.passes.unrolled = self.schedule.depth(share) if unrolled else 0
        self.passes.begin()
        loss = self.objective.loss(
            TrainingBatch(
                x,
                y,
                self.passes,
                self.passes.attacked,
                self.generator,
                share,
                self.passes.quick,
                self.passes.latents,
                self.passes.prove if self.norm is not None else None,
                self.teacher,
            )
        )
        total = loss
        penalised = torch.rand((), generator=self.shared).item() < config.jacobian_share
        if config.jacobian_weight > 0.0 and penalised:
            total = loss + config.jacobian_weight * self.passes.jacobian_penalty()
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        loss, total = loss.detach(), total.detach()
        self.workers.average(
            [
                *(loss, total),
                *(entry.grad for entry in self.model.parameters() if entry.grad is not None),
                *(entry for entry in self.model.buffers() if entry.is_floating_point()),
            ]
        )
        size = torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.clip)
        if not (math.isfinite(total.item()) and math.isfinite(size.item())):
            return None
        self.optimizer.step()
        if self.average is not None:
            self.average.update(self.model)
        return loss.item()

    def _batch(self, share: float) -> tuple[Tensor, Tensor]:
        """Return the next images and labels of the epoch."""
        first = self.step * self.config.batch
        rows = self.order[first : first + self.config.batch]
        rows = rows[self.workers.part(len(rows))]
        x = self.augment(torch.from_numpy(self.data.batch(rows.numpy())), self.generator)
        side = self.schedule.side(share)
        if side:
            x = crop(x, side, side, self.generator)
        return x.to(self.config.device), self.labels[rows].to(self.config.device)

    def _shuffle(self) -> Tensor:
        return torch.randperm(len(self.data), generator=self.shared)

    def _total(self) -> int:
        return self.epoch * self.steps + self.step

    def _share(self) -> float:
        """Return how much of the training is done, from 0 to 1."""
        if self.config.minutes > 0.0:
            return self.workers.same(min(1.0, self.seconds / (60.0 * self.config.minutes)))
        return min(1.0, (self.epoch + self.step / self.steps) / self.config.epochs)

    def _snapshot(self) -> dict[str, Any]:
        """Copy what a step changes in place."""
        parts = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state() if self.average is not None else None,
            "history": self.history.state(),
        }
        return copy.deepcopy(parts)

    def _revert(self, snapshot: dict[str, Any]) -> None:
        self.model.load_state_dict(snapshot["model"])
        self.optimizer.load_state_dict(copy.deepcopy(snapshot["optimizer"]))
        if self.average is not None:
            self.average.restore(snapshot["average"])
        self.history.restore(snapshot["history"])

    def _go_back(self, progress: TrainingProgress) -> None:
        self.restarts += 1
        if self.restarts > RESTARTS:
            raise ConfigError(
                f"the training diverged {self.restarts} times; lower lr below {self.config.lr:g} "
                "or raise jacobian_weight."
            )
        self._revert(self.good)
        self.step, self.order = 0, self._shuffle()
        self.caution *= 0.5
        progress.say("a loss was not finite: back to the last good epoch, at half the rate")

    def _save(self, every: float) -> None:
        """Save everything that a step depends on, if it was not done for so many seconds."""
        if self.workers.same(self.unfinished.age) < every:
            return
        generators = self.workers.gather(self.generator.get_state())
        if self.workers.rank == 0:
            state = {name: getattr(self, name) for name in POSITION}
            now = self.good if self.step == 0 else self._snapshot()
            more = {"now": now, "seconds": self.seconds}
            more |= {"generators": generators, "shared": self.shared.get_state()}
            self.unfinished.save(state | more)

    def _restore(self, state: dict[str, Any]) -> None:
        for name in POSITION:
            setattr(self, name, state[name])
        self._revert(state["now"])
        self.shared.set_state(state["shared"])
        self.generator.set_state(state["generators"][self.workers.rank])
        self.began = time.perf_counter() - state["seconds"]
        self.resumed.append(resumption(self._total()))
