"""``deqcert train-start``: a network that guesses where the solves of a model should start."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

# Repeated from deqcert.training.StartConfig, which cannot be looked at without importing torch;
# a test holds both to the same names and defaults.
KNOBS: tuple[tuple[str, type, Any, str], ...] = (
    ("config", Path, None, "The checkpoint's YAML configuration; default: the .yaml beside it."),
    ("out", Path, None, "File to write; default: beside the checkpoint, NAME.start.pth."),
    ("init", Path, None, "Start file of the same model to go on from."),
    ("data", str, "digits", "Training images: digits, mnist:DIR, cifar10:DIR, folder:DIR..."),
    ("sigma", float, 0.25, "Noise, in pixel units of [0,1]; what you will certify with."),
    ("steps", int, 2000, "Gradient steps."),
    ("minutes", float, 0.0, "If above 0: train for this long instead."),
    ("batch", int, 64, "Images a step."),
    ("lr", float, 3e-3, "First learning rate; it falls to 0 along a cosine."),
    ("clip", float, 1.0, "Norm to which gradients are clipped."),
    ("cells", int, 1, "Cell evaluations from the start to the state that is compared, 1 to 3."),
    ("divergence", float, 2.0, "Weight of the divergence between the logits there."),
    ("labels", float, 0.0, "Weight of the cross-entropy with the labels there."),
    ("tol", float, 1e-2, "Relative residual at which a training state counts as solved."),
    ("max_nfe", int, 20, "Most cell evaluations of such a solve."),
    ("reuse", int, 3, "Passes over solved states before new ones are made."),
    ("disagreement", float, 0.005, "Share of votes that the tuned depth may change."),
    ("tune_images", int, 1000, "Noisy training images on which that is measured."),
    ("most", int, 12, "Largest depth that is tried."),
    ("augment", str, "auto", "Before the noise: auto, none, shift or crop-flip."),
    ("seed", int, 0, "Of the initial weights, the order and all noise."),
    ("device", str, "cpu", "Where to train: cpu or cuda."),
)


def _knobs(command: Callable[..., Any]) -> Callable[..., Any]:
    for name, kind, default, text in reversed(KNOBS):
        command = click.option(
            f"--{name.replace('_', '-')}",
            name,
            type=click.Path(path_type=Path) if kind is Path else kind,
            default=default,
            show_default=default is not None,
            metavar="FILE" if kind is Path else None,
            help=text,
        )(command)
    return command


@click.command(short_help="Fit a network that guesses where a model's solves should start.")
@click.option(
    "--model",
    default="digits",
    show_default=True,
    metavar="NAME|FILE",
    help="Checkpoint that the start is for; it stays as it is.",
)
@_knobs
@click.option("--threads", type=int, metavar="T", help="CPU threads; default: torch's own.")
@click.option("--quiet", is_flag=True, help="Print the file's path only.")
def command(model: str, threads: int | None, quiet: bool, **given: Any) -> None:
    """Fit a small network from the injection to the equilibrium, for --start learned.

    The start is a function of the noisy input alone, so votes that begin there stay independent.
    The cheapest depth from it that changes at most the stated share of votes is found on training
    images and kept in the file; a record of all of it is written beside.
    """
    from deqcert.compose import prepare_process
    from deqcert.training import StartConfig, train_start

    prepare_process(threads)
    path = train_start(StartConfig(model=model, progress=not quiet, **given))
    if not quiet:
        found = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["measured"]
        depth = found["depth"]
        rules = {name: depth[name] for name in ("early", "margin") if depth[name] is not None}
        early = "".join(f" --{name} {value:g}" for name, value in rules.items())
        print(
            f"{found['parameters']} weights, {100 * found['share_of_parameters']:.1f}% of the "
            f"model's; {found['cost']:.2f} cell evaluations a start\n"
            f"agreement with the converged solve after 1, 2, 3 cells: "
            + ", ".join(f"{100 * share:.1f}%" for share in found["agreement"][:3])
            + f"\ndepth kept: --steps {depth['steps']}{early}: {depth['nfe']:.2f} evaluations a "
            f"vote after the start, {100 * depth['disagreement']:.2f}% of the votes differ"
        )
    print(f"start: {path}")
