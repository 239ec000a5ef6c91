"""Everything a training can be told, in one flat place."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deqcert.errors import ConfigError
from deqcert.models.implicit_grad import gradient_names
from deqcert.solvers import solver_names
from deqcert.training.augment import augmentation_names
from deqcert.training.objectives import get_objective

PRECISIONS = ("float32", "bfloat16")
"""Types that the passes can compute in."""


@dataclass(frozen=True)
class TrainConfig:
    """Parameters of one training.

    Args:
        out: Folder for the checkpoint, its YAML configuration and the record of the training.
        data: Training images, as :func:`deqcert.data.load_dataset` names them.
        test_data: Where the test split is taken from; ``data`` if not given.
        name: Name of the written files: ``name.pth``, ``name.yaml`` and ``name.json``.
        preset: Width and depth, one of :func:`deqcert.models.preset_names`. Image size, channels
            and classes follow the data.
        model: YAML configuration in the public layout, used instead of the preset.
        init: Checkpoint to begin with, or the name of a builtin one, instead of random weights;
            it brings its own configuration (``model``, or the YAML beside it). The last layer is
            new where the classes are others. Usually with ``pretrain`` 0.
        extra: Further images, named as ``data``, whose labels are not used: those that ``teacher``
            gives them are.
        teacher: Checkpoint, or name of a builtin one, that labels the extra images.
        objective: What is minimised, one of :func:`deqcert.training.objective_names`.
        objective_options: Its options, those of :func:`deqcert.training.objective_options`.
        sigma: Standard deviation of the noise in [0, 1] pixel units, at least 0; train with the
            value that will be certified with.
        epochs: Passes over the training images.
        minutes: If above 0, train for this long instead, however many epochs that makes. The
            result then depends on the machine's speed.
        batch: Images a step; a last incomplete batch of an epoch is left out.
        lr: Adam's first learning rate; it falls to 0 along a cosine.
        weight_decay: Adam's decoupled weight decay.
        clip: Norm to which gradients are clipped, above 0.
        pretrain: Share of the training that unrolls the cell a few times from zero instead of
            solving, 0 to 1. The depth is the configuration's ``num_layers``.
        unroll_from: If above 0, the depth of that unrolling grows from here to ``num_layers``.
        crop_from: If above 0, that unrolling sees random crops whose side grows from here, in
            pixels, to the images' own; smaller images are quicker. MDEQ on square images only.
        ema: If above 0, what is saved is an exponential moving average of the weights and of the
            statistics of batch normalisation, which keeps this share of itself at each step; below
            1. 0.999 is common.
        precision: Of the passes, float32 or bfloat16; states of the solvers, weights and the
            optimiser stay float32. bfloat16 is slower on processors without units for it.
        gradient: Backward through the equilibrium, one of
            :func:`deqcert.models.implicit_grad.gradient_names`; ``unroll`` never solves.
        solver: Forward and adjoint solver.
        tol: Relative residual at which a training solve ends; 0 for a fixed depth.
        max_nfe: Most cell evaluations of a training solve.
        backward_nfe: Most evaluations of the adjoint (``implicit``) or the number of phantom steps.
        jacobian_weight: Weight of the Jacobian penalty; larger makes the equilibrium quicker to
            solve, and costs accuracy when too large.
        jacobian_share: Share of the steps that pay the penalty, 0 to 1.
        augment: Augmentation of the images before the noise, one of
            :func:`deqcert.training.augmentation_names`.
        test_draws: Noisy copies of each test image for the measured accuracy, from 1.
        seed: Of the initial weights, the order and all noise.
        device: Where to train, as torch names it.
        tensorboard: Whether to write the history for TensorBoard as well, which must be installed.
        progress: Whether to report progress on standard error.

    Raises:
        ConfigError: If a value is out of range or a name is unknown.
    """

    out: Path
    data: str = "digits"
    test_data: str | None = None
    name: str = "model"
    preset: str = "tiny"
    model: Path | None = None
    init: str | None = None
    extra: str | None = None
    teacher: str | None = None
    objective: str = "gaussian"
    objective_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    sigma: float = 0.25
    epochs: int = 100
    minutes: float = 0.0
    batch: int = 128
    lr: float = 3e-3
    weight_decay: float = 0.0
    clip: float = 1.0
    pretrain: float = 0.3
    unroll_from: int = 0
    crop_from: int = 0
    ema: float = 0.0
    precision: str = "float32"
    gradient: str = "implicit"
    solver: str = "anderson"
    tol: float = 1e-3
    max_nfe: int = 16
    backward_nfe: int = 12
    jacobian_weight: float = 0.5
    jacobian_share: float = 0.25
    augment: str = "auto"
    test_draws: int = 10
    seed: int = 0
    device: str = "cpu"
    tensorboard: bool = False
    progress: bool = True

    def __post_init__(self) -> None:
        for field, low, high in (
            ("sigma", 0.0, float("inf")),
            ("minutes", 0.0, float("inf")),
            ("weight_decay", 0.0, float("inf")),
            ("jacobian_weight", 0.0, float("inf")),
            ("pretrain", 0.0, 1.0),
            ("jacobian_share", 0.0, 1.0),
        ):
            value = getattr(self, field)
            if not low <= value <= high or value == float("inf"):
                raise ConfigError(f"{field} is {value}, but it must be from {low:g} to {high:g}.")
        for field in ("lr", "clip"):
            if not 0.0 < getattr(self, field) < float("inf"):
                raise ConfigError(f"{field} is {getattr(self, field)}, but it must be above 0.")
        for field in ("epochs", "batch", "max_nfe", "backward_nfe", "test_draws"):
            if getattr(self, field) < 1:
                raise ConfigError(f"{field} is {getattr(self, field)}, but it must be at least 1.")
        for field in ("unroll_from", "crop_from"):
            if getattr(self, field) < 0:
                raise ConfigError(f"{field} is {getattr(self, field)}, but it must be at least 0.")
        if not 0.0 <= self.ema < 1.0:
            raise ConfigError(f"ema is {self.ema}, but it must be from 0 to below 1.")
        if self.batch < 2:
            raise ConfigError("batch is 1, but batch normalisation needs at least 2 images a step.")
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed is {self.seed}, but it must be from 0 to 2^63 - 1.")
        for field, names in (
            ("gradient", gradient_names()),
            ("solver", solver_names()),
            ("augment", augmentation_names()),
            ("precision", PRECISIONS),
        ):
            if getattr(self, field) not in names:
                raise ConfigError(
                    f"there is no {field} '{getattr(self, field)}'; there are {', '.join(names)}."
                )
        if (self.extra is None) != (self.teacher is None):
            raise ConfigError("extra images need a teacher, and a teacher needs extra; give both.")
        get_objective(self.objective, self.sigma, **self.objective_options)
        if not self.name or Path(self.name).name != self.name:
            raise ConfigError(f"name is '{self.name}', but it must be a file name without folder.")
