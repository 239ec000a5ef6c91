"""The same model certified by proof and by noise: radius against cost.

    python benchmarks/noise_or_proof.py MODEL --data mnist:DIR --images ::200 --out DIR

MODEL is one that method ``lipschitz`` proves, such as ``deqcert train --architecture
lipschitz-bounded`` makes. Each image is certified by proof (constants, and around the image) and by
noise (``standard``) at each sigma and number of samples. DIR gets the table noise_or_proof.md and
the picture noise_or_proof.png. Times are the processor's, one thread, image by image; constants of
the network, which are proven once, are counted apart.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch

import deqcert
from deqcert.api import parse_images
from deqcert.certifiers import Certificate, get_certifier
from deqcert.data import Dataset, load_dataset
from deqcert.memory import keep_freed_memory
from deqcert.models import ImplicitModel, load_model
from deqcert.smoothing import Input

BATCH = 1000
"""Noisy copies at a time; a model this small is quicker with more of them than is usual."""

RADII = (0.25, 0.5, 0.75, 1.0)
COLOURS = {"proof": "#0072B2", 0.25: "#D55E00", 0.5: "#009E73"}
DASHES = ((0, (2, 1.5)), "-")


@dataclass(frozen=True)
class Way:
    """One way to certify, and what came of it.

    Attributes:
        name: Proof or noise, and with what.
        group: What it is drawn with: "proof", or sigma.
        radii: Radius of each image, 0 where the class is wrong, shape (N,).
        seconds: Processor seconds an image.
        evaluations: Cell evaluations an image.
        alpha: Failure probability of each certificate.
        once: Processor seconds before the first image.
    """

    name: str
    group: str | float
    radii: np.ndarray
    seconds: float
    evaluations: float
    alpha: float
    once: float = 0.0


def way(name: str, group: str | float, made: Sequence[Certificate], labels: np.ndarray,
        seconds: float, once: float = 0.0) -> Way:  # fmt: skip
    """Gather certificates."""
    radii = [c.radius * (c.prediction == label) for c, label in zip(made, labels, strict=True)]
    evaluations = float(np.mean([c.nfe for c in made]))
    alpha = max(c.alpha for c in made)
    return Way(name, group, np.array(radii), seconds / len(made), evaluations, alpha, once)


def ways(
    model: ImplicitModel, file: Path, data: Dataset, indices: Sequence[int],
    sigmas: Sequence[float], samples: Sequence[int],
) -> Iterator[Way]:  # fmt: skip
    """Certify in each way."""
    labels = data.labels()[list(indices)]
    for bound, name in (("multiplier", "proof, constants"), ("local", "proof, local")):
        certifier = get_certifier("lipschitz", bound=bound)
        began = time.process_time()
        certifier.check(model)
        ready = time.process_time()
        made = [certifier.certify(model, Input(data.image(i), i)) for i in indices]
        yield way(name, "proof", made, labels, time.process_time() - ready, ready - began)
    for n in samples:
        for sigma in sigmas:
            smooth = deqcert.SmoothedClassifier(
                str(file),
                batch=BATCH,
                sigma=sigma,
                n=n,
                method="standard",
                levels=data.levels,
                threads=1,
            )
            began = time.process_time()
            made = [smooth.certify(data.image(i), index=i) for i in indices]
            name = f"noise, sigma {sigma:g}, n {n}"
            yield way(name, sigma, made, labels, time.process_time() - began)


def table(found: Sequence[Way]) -> str:
    """Markdown, one line a way."""
    head = ["way", "alpha", "evaluations", "ms an image", "right", "ACR"]
    head += [f"at {r:g}" for r in RADII]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for one in found:
        cells = [one.name, f"{one.alpha:g}", f"{one.evaluations:.0f}", f"{1000 * one.seconds:.1f}"]
        cells += [f"{(one.radii > 0).mean():.1%}", f"{one.radii.mean():.3f}"]
        cells += [f"{(one.radii >= r).mean():.1%}" for r in RADII]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw(path: Path, found: Sequence[Way]) -> None:
    """Mean radius against cost, and certified accuracy against radius."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.7), dpi=100, layout="constrained")
    cost, curves = figure.subplots(1, 2)
    seen: dict[str | float, int] = {}
    for one in found:
        turn = seen.setdefault(one.group, 0)
        seen[one.group] += 1
        colour = COLOURS.get(one.group, "#000000")
        filled = colour if turn else "white"
        cost.plot(1000 * one.seconds, one.radii.mean(), "o", color=colour, markerfacecolor=filled)
        cost.annotate(
            one.name.partition(", ")[2], (1000 * one.seconds, one.radii.mean()), fontsize=8,
            xytext=(0, -12), textcoords="offset points", color=colour, ha="center",
        )  # fmt: skip
        radii = np.sort(one.radii[one.radii > 0])
        shares = 100 * np.arange(len(radii), 0, -1) / len(one.radii)
        curves.step(
            np.concatenate(([0.0], radii, radii[-1:])), np.concatenate((shares[:1], shares, [0])),
            color=colour, linestyle=DASHES[min(turn, 1)], label=one.name, linewidth=1.5,
        )  # fmt: skip
    cost.set(
        xscale="log", xlabel="milliseconds an image (one thread)", ylabel="mean l2 radius (ACR)"
    )
    cost.margins(x=0.2, y=0.2)
    curves.set(xlabel="l2 radius", ylabel="certified accuracy (%)", xlim=(0, None), ylim=(0, 100))
    curves.legend(fontsize=8, frameon=False)
    for axes in (cost, curves):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


@click.command(help=__doc__.split("\n", 1)[0])
@click.argument("file", type=click.Path(path_type=Path, exists=True))
@click.option("--data", required=True)
@click.option("--images", default="::200", show_default=True)
@click.option("--sigma", "sigmas", type=float, multiple=True, default=(0.25, 0.5))
@click.option("--n", "samples", type=int, multiple=True, default=(1000, 10000))
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True)
def main(
    file: Path, data: str, images: str, sigmas: tuple[float, ...], samples: tuple[int, ...],
    out: Path,
) -> None:  # fmt: skip
    """Measure, and write a table and a picture."""
    out.mkdir(parents=True, exist_ok=True)
    test = load_dataset(data, "test")
    indices = [int(i) for i in parse_images(images, len(test))]
    print(f"{platform.machine()}, one thread; {len(indices)} images of {data.partition(':')[0]}")
    found = []
    for one in ways(load_model(file), file, test, indices, sigmas, samples):
        found.append(one)
        print(
            f"{one.name}: {1000 * one.seconds:.1f} ms an image, once {one.once:.1f} s", flush=True
        )
        (out / "noise_or_proof.md").write_text(table(found))
        draw(out / "noise_or_proof.png", found)
    print(table(found))


if __name__ == "__main__":
    keep_freed_memory()
    torch.set_num_threads(1)
    main()
