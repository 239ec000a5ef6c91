"""One toy of each kind, as another package would bring it; no file of deqcert knows of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

from deqcert import kernels
from deqcert.attacks import Attack
from deqcert.attacks.base import Climb, Task
from deqcert.attacks.views import Smoothed
from deqcert.certifiers import Certificate, Certifier, SmoothingCertifier
from deqcert.certifiers.bounds import lower_confidence_bound
from deqcert.data import load_dataset
from deqcert.data.base import Loader
from deqcert.models.base import ImplicitModel, TrainableModel
from deqcert.models.forms import Form
from deqcert.options import number
from deqcert.presets import Preset
from deqcert.smoothing import Input, SmoothingEngine, Stage
from deqcert.solvers import Solver, State, StopRule, bind, get_solver
from deqcert.solvers.gradients import Phantom
from deqcert.starts import StartPolicy
from deqcert.training.objectives import Objective, TrainingBatch


@dataclass(frozen=True)
class Halfway(Solver[State]):
    """Go a share of the way to f(z), less with every option.

    Args:
        share: How far.
    """

    name: ClassVar[str] = "toy"
    share: float = number(0.9, above=0, high=1)

    def init(self, z: Tensor) -> State:
        return State()

    def step(
        self,
        z: Tensor,
        fz: Tensor,
        state: State,
        out: Tensor,
        watch: kernels.Watch | None = None,
    ) -> None:
        last = kernels.judge(z, fz, out, watch)
        out.copy_(z + self.share * (fz - z))
        kernels.finish(out, watch, last)


@dataclass(frozen=True)
class Careful(SmoothingCertifier):
    """Standard smoothing that believes a share of its votes only.

    Args:
        share: Share of the votes that count.
    """

    name: ClassVar[str] = "toy"
    share: float = number(0.9, above=0, high=1)

    def best_p_lower(self) -> float:
        return lower_confidence_bound(int(self.share * self.n), self.n, self.alpha)

    def certify(self, engine: SmoothingEngine, input: Input) -> Certificate:
        guess, selection = self.select(engine, input)
        if guess is None:
            return self.certificate(engine, None, 0.0, (selection,))
        estimate = engine.votes(self.predictor, input, Stage.ESTIMATE, self.n)
        votes = int(self.share * int(estimate.counts[guess]))
        p_lower = lower_confidence_bound(votes, self.n, self.alpha)
        return self.certificate(engine, guess, p_lower, (selection, estimate), votes=votes)

    def assumptions(self) -> str:
        return "holds where standard smoothing does"


@dataclass(frozen=True)
class Clean(Certifier[ImplicitModel]):
    """Prove the class of the input itself and nothing around it."""

    name: ClassVar[str] = "toy-proof"

    def certify(self, subject: ImplicitModel, input: Input) -> Certificate:
        with torch.no_grad():
            injection = subject.inject(torch.as_tensor(input.x)[None])
            start = subject.initial_state(injection)
            solver, stop = get_solver("anderson"), StopRule(tol=1e-4, max_nfe=100)
            found = solver.solve(bind(subject.cell, injection), start, stop)
            answer = int(subject.readout(found.z).argmax())
        return Certificate(
            prediction=answer,
            radius=0.0,
            alpha=0.0,
            method=self.name,
            assumptions=self.assumptions(),
            nfe=int(found.nfe.sum()),
            seconds=0.0,
        )

    def assumptions(self) -> str:
        return "holds for the converged model at the input alone"


@dataclass(frozen=True)
class ToyConfig:
    """Configuration of a :class:`ToyModel`."""

    name: ClassVar[str] = "toy"
    width: int = 24
    num_classes: int = 10
    image_size: tuple[int, int] = (8, 8)
    input_channels: int = 1
    mean: tuple[float, ...] = (0.3,)
    std: tuple[float, ...] = (0.4,)
    num_layers: int = 4
    scale: ClassVar[int | None] = None

    def build(self) -> ToyModel:
        return ToyModel(self)

    def to_yaml(self) -> str:
        return yaml.safe_dump({"MODEL": {"NAME": "toy", "WIDTH": self.width}})

    @classmethod
    def from_mapping(cls, data: Mapping[str, Any]) -> Self:
        return cls(width=int(data["MODEL"]["WIDTH"]))


class ToyModel(TrainableModel):
    """z* = tanh(W z* + U x) with a small W, and a linear readout."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__(config)
        pixels = config.input_channels * config.image_size[0] * config.image_size[1]
        self.encoder = torch.nn.Linear(pixels, config.width)
        self.layer = torch.nn.Linear(config.width, config.width, bias=False)
        torch.nn.init.orthogonal_(self.layer.weight, gain=0.3)
        self.classifier = torch.nn.Linear(config.width, config.num_classes)

    def inject(self, x: Tensor) -> Tensor:
        return self.encoder((x.flatten(1) - 0.3) / 0.4)

    def initial_state(self, injection: Tensor) -> Tensor:
        return torch.zeros_like(injection)

    def cell(self, z: Tensor, injection: Tensor, masks: Tensor | None = None) -> Tensor:
        return torch.tanh(self.layer(z) + injection)

    def readout(self, z: Tensor) -> Tensor:
        return self.classifier(z)


class Doubled(Form):
    """The model in float64."""

    summary: ClassVar[str] = "the model in float64"

    def applies(self, model: ImplicitModel) -> bool:
        return isinstance(model, torch.nn.Module)

    def make(self, model: ImplicitModel, *, rows: int, device: str) -> ImplicitModel:
        assert isinstance(model, torch.nn.Module)
        return model.double()


class Lifted(StartPolicy):
    """Start from a constant."""

    name: ClassVar[str] = "toy"
    independent: ClassVar[bool] = True

    def initial(self, model: Any, injection: Tensor) -> Tensor:
        return model.initial_state(injection) + 0.1


@dataclass(frozen=True)
class Twice(Objective):
    """The cross-entropy of noisy copies, times a weight.

    Args:
        weight: The weight.
    """

    name: ClassVar[str] = "toy"
    weight: float = number(2.0, low=0, high=10)

    def loss(self, batch: TrainingBatch) -> Tensor:
        noisy = batch.x + self.noise(batch, 1)[0]
        return self.weight * F.cross_entropy(batch.forward(noisy), batch.y)


@dataclass(frozen=True)
class Corner(Climb):
    """Go straight to the darker side."""

    def climb(self, task: Task) -> Tensor:
        step = task.radius[:, None, None, None].to(task.x) / task.x[0].numel() ** 0.5
        return (task.x - step).clamp(0, 1)


@dataclass(frozen=True)
class OneStep:
    """Differentiate through one evaluation at the solution; there is nothing to choose."""

    name: ClassVar[str] = "toy"

    def solve(self, f, z0, context, solver, stop):
        return Phantom(steps=1, damping=1.0).solve(f, z0, context, solver, stop)


TOYS: dict[str, tuple[str, Any]] = {
    "solver": ("toy", Halfway),
    "method": ("toy", Careful),
    "proof": ("toy-proof", Clean),
    "architecture": ("toy", ToyConfig()),
    "form": ("toy", Doubled()),
    "start": ("toy", Lifted),
    "objective": ("toy", Twice),
    "attack": ("toy", Attack("toy", Corner(), Smoothed())),
    "gradient": ("toy", OneStep),
    "data": ("toy", Loader(load=lambda spec, place, split: load_dataset("digits", split))),
    "preset": ("toy", Preset("a toy", {"n": 60, "n0": 10, "alpha": 0.1, "sigma": 0.25})),
}
"""Each kind, the name its toy is registered by, and the toy."""
