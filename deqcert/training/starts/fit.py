"""Fit a start network to a frozen model: regression on solved states, through the cell."""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deqcert.data import Dataset
from deqcert.errors import ConfigError, DataError
from deqcert.models import ImplicitModel, StateLayout
from deqcert.solvers import StopRule
from deqcert.starts.file import StartFile
from deqcert.starts.network import build_start, start_architecture
from deqcert.training.interrupt import CtrlC
from deqcert.training.progress import TrainingProgress
from deqcert.training.registry import AUGMENTATIONS
from deqcert.training.starts.config import StartConfig
from deqcert.training.starts.pool import Pool, SolvedImages, solve_states
from deqcert.training.unfinished import SAVE_AT_END, SAVE_EVERY, Unfinished, resumption

REGRESSION = 0.15
"""Share of the training in which only the start itself is compared, several times faster."""

PARTS = 8
"""Batches of solved states in a round; each round draws new images and new noise."""

PATIENCE = 5
"""Steps in a row that may fail to be finite before the training gives up."""


POSITION = ("done", "lost", "passes", "rows", "losses", "history", "resumed")
"""What says where a training is, besides what is saved by parts."""


@dataclass(frozen=True)
class Fitted:
    """A start network that was fitted, and how.

    Attributes:
        net: The network, in evaluation mode.
        architecture: What :func:`deqcert.starts.network.build_start` makes it from.
        history: One entry per round.
        resumed: Steps that were done when the training went on, and in what surroundings.
        seconds: Time that it took, that before an interruption included.
    """

    net: nn.Module
    architecture: dict[str, Any]
    history: list[dict[str, float]]
    resumed: list[dict[str, Any]]
    seconds: float


def fit_start(
    model: ImplicitModel,
    data: Dataset,
    config: StartConfig,
    unfinished: Unfinished,
    init: StartFile | None = None,
) -> Fitted:
    """Fit a start network to any model of the protocol, or go on with an unfinished training.

    Args:
        model: The model; put into evaluation mode. Its weights do not change.
        data: Training images.
        config: Everything else; its ``model``, ``data`` and ``init`` are not looked at.
        unfinished: Where the training saves its state, and finds it. It is there when this returns.
        init: Where to begin, instead of random weights.

    Raises:
        ConfigError: If there are too few images, or the training diverges.
        DataError: If the images do not fit the model.
        RunError: If the state cannot be read or saved.
        KeyboardInterrupt: On Ctrl-C, when the step is done and everything is saved.
    """
    if len(data) < config.batch:
        raise ConfigError(
            f"batch is {config.batch}, but there are {len(data)} training images; lower it."
        )
    expected = getattr(model, "input_shape", None)
    if expected is not None and tuple(expected) != tuple(data.shape):
        raise DataError(
            f"the images of {data.name} have shape {tuple(data.shape)}, but the model takes "
            f"{tuple(expected)} (channels, height, width)."
        )
    if isinstance(model, nn.Module):
        model.eval().to(config.device)
    if config.labels > 0.0:
        _check_classes(model, data, config)
    if init is None:
        one = torch.from_numpy(data.batch(np.arange(1))).to(config.device)
        with torch.no_grad():
            architecture = start_architecture(model, model.inject(one))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            net = build_start(architecture)
    else:
        architecture, net = init.architecture, copy.deepcopy(init.net).requires_grad_(True).train()
    net = net.to(config.device)
    fitting = _Fitting(model, net, data, config, unfinished, knows=init is not None)
    with _frozen(model):
        fitting.run()
    return Fitted(net.eval(), architecture, fitting.history, fitting.resumed, fitting.seconds)


def _check_classes(model: ImplicitModel, data: Dataset, config: StartConfig) -> None:
    classes = getattr(model, "num_classes", len(data.classes))
    if classes != len(data.classes):
        raise ConfigError(
            f"labels is {config.labels}, but {data.name} has {len(data.classes)} classes and the "
            f"model {classes}; take the images that it was trained for, or labels 0."
        )


