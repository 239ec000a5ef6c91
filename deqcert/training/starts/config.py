"""Everything the training of a start can be told, in one flat place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deqcert.errors import ConfigError
from deqcert.training.augment import augmentation_names


@dataclass(frozen=True)
class StartConfig:
    """Parameters of the training of one start.

    Args:
        model: Checkpoint of the model that the start is for, or the name of a builtin one; it
            stays as it is.
        config: Its YAML configuration; the ``.yaml`` beside it if not given.
        out: File to write; beside the checkpoint, as ``NAME.start.pth``, if not given.
        data: Images, as :func:`deqcert.data.load_dataset` names them; the training split is used,
            its labels are only with ``labels`` above 0.
        init: Start file of the same model to go on from, instead of random weights.
        sigma: Standard deviation of the noise in [0, 1] pixel units; what will be certified with.
        steps: Gradient steps.
        minutes: If above 0, train for this long instead, however many steps that makes. The
            result then depends on the machine's speed.
        batch: Images a step.
        lr: Adam's first learning rate; it falls to 0 along a cosine.
        clip: Norm to which gradients are clipped, above 0.
        cells: Cell evaluations from the start to the state that is compared, too: 1 to 3. Take
            the depth that votes will be cast at.
        divergence: Weight of the divergence between the logits at that state and at the solved one.
        labels: Weight of the cross-entropy between the logits at that state and the label (Cohen,
            Rosenfeld, Kolter 2019, section 3.3, with the model's own weights fixed). It makes the
            class after ``cells`` evaluations the right one rather than the converged solve's.
        tol: Relative residual at which a state counts as solved.
        max_nfe: Most cell evaluations of such a solve.
        reuse: Passes over solved states before new ones are made.
        disagreement: Share of noisy training images whose class may differ from that of the
            converged solve: the cheapest depth that keeps to it becomes the start's own, 0 to 1.
        tune_images: Training images on which that is measured.
        most: Largest depth that is tried.
        augment: Augmentation of the images before the noise, one of
            :func:`deqcert.training.augmentation_names`.
        seed: Of the initial weights, the order and all noise.
        device: Where to train, as torch names it.
        progress: Whether to report progress on standard error.

    Raises:
        ConfigError: If a value is out of range or a name is unknown.
    """

    model: str | Path
    config: Path | None = None
    out: Path | None = None
    init: Path | None = None
    data: str = "digits"
    sigma: float = 0.25
    steps: int = 2000
    minutes: float = 0.0
    batch: int = 64
    lr: float = 3e-3
    clip: float = 1.0
    cells: int = 1
    divergence: float = 2.0
    labels: float = 0.0
    tol: float = 1e-2
    max_nfe: int = 20
    reuse: int = 3
    disagreement: float = 0.005
    tune_images: int = 1000
    most: int = 12
    augment: str = "auto"
    seed: int = 0
    device: str = "cpu"
    progress: bool = True

    def __post_init__(self) -> None:
        for field in ("sigma", "minutes", "divergence", "labels", "tol"):
            if not 0.0 <= getattr(self, field) < float("inf"):
                raise ConfigError(f"{field} is {getattr(self, field)}, but it must be at least 0.")
        for field in ("lr", "clip"):
            if not 0.0 < getattr(self, field) < float("inf"):
                raise ConfigError(f"{field} is {getattr(self, field)}, but it must be above 0.")
        for field in ("steps", "batch", "max_nfe", "reuse", "tune_images", "most"):
            if getattr(self, field) < 1:
                raise ConfigError(f"{field} is {getattr(self, field)}, but it must be at least 1.")
        if not 0.0 <= self.disagreement <= 1.0:
            raise ConfigError(f"disagreement is {self.disagreement}, but it must be from 0 to 1.")
        if not 1 <= self.cells <= 3:
            raise ConfigError(f"cells is {self.cells}, but it must be from 1 to 3.")
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed is {self.seed}, but it must be from 0 to 2^63 - 1.")
        if self.augment not in augmentation_names():
            names = ", ".join(augmentation_names())
            raise ConfigError(f"there is no augment '{self.augment}'; there are {names}.")
