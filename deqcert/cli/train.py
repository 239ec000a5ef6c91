"""``deqcert train``: an MDEQ for certification, trained with noise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

# Repeated from deqcert.training.TrainConfig, which cannot be looked at without importing torch;
# a test holds both to the same names and defaults.
KNOBS: tuple[tuple[str, type, Any, str], ...] = (
    ("data", str, "digits", "Training images: digits, mnist:DIR, cifar10:DIR, folder:DIR..."),
    ("test_data", str, None, "Where the test split is taken from; default: --data."),
    ("name", str, "model", "The files are called NAME.pth, NAME.yaml and NAME.json."),
    ("preset", str, "tiny", "What is trained: tiny, small, large, imagenet-small or contractive."),
    ("model", Path, None, "YAML configuration in the public layout, instead of a preset."),
    ("init", str, None, "Checkpoint to begin with instead of random weights."),
    ("extra", str, None, "Further images, without labels; --teacher labels them."),
    ("teacher", str, None, "Checkpoint that labels the images of --extra."),
    ("objective", str, "gaussian", "What is minimised: gaussian, smoothadv, consistency or macer."),
    ("sigma", float, 0.25, "Noise, in pixel units of [0,1]; what you will certify with."),
    ("epochs", int, 100, "Passes over the training images."),
    ("minutes", float, 0.0, "If above 0: train for this long instead."),
    ("batch", int, 128, "Images a step."),
    ("lr", float, 3e-3, "First learning rate; it falls to 0 along a cosine."),
    ("weight_decay", float, 0.0, "Decoupled weight decay."),
    ("clip", float, 1.0, "Norm to which gradients are clipped."),
    ("pretrain", float, 0.3, "Share of the training that unrolls the cell instead of solving."),
    ("unroll_from", int, 0, "If above 0: the depth of that unrolling grows from here."),
    ("crop_from", int, 0, "If above 0: the side of its images grows from here, in pixels."),
    ("ema", float, 0.0, "If above 0: save the moving average of the weights with this decay."),
    ("precision", str, "float32", "Of the passes: float32 or bfloat16."),
    ("gradient", str, "implicit", "Backward through the equilibrium: implicit, phantom or unroll."),
    ("solver", str, "anderson", "Forward and adjoint solver: picard, anderson or broyden."),
    ("tol", float, 1e-3, "Relative residual at which a training solve ends; 0: fixed depth."),
    ("max_nfe", int, 16, "Most cell evaluations of a training solve."),
    ("backward_nfe", int, 12, "Most evaluations of the adjoint."),
    ("jacobian_weight", float, 0.5, "Weight of the Jacobian penalty."),
    ("jacobian_share", float, 0.25, "Share of the steps that pay it."),
    ("augment", str, "auto", "Before the noise: auto, none, shift or crop-flip."),
    ("test_draws", int, 10, "Noisy copies of each test image for the measured accuracy."),
    ("seed", int, 0, "Of the initial weights, the order and all noise."),
    ("device", str, "cpu", "Where to train: cpu or cuda."),
    ("tensorboard", bool, False, "Write the history for TensorBoard, too."),
)


def _knobs(command: Callable[..., Any]) -> Callable[..., Any]:
    for name, kind, default, text in reversed(KNOBS):
        command = click.option(
            f"--{name.replace('_', '-')}",
            name,
            type=click.Path(path_type=Path) if kind is Path else kind,
            is_flag=kind is bool,
            default=default,
            show_default=default is not None and kind is not bool,
            metavar="FILE" if kind is Path else None,
            help=text,
        )(command)
    return command


@click.command(short_help="Train a model with noise, ready to be certified.")
@click.option("--out", required=True, metavar="DIR", help="Folder for the checkpoint.")
@_knobs
@click.option(
    "--objective-option",
    "pairs",
    multiple=True,
    metavar="KEY=VALUE",
    help="An option of the objective, for instance draws=4; may be repeated.",
)
@click.option("--threads", type=int, metavar="T", help="CPU threads; default: torch's own.")
@click.option("--quiet", is_flag=True, help="Print the checkpoint's path only.")
def command(
    out: str, pairs: tuple[str, ...], threads: int | None, quiet: bool, **given: Any
) -> None:
    """Train a multiscale DEQ with Gaussian noise and save it in the public format.

    The folder gets the weights, the YAML configuration and a record of the training with the
    measured accuracy. The same command goes on with a training that was interrupted.
    """
    from deqcert.cli.build import prepare_process
    from deqcert.cli.options import parse_pairs
    from deqcert.training import TrainConfig, objective_options, train
    from deqcert.training.workers import is_first

    prepare_process(threads)
    options = parse_pairs("objective option", pairs, objective_options(given["objective"]))
    config = TrainConfig(out=Path(out), progress=not quiet, objective_options=options, **given)
    path = train(config)
    if is_first():
        print(f"checkpoint: {path}")