@contextlib.contextmanager
def _frozen(model: ImplicitModel) -> Iterator[None]:
    """Ask for no gradients of the model's weights; they would cost as much as those of states."""
    parameters = list(model.parameters()) if isinstance(model, nn.Module) else []
    before = [parameter.requires_grad for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter, asked in zip(parameters, before, strict=True):
            parameter.requires_grad_(asked)


class _Fitting:
    """The state of one training: network, optimiser, and where it stands.

    It goes on where an unfinished training was. A round solves new images part by part, then takes
    the steps of some passes over them.
    """

    def __init__(
        self,
        model: ImplicitModel,
        net: nn.Module,
        data: Dataset,
        config: StartConfig,
        unfinished: Unfinished,
        knows: bool,
    ) -> None:
        self.model, self.net, self.data, self.config = model, net, data, config
        self.unfinished, self.knows = unfinished, knows
        self.labels = torch.from_numpy(data.labels())
        self.generator = torch.Generator().manual_seed(config.seed)
        self.optimizer = torch.optim.Adam(net.parameters(), lr=config.lr)
        self.augment = AUGMENTATIONS.get(config.augment)
        self.pool = Pool(config.batch)
        self.stop = StopRule(tol=config.tol, max_nfe=config.max_nfe)
        self.done = self.lost = self.passes = 0
        self.rows: Tensor | None = None
        self.losses: list[dict[str, float]] = []
        self.history: list[dict[str, float]] = []
        self.resumed: list[dict[str, Any]] = []
        self.began = time.perf_counter()
        found = unfinished.load()
        if found is not None:
            self._restore(found)

    @property
    def seconds(self) -> float:
        """Time spent so far, that before an interruption included."""
        return time.perf_counter() - self.began

    def run(self) -> None:
        """Train to the end; the state of the end is saved."""
        shown = self.config.progress
        with TrainingProgress(shown) as progress, CtrlC(shown) as self.ctrl_c:
            if self.resumed:
                progress.say(f"going on after {self.done} steps")
            while self._share() < 1.0:
                self._refill(cold=not (self.history or self.knows))
                self._learn()
                if not self.losses:
                    if self.history:
                        break  # the time was over while new states were solved
                    raise ConfigError(
                        "no step could be taken: the time is too short, or no noisy image could "
                        "be solved; give more minutes, a larger max_nfe or another model."
                    )
                self._enter(progress)
                self._pause(SAVE_AT_END)
            self._save(0.0)
        if self.ctrl_c.pressed:
            raise KeyboardInterrupt

    def _enter(self, progress: TrainingProgress) -> None:
        """End the round: enter it into the history."""
        # The last step says what there is to say: earlier ones may have had fewer parts.
        entry = {"step": float(self.done), "seconds": self.seconds}
        entry |= {
            name: float(np.mean([step[name] for step in self.losses if name in step]))
            for name in self.losses[-1]
        }
        self.history.append(entry)
        self.pool.clear()
        self.passes, self.rows, self.losses = 0, None, []
        progress.tell(
            min(1.0, self._share()),
            "  ".join(f"{name} {value:.4g}" for name, value in entry.items()),
        )

    def _refill(self, cold: bool) -> None:
        """Solve new noisy images, from the network's own guess as soon as there is one."""
        if self.rows is None:
            shape = (PARTS, self.config.batch)
            self.rows = torch.randint(len(self.data), shape, generator=self.generator)
        while len(self.pool) < PARTS:
            part = self.rows[len(self.pool)].numpy()
            x = self.augment(torch.from_numpy(self.data.batch(part)), self.generator)
            x = x + self.config.sigma * torch.randn(x.shape, generator=self.generator)
            x = x.to(self.config.device)
            with torch.no_grad():
                start = None if cold else self.net(self.model.inject(x))
            labels = self.labels[part].to(self.config.device)
            self.pool.add(solve_states(self.model, x, labels, start, self.stop))
            self._pause(SAVE_EVERY)

    def _learn(self) -> None:
        """Take the steps of all passes over what was solved."""
        while self.passes < self.config.reuse:
            for solved in self.pool.draw(self.generator):
                if self._share() >= 1.0:
                    return
                self.losses.append(self._step(solved))
                self._pause(SAVE_EVERY)
            self.passes += 1

    def _step(self, solved: SolvedImages) -> dict[str, float]:
        """Take one step; return the parts of its loss."""
        share = min(1.0, self._share())
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr * 0.5 * (1.0 + math.cos(math.pi * share))
        z = self.net(solved.injection)
        total = self._error(z, solved.z)
        parts = {"start": total.item()}
        if share >= REGRESSION or self.knows:
            for _ in range(self.config.cells):
                z = self.model.cell(z, solved.injection)
            after = self._error(z, solved.z)
            logits = self.model.readout(z)
            divergence = F.kl_div(
                F.log_softmax(logits, dim=1),
                F.log_softmax(solved.logits, dim=1),
                reduction="batchmean",
                log_target=True,
            )
            # The start's own error shows the way at first; what counts is where it leads.
            total = (1.0 - share) * total + after + self.config.divergence * divergence
            parts |= {"after": after.item(), "divergence": divergence.item()}
            if self.config.labels > 0.0:
                wrong = F.cross_entropy(logits, solved.labels)
                total = total + self.config.labels * wrong
                parts["labels"] = wrong.item()
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        size = torch.nn.utils.clip_grad_norm_(self.net.parameters(), self.config.clip)
        self.done += 1
        if math.isfinite(total.item()) and math.isfinite(size.item()):
            self.optimizer.step()
            self.lost = 0
        else:
            self.lost += 1
            if self.lost >= PATIENCE:
                raise ConfigError(
                    f"the training of the start diverged; lower lr below {self.config.lr:g}."
                )
        return parts

    def _error(self, z: Tensor, target: Tensor) -> Tensor:
        """Return the mean squared error relative to the target's square, per resolution."""
        pairs: Sequence[tuple[Tensor, Tensor]] = [(z, target)]
        layout: StateLayout | None = getattr(self.net, "layout", None)
        if layout is not None:
            pairs = list(zip(layout.unpack(z), layout.unpack(target), strict=True))
        return torch.stack(
            [
                ((guess - truth).flatten(1).square().sum(1) / truth.flatten(1).square().sum(1))
                .clamp(max=1e6)
                .mean()
                for guess, truth in pairs
            ]
        ).mean()

    def _share(self) -> float:
        """Return how much of the training is done, from 0 to 1."""
        if self.config.minutes > 0.0:
            return self.seconds / (60.0 * self.config.minutes)
        return self.done / self.config.steps

    def _pause(self, every: float) -> None:
        """Save if it was not done for so many seconds; on Ctrl-C save and stop."""
        stop = self.ctrl_c.pressed
        self._save(0.0 if stop else every)
        if stop:
            raise KeyboardInterrupt

    def _save(self, every: float) -> None:
        """Save everything that a step depends on, if it was not done for so many seconds."""
        if self.unfinished.age < every:
            return
        state = {name: getattr(self, name) for name in POSITION}
        state |= {"net": self.net.state_dict(), "optimizer": self.optimizer.state_dict()}
        state |= {"pool": self.pool.state(), "generator": self.generator.get_state()}
        self.unfinished.save(state | {"seconds": self.seconds})

    def _restore(self, state: dict[str, Any]) -> None:
        for name in POSITION:
            setattr(self, name, state[name])
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.pool.restore(state["pool"], self.config.device)
        self.generator.set_state(state["generator"])
        self.began = time.perf_counter() - state["seconds"]
        self.resumed.append(resumption(self.done))
