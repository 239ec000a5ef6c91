"""Everything a training can be told, in one flat place."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deqcert.data import dataset_names
from deqcert.errors import ConfigError
from deqcert.models.architectures import ARCHITECTURES
from deqcert.options import REQUIRED, check_options, choice, flag, number, path, text
from deqcert.solvers.gradients.registry import GRADIENTS
from deqcert.solvers.registry import SOLVERS
from deqcert.training.registry import AUGMENTATIONS, OBJECTIVES, get_objective

PRECISIONS = ("float32", "bfloat16")
"""Types that the passes can compute in."""


@dataclass(frozen=True)
class TrainConfig:
    """Parameters of one training.

    Args:
        out: Folder for the checkpoint, its YAML configuration and the record of the training.
        data: Training images: a name and a place, such as digits, mnist:DIR or npz:FILE.
        test_data: Where the test split is taken from, named in the same way; the same data if not
            given.
        name: What the written files are called: NAME.pth, NAME.yaml and NAME.json.
        architecture: What is trained. Image size, channels and classes follow the data.
        model_config: YAML configuration in the public layout, used instead of a named architecture.
        init: Checkpoint to begin with, or the name of a builtin one, instead of random weights. It
            brings its own configuration; the last layer is new where the classes are others.
            Usually with a pre-training share of 0.
        keep_zeros: Whether weights of that checkpoint that are exactly zero stay so: for one that
            was pruned.
        extra: Further images, whose labels are not used; a teacher labels them.
        teacher: Checkpoint, or the name of a builtin one, that labels the extra images, or that the
            objective distill learns from.
        objective: What is minimised.
        objective_options: Options of the objective, by name, as
            :func:`deqcert.training.objective_options` lists them.
        sigma: Standard deviation of the noise, in [0,1] pixel units. Train with the value that
            will be certified with.
        epochs: Passes over the training images.
        minutes: If above 0, train for this long instead, however many epochs that makes. The
            result then depends on the machine's speed.
        batch: Images per step; a last incomplete batch of an epoch is left out.
        lr: First learning rate of Adam; it falls to 0 along a cosine.
        weight_decay: Decoupled weight decay of Adam.
        clip: Norm to which gradients are clipped.
        pretrain: Share of the training that unrolls the cell from zero instead of solving. The
            depth is the configuration's NUM_LAYERS.
        unroll_from: If above 0, the depth of that unrolling grows from here to NUM_LAYERS.
        crop_from: If above 0, that unrolling sees random crops whose side grows from here, in
            pixels, to the images' own. Smaller images are quicker; for architectures that can take
            them.
        ema: If above 0, what is saved is an exponential moving average of the weights and of the
            statistics of batch normalisation, which keeps this share of itself at each step. 0.999
            is common.
        precision: What the passes compute in. States of the solvers, weights and the optimiser stay
            float32; bfloat16 is slower on processors without units for it.
        gradient: How to go backward through the equilibrium; unroll never solves.
        solver: Forward and adjoint solver.
        tol: Relative residual at which a training solve ends; 0 for a fixed depth.
        max_nfe: Most cell evaluations of a training solve.
        backward_nfe: Most evaluations of the adjoint, or the number of phantom steps.
        jacobian_weight: Weight of the Jacobian penalty. Larger makes the equilibrium quicker to
            solve, and costs accuracy when too large.
        jacobian_share: Share of the steps that pay the penalty.
        augment: What is done to the images before the noise; auto shifts grey images, and crops
            and mirrors others.
        test_draws: Noisy copies of each test image for the measured accuracy.
        seed: Seed of the initial weights, the order and all noise.
        device: Where to train, as torch names it: cpu, cuda or cuda:1.
        tensorboard: Write the history for TensorBoard as well, which must be installed.
        progress: Whether to report progress on standard error.

    Raises:
        ConfigError: If a value is out of range or a name is unknown.
    """

    out: Path = path(REQUIRED, metavar="DIR")
    data: str = text("digits", metavar="SPEC", words=dataset_names)
    test_data: str | None = text(None, metavar="SPEC", words=dataset_names)
    name: str = text("model")
    architecture: str = choice("tiny", ARCHITECTURES)
    model_config: Path | None = path(None)
    init: str | None = text(None, metavar="NAME|FILE")
    keep_zeros: bool = flag(False)
    extra: str | None = text(None, metavar="SPEC", words=dataset_names)
    teacher: str | None = text(None, metavar="NAME|FILE")
    objective: str = choice("gaussian", OBJECTIVES)
    objective_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    sigma: float = number(0.25, low=0.0)
    epochs: int = number(100, low=1)
    minutes: float = number(0.0, low=0.0)
    # Batch normalisation needs two images.
    batch: int = number(128, low=2)
    lr: float = number(3e-3, above=0.0)
    weight_decay: float = number(0.0, low=0.0)
    clip: float = number(1.0, above=0.0)
    pretrain: float = number(0.3, low=0.0, high=1.0)
    unroll_from: int = number(0, low=0)
    crop_from: int = number(0, low=0)
    ema: float = number(0.0, low=0.0, below=1.0)
    precision: str = choice("float32", PRECISIONS)
    gradient: str = choice("implicit", GRADIENTS)
    solver: str = choice("anderson", SOLVERS)
    tol: float = number(1e-3, low=0.0)
    max_nfe: int = number(16, low=1)
    backward_nfe: int = number(12, low=1)
    jacobian_weight: float = number(0.5, low=0.0)
    jacobian_share: float = number(0.25, low=0.0, high=1.0)
    augment: str = choice("auto", AUGMENTATIONS)
    test_draws: int = number(10, low=1)
    seed: int = number(0, low=0, high=2**63 - 1)
    device: str = text("cpu")
    tensorboard: bool = flag(False)
    progress: bool = True

    def __post_init__(self) -> None:
        check_options(self)
        if self.keep_zeros and self.init is None:
            raise ConfigError("keep_zeros is about a checkpoint's zeros; give one with init.")
        objective = get_objective(self.objective, self.sigma, **self.objective_options)
        if objective.needs_teacher and self.teacher is None:
            raise ConfigError(
                f"objective {self.objective} learns from a teacher; give one with teacher."
            )
        if self.extra is not None and self.teacher is None:
            raise ConfigError("extra images need a teacher, which labels them; give both.")
        if self.teacher is not None and self.extra is None and not objective.needs_teacher:
            raise ConfigError(
                "a teacher needs extra images or an objective that learns from it, as distill "
                "does; give both."
            )
        if not self.name or Path(self.name).name != self.name:
            raise ConfigError(f"name is '{self.name}', but it must be a file name without folder.")
