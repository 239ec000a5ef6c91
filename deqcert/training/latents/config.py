"""Everything the fitting of a head can be told, in one flat place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deqcert.data import dataset_names
from deqcert.errors import ConfigError
from deqcert.latents.names import HEADS
from deqcert.options import check_options, choice, number, options_of, path, text

OF_MODELS = ("model", "model_config", "data", "sigma", "tol", "max_nfe", "batch", "device")
"""Options that say which latents a model makes, and how."""


@dataclass(frozen=True)
class LatentConfig:
    """Parameters of one fitted head.

    Args:
        model: Checkpoint whose latents are fitted, or the name of a builtin one; it stays as it is.
        model_config: YAML configuration of the checkpoint; the .yaml beside it if not given.
        features: Latents of any other encoder in place of a model: an .npz file with z, shape
            (N, m), and y, their classes. What is written is the head alone.
        head: What is fitted. lda is linear, under a covariance that all classes share; qda is
            quadratic, with one covariance per class; robust-lda is the best linear one for a latent
            radius.
        out: Checkpoint to write; beside the model's, as NAME-HEAD.pth, if not given. For a builtin
            model it must be given. For features an .npz file.
        data: Training images: a name and a place, such as digits, mnist:DIR or npz:FILE.
        images: Which of them, or of the features: START:STOP[:STEP]; ':' is all.
        held: Part of them, evenly spread, that the head is not fitted to, but measured on.
        sigma: Standard deviation of the noise on the images, in [0,1] pixel units; what will be
            certified with, where the head will be smoothed.
        reach: Latent radius that robust-lda is the best for.
        shrinkage: Weight of a multiple of the identity in each covariance; if not given, that of
            Ledoit and Wolf.
        alpha: Probability that the band around the measured curve may be wrong.
        kappa: Drift budget in nats: the curve that would be left of the predicted one within this
            divergence is drawn, too.
        tol: Relative residual at which a state counts as solved.
        max_nfe: Most cell evaluations of a solve.
        batch: Images solved together.
        seed: Seed of the noise and of what is simulated.
        device: Where the model runs, as torch names it: cpu, cuda or cuda:1.

    Raises:
        ConfigError: If a value is out of range or a name is unknown.
    """

    model: str = text("digits", metavar="NAME|FILE")
    model_config: Path | None = path(None)
    features: Path | None = path(None)
    head: str = choice("lda", HEADS)
    out: Path | None = path(None)
    data: str = text("digits", metavar="SPEC", words=dataset_names)
    images: str = text(":", metavar="START:STOP[:STEP]")
    held: float = number(0.2, above=0.0, below=1.0)
    sigma: float = number(0.0, low=0.0)
    reach: float = number(1.0, low=0.0)
    shrinkage: float | None = number(None, low=0.0, high=1.0, whole=False, metavar="S")
    alpha: float = number(0.05, above=0.0, high=0.5)
    kappa: float = number(0.05, low=0.0)
    tol: float = number(1e-4, above=0.0)
    max_nfe: int = number(100, low=1)
    batch: int = number(256, low=1)
    seed: int = number(0, low=0, high=2**63 - 1)
    device: str = text("cpu")

    def __post_init__(self) -> None:
        check_options(self)
        if self.features is not None:
            for name in OF_MODELS:
                if getattr(self, name) != options_of(LatentConfig)[name].default:
                    raise ConfigError(
                        f"features are latents already, so that {name.replace('_', '-')} has no "
                        "use; leave it out, or the features."
                    )
