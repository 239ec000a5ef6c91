"""Everything the training of a start can be told, in one flat place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deqcert.data import dataset_names
from deqcert.options import check_options, choice, number, path, text
from deqcert.training.registry import AUGMENTATIONS


@dataclass(frozen=True)
class StartConfig:
    """Parameters of the training of one start.

    Args:
        model: Checkpoint of the model that the start is for, or the name of a builtin one; it
            stays as it is.
        model_config: YAML configuration of the checkpoint; the .yaml beside it if not given.
        out: File to write; beside the checkpoint, as NAME.start.pth, if not given. For a builtin
            model it must be given.
        init: Start file of the same model to go on from, instead of random weights.
        data: Training images: a name and a place, such as digits, mnist:DIR or npz:FILE. Their
            labels are only used if these have a weight.
        sigma: Standard deviation of the noise, in [0,1] pixel units; what will be certified with.
        steps: Gradient steps.
        minutes: If above 0, train for this long instead, however many steps that makes. The
            result then depends on the machine's speed.
        batch: Images per step.
        lr: First learning rate of Adam; it falls to 0 along a cosine.
        clip: Norm to which gradients are clipped.
        cells: Cell evaluations from the start to the state that is compared, too. Take the depth
            that votes will be cast at.
        divergence: Weight of the divergence between the logits at that state and at the solved one.
        labels: Weight of the cross-entropy between the logits at that state and the label (Cohen,
            Rosenfeld, Kolter 2019, section 3.3, with the model's own weights fixed). It makes the
            class after those evaluations the right one rather than the converged solve's.
        tol: Relative residual at which a training state counts as solved.
        max_nfe: Most cell evaluations of such a solve.
        reuse: Passes over solved states before new ones are made.
        disagreement: Share of votes that the tuned depth may change: the cheapest rule for the
            depth that can be shown to give no more noisy training images than that another class
            than the converged solve becomes the start's own.
        tune_images: Noisy training images, half of which it is chosen on; on the others it is shown
            with 95% confidence.
        most: Largest depth that is tried.
        augment: What is done to the images before the noise; auto shifts grey images, and crops
            and mirrors others.
        seed: Seed of the initial weights, the order and all noise.
        device: Where to train, as torch names it: cpu, cuda or cuda:1.
        progress: Whether to report progress on standard error.

    Raises:
        ConfigError: If a value is out of range or a name is unknown.
    """

    model: str = text("digits", metavar="NAME|FILE")
    model_config: Path | None = path(None)
    out: Path | None = path(None)
    init: Path | None = path(None)
    data: str = text("digits", metavar="SPEC", words=dataset_names)
    sigma: float = number(0.25, low=0.0)
    steps: int = number(2000, low=1)
    minutes: float = number(0.0, low=0.0)
    batch: int = number(64, low=1)
    lr: float = number(3e-3, above=0.0)
    clip: float = number(1.0, above=0.0)
    cells: int = number(1, low=1, high=3)
    divergence: float = number(2.0, low=0.0)
    labels: float = number(0.0, low=0.0)
    tol: float = number(1e-2, above=0.0)
    max_nfe: int = number(20, low=1)
    reuse: int = number(3, low=1)
    disagreement: float = number(0.005, low=0.0, high=1.0)
    tune_images: int = number(4000, low=2)
    most: int = number(12, low=1)
    augment: str = choice("auto", AUGMENTATIONS)
    seed: int = number(0, low=0, high=2**63 - 1)
    device: str = text("cpu")
    progress: bool = True

    def __post_init__(self) -> None:
        check_options(self)
