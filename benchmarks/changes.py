"""Certified accuracy against cost: the digits model pruned, rounded and distilled.

    python benchmarks/changes.py --out DIR

Every model is certified on the same images with the same noise (sigma 0.25, n 1000). Pruned ones
are certified as they are, and the harder ones after ten epochs more, which keep the zeros; students
have half the channels inside their blocks and a schedule of ``--epochs``, with a teacher and
without. The quick ones make three plain evaluations per vote. DIR gets the models, the table
changes.md and the picture changes.png; what is there already is not made again. Milliseconds are
the processor's, of one thread: the least of ``--rounds`` turns over all models, a certificate each.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

import deqcert
from deqcert.api import parse_images
from deqcert.changes import PruneConfig, prune
from deqcert.data import load_dataset
from deqcert.memory import keep_freed_memory
from deqcert.training import TrainConfig, train

RADII = (0.25, 0.5)
TUNED = 10
"""Epochs after a pruning."""

SCHEDULE: dict[str, Any] = {
    "data": "digits",
    "sigma": 0.25,
    "weight_decay": 0.05,
    "augment": "none",
    "jacobian_weight": 0.1,
    "max_nfe": 10,
    "backward_nfe": 8,
    "progress": False,
}
"""That of the shipped model."""

QUICK: dict[str, Any] = {"solver": "picard", "tol": 0.0, "depth": 3}
COLOURS = {"whole": "#000000", "weights": "#0072B2", "channels": "#D55E00", "rounded": "#009E73"}
COLOURS |= {"student": "#CC79A7"}


@dataclass
class Changed:
    """A model, how it is certified, and what came of it.

    Attributes:
        name: What was done.
        group: What it is drawn with.
        file: Checkpoint.
        how: Settings of the classifier that are not the usual ones.
        radii: Radius of each image, 0 where the class is wrong.
        evaluations: Cell evaluations per vote.
        milliseconds: A vote.
    """

    name: str
    group: str
    file: str
    how: dict[str, Any] = field(default_factory=dict)
    radii: np.ndarray = field(default_factory=lambda: np.zeros(0))
    evaluations: float = 0.0
    milliseconds: float = float("inf")


def trained(out: Path, name: str, **more: Any) -> str:
    """Train a model unless it is there."""
    file = out / f"{name}.pth"
    if not file.exists():
        print(f"training {name}", flush=True)
        train(TrainConfig(out=out, name=name, **(SCHEDULE | more)))
    return str(file)


def pruned(out: Path, sparsity: float, *, structured: bool) -> str:
    """Prune the digits model unless that is there."""
    file = out / f"{'channels' if structured else 'weights'}-{100 * sparsity:.0f}.pth"
    if not file.exists():
        prune(PruneConfig(model="digits", sparsity=sparsity, structured=structured, out=file))
    return str(file)


def changes(out: Path, epochs: int) -> Iterator[Changed]:
    """Make every model."""
    yield Changed("original", "whole", "digits")
    yield Changed("original, 3 evaluations", "whole", "digits", QUICK)
    yield Changed("int8", "rounded", "digits", {"form": "int8"})
    # Its residuals end above the usual tolerance.
    yield Changed(
        "bfloat16, 5 evaluations", "rounded", "digits", {"form": "bfloat16", "tol": 0.0, "depth": 5}
    )
    again = {"pretrain": 0.0, "epochs": TUNED, "lr": 1e-3}
    for structured in (False, True):
        group = "channels" if structured else "weights"
        for sparsity in (0.1, 0.2, 0.5, 0.8):
            file = pruned(out, sparsity, structured=structured)
            name = f"{100 * sparsity:.0f}% of the {group}"
            yield Changed(name, group, file)
            if sparsity >= 0.5:
                tuned = trained(
                    out, f"{Path(file).stem}-tuned", init=file, keep_zeros=not structured, **again
                )
                yield Changed(f"{name}, tuned", group, tuned)
    narrow = Path(pruned(out, 0.5, structured=True)).with_suffix(".yaml")
    taught: dict[str, Any] = {"objective": "distill", "teacher": "digits"}
    long: dict[str, Any] = {"model_config": narrow, "epochs": epochs, "lr": 0.01}
    file = trained(out, "alone", **long)
    yield Changed("half the channels, no teacher", "student", file)
    file = trained(out, "student", **long, **taught)
    yield Changed("half the channels, student", "student", file)
    three: dict[str, Any] = {"gradient": "unroll", "max_nfe": 3, "init": "digits", **again}
    yield Changed("3 evaluations, no teacher", "student", trained(out, "three", **three), QUICK)
    file = trained(out, "three-student", **three, **taught)
    yield Changed("3 evaluations, student", "student", file, QUICK)


def classifier(model: Changed, n: int) -> deqcert.SmoothedClassifier:
    """Return the smoothed classifier."""
    given = {"form": "folded"} | model.how
    return deqcert.SmoothedClassifier(
        model.file, sigma=0.25, n=n, method="standard", levels=16, threads=1, batch=500, **given
    )


def certify(model: Changed, indices: Sequence[int], n: int) -> None:
    """Certify a model on some test images."""
    data, smooth = load_dataset("digits", "test"), classifier(model, n)
    made = [smooth.certify(data.image(i), index=i) for i in indices]
    right = np.array([c.prediction == data.label(i) for c, i in zip(made, indices, strict=True)])
    model.radii = np.array([c.radius for c in made]) * right
    model.evaluations = float(np.mean([c.nfe for c in made])) / (n + smooth.n0)


def clock(models: Sequence[Changed], rounds: int, n: int) -> None:
    """Measure the processor's milliseconds per vote, in turns."""
    image = load_dataset("digits", "test").image(0)
    smooth = [classifier(model, n) for model in models]
    for _ in range(rounds):
        for model, one in zip(models, smooth, strict=True):
            began = time.process_time()
            one.certify(image, index=0)
            spent = 1000.0 * (time.process_time() - began) / (n + one.n0)
            model.milliseconds = min(model.milliseconds, spent)


