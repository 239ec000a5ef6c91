"""The training loop: unrolled at first, through the equilibrium afterwards."""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from deqcert.data import Dataset, load_dataset
from deqcert.errors import ConfigError
from deqcert.models import Config, Model, build_model, preset, read_config
from deqcert.training.augment import get_augmentation
from deqcert.training.config import TrainConfig
from deqcert.training.measure import measure
from deqcert.training.objectives import get_objective
from deqcert.training.passes import Passes
from deqcert.training.progress import Progress
from deqcert.training.record import check_out, save

STATISTICS_FROM = 10_000
"""Images that the normalisation of a new data set is computed from."""

RESTARTS = 5
"""How often a training that diverged goes back to its last good epoch before it gives up."""


def train(config: TrainConfig) -> Path:
    """Train a model and save it.

    Returns:
        The checkpoint: a state_dict in the public format. Beside it are its YAML configuration and
        a JSON record with the parameters, the versions, the course and the measured accuracy.

    Raises:
        ConfigError: If parameters do not fit, or the training diverges again and again.
        DataError: If the images cannot be used.
        RunError: If the folder cannot be written or already holds a model of that name.
    """
    check_out(config.out, config.name)
    data = load_dataset(config.data, "train")
    test = load_dataset(config.test_data or config.data, "test")
    if data.hash() == test.hash():
        raise ConfigError(
            f"training and test images are the same ({test.name}); give test_data with others."
        )
    if len(data) < config.batch:
        raise ConfigError(
            f"batch is {config.batch}, but there are {len(data)} training images; lower it."
        )
    began = time.perf_counter()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = build_model(_architecture(config, data)).to(config.device)
    history = _Training(model, config, data, began).run()
    model.eval()
    measured = measure(
        model,
        test,
        sigma=config.sigma,
        draws=config.test_draws,
        seed=config.seed,
        device=config.device,
    )
    seconds = time.perf_counter() - began
    hashes = {"train": data.hash(), "test": test.hash()}
    return save(config, model, history=history, measured=measured, seconds=seconds, hashes=hashes)


class _Training:
    """The state of one training: model, optimiser, and where it stands."""

    def __init__(self, model: Model, config: TrainConfig, data: Dataset, began: float) -> None:
        self.model, self.config, self.data, self.began = model, config, data, began
        self.generator = torch.Generator().manual_seed(config.seed)
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=config.lr, weight_decay=config.weight_decay
        )
        self.objective = get_objective(config.objective, config.sigma)
        self.augment = get_augmentation(config.augment, data.shape[0])
        self.passes = Passes(model, config, self.generator)
        self.labels = torch.from_numpy(data.labels())
        self.caution = 1.0
        self.restarts = 0

    def run(self) -> list[dict[str, float]]:
        """Train to the end; return one entry an epoch."""
        history: list[dict[str, float]] = []
        with Progress(self.config.progress) as progress:
            good = self._snapshot()
            while (done := self._share(len(history))) < 1.0:
                self.model.train()
                entry = self._epoch(len(history))
                if entry is None:
                    self._go_back(good, progress)
                    continue
                good = self._snapshot()
                history.append(entry)
                progress.update(max(done, self._share(len(history))), entry)
        return history

    def _epoch(self, epoch: int) -> dict[str, float] | None:
        """Train for one epoch; None if a loss or a gradient was not finite."""
        losses, nfe = [], []
        for step, (x, y) in enumerate(self._batches()):
            share = self._share(epoch + step * self.config.batch / len(self.data))
            for group in self.optimizer.param_groups:
                group["lr"] = self._rate(share)
            self.passes.unrolled = share < self.config.pretrain
            loss = self._step(x, y)
            if loss is None:
                return None
            losses.append(loss)
            nfe.append(self.passes.nfe)
            if share >= 1.0:
                break
        return {
            "epoch": epoch + 1,
            "loss": float(np.mean(losses)),
            "nfe": float(np.mean(nfe)),
            "unrolled": float(self.passes.unrolled),
            "seconds": time.perf_counter() - self.began,
        }

    def _step(self, x: Tensor, y: Tensor) -> float | None:
        config = self.config
        loss = self.objective.loss(self.passes, x, y, self.generator)
        total = loss
        penalised = torch.rand((), generator=self.generator).item() < config.jacobian_share
        if config.jacobian_weight > 0.0 and penalised:
            total = loss + config.jacobian_weight * self.passes.jacobian_penalty()
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        size = torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.clip)
        if not (math.isfinite(total.item()) and math.isfinite(size.item())):
            return None
        self.optimizer.step()
        return loss.item()

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.data), generator=self.generator)
        size, device = self.config.batch, self.config.device
        for first in range(0, len(order) - size + 1, size):
            rows = order[first : first + size]
            x = torch.from_numpy(self.data.batch(rows.numpy()))
            yield self.augment(x, self.generator).to(device), self.labels[rows].to(device)

    def _share(self, epochs: float) -> float:
        """Return how much of the training is done, from 0 to 1."""
        if self.config.minutes > 0.0:
            return min(1.0, (time.perf_counter() - self.began) / (60.0 * self.config.minutes))
        return min(1.0, epochs / self.config.epochs)

    def _rate(self, share: float) -> float:
        return self.caution * self.config.lr * 0.5 * (1.0 + math.cos(math.pi * share))

    def _snapshot(self) -> tuple[dict[str, Tensor], dict[str, object]]:
        return copy.deepcopy((self.model.state_dict(), self.optimizer.state_dict()))

    def _go_back(
        self, good: tuple[dict[str, Tensor], dict[str, object]], progress: Progress
    ) -> None:
        self.restarts += 1
        if self.restarts > RESTARTS:
            raise ConfigError(
                f"the training diverged {self.restarts} times; lower lr below {self.config.lr:g} "
                "or raise jacobian_weight."
            )
        weights, optimizer = copy.deepcopy(good)
        self.model.load_state_dict(weights)
        self.optimizer.load_state_dict(optimizer)
        self.caution *= 0.5
        progress.say("a loss was not finite: back to the last good epoch, at half the rate")


def _architecture(config: TrainConfig, data: Dataset) -> Config:
    """Fit the preset to the data, or check that the given configuration fits."""
    channels, height, width = data.shape
    if config.model is not None:
        fixed = read_config(config.model)
        if (fixed.input_channels, *fixed.image_size) != data.shape:
            raise ConfigError(
                f"configuration {config.model} takes images of "
                f"{(fixed.input_channels, *fixed.image_size)}, but those of {data.name} have "
                f"{data.shape} (channels, height, width); correct IMAGE_SIZE and INPUT."
            )
        if fixed.num_classes != len(data.classes):
            raise ConfigError(
                f"configuration {config.model} has {fixed.num_classes} classes, but {data.name} "
                f"has {len(data.classes)}; correct NUM_CLASSES."
            )
        return fixed
    start = preset(config.preset)
    if (start.input_channels, *start.image_size) == data.shape:
        return dataclasses.replace(start, num_classes=len(data.classes))
    x = data.batch(np.arange(0, len(data), max(1, len(data) // STATISTICS_FROM)))
    mean, std = (tuple(float(round(v, 4)) for v in f(x, axis=(0, 2, 3))) for f in (np.mean, np.std))
    return dataclasses.replace(
        start,
        num_classes=len(data.classes),
        image_size=(height, width),
        input_channels=channels,
        mean=mean,
        std=std,
    )