def table(models: Sequence[Changed]) -> str:
    """Markdown, one line a model."""
    head = ["model", "right", *(f"at {r:g}" for r in RADII), "ACR", "evaluations", "ms per vote"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for one in models:
        cells = [one.name, f"{(one.radii > 0).mean():.0%}"]
        cells += [f"{(one.radii >= r).mean():.0%}" for r in RADII]
        cells += [f"{one.radii.mean():.3f}", f"{one.evaluations:.2f}", f"{one.milliseconds:.4f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw(path: Path, models: Sequence[Changed]) -> None:
    """Mean certified radius and milliseconds per vote, one line a model."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.6), dpi=100, layout="constrained")
    places = -np.arange(len(models))
    colours = [COLOURS[one.group] for one in models]
    values = {
        "mean certified l2 radius (ACR)": [one.radii.mean() for one in models],
        "milliseconds per vote (one thread)": [one.milliseconds for one in models],
    }
    for axes, (label, found) in zip(
        figure.subplots(1, 2, sharey=True), values.items(), strict=True
    ):
        axes.scatter(found, places, c=colours)
        axes.axvline(found[0], color="#999999", linewidth=0.8)
        axes.set(xlabel=label, xlim=(0.0, None), yticks=places)
        axes.set_yticklabels([one.name for one in models], fontsize=8)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


@click.command(help=__doc__.split("\n", 1)[0])
@click.option("--images", default="0:350:7", show_default=True)
@click.option("--n", default=1000, show_default=True)
@click.option("--epochs", default=60, show_default=True, help="Of the students.")
@click.option("--rounds", default=5, show_default=True)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True)
def main(images: str, n: int, epochs: int, rounds: int, out: Path) -> None:
    """Make the models, certify them, and write a table and a picture."""
    out.mkdir(parents=True, exist_ok=True)
    indices = [int(i) for i in parse_images(images, len(load_dataset("digits", "test")))]
    models = []
    for model in changes(out, epochs):
        certify(model, indices, n)
        models.append(model)
        print(dataclasses.replace(model, radii=np.round(model.radii.mean(), 3)), flush=True)
    clock(models, rounds, n)
    (out / "changes.md").write_text(table(models))
    draw(out / "changes.png", models)
    print(table(models))


if __name__ == "__main__":
    keep_freed_memory()
    torch.set_num_threads(1)
    main()
