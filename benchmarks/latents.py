"""What do latents certify, proven and under noise, before and after they are made Gaussian?

    python benchmarks/latents.py --data mnist:DIR

Contractive encoders are trained for equal minutes with `gaussian` and with `gaussian-latent`; on
each the heads lda and qda are fitted by `deqcert fit-latent`. The same test images are certified by
the model's own last layer and by the heads: proven (`lipschitz`, `latent`, also by the published
formula), and every tenth of them under noise (`independent`). All by the commands that users give.
What is in --work already is not made again. Written: results/latents.md and its pictures.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from deqcert.certifiers.metrics import average_certified_radius
from deqcert.report import Results, draw_curves, read_results

RESULTS = Path(__file__).resolve().parent / "results"
RADII = (0.0, 0.1, 0.25, 0.5, 1.0)
OBJECTIVES = ("gaussian", "gaussian-latent")
PROVEN: dict[str, tuple[str, tuple[str, ...]]] = {
    "own last layer, pair by pair": ("", ("--method", "lipschitz")),
    "lda, pair by pair": ("-lda", ("--method", "lipschitz")),
    "lda, T over L": ("-lda", ("--method", "latent")),
    "qda, T over L": ("-qda", ("--method", "latent")),
    "qda, published T over L": (
        "-qda",
        ("--method", "latent", "--method-option", "formula=published"),
    ),
}
NOISE = ("--method", "independent", "--sigma", "0.25", "--n", "1000", "--batch", "500")
NOISY = {"own last layer, noise": "", "lda, noise": "-lda", "qda, noise": "-qda"}


def deqcert(*given: str) -> None:
    """Give a command."""
    subprocess.run([sys.executable, "-m", "deqcert", *given], check=True)


def encoder(data: str, work: Path, objective: str, minutes: float, fitted: int) -> Path:
    """Train an encoder and fit its heads; return the checkpoint."""
    model = work / objective / "model.pth"
    if not model.exists():
        deqcert(
            *("train", "--data", data, "--architecture", "contractive", "--sigma", "0.25"),
            *("--objective", objective, "--minutes", f"{minutes:g}", "--test-draws", "1"),
            *("--threads", "1", "--quiet", "--out", str(model.parent)),
        )
    for head in ("lda", "qda"):
        if not model.with_name(f"model-{head}.pth").exists():
            deqcert(
                *("fit-latent", "--model", str(model), "--head", head, "--data", data),
                *("--images", f":{fitted}", "--quiet"),
            )
    return model


def certified(data: str, model: Path, ending: str, name: str, more: Sequence[str]) -> Results:
    """Certify with one head and method."""
    out = model.parent / name_of(name)
    deqcert(
        *("certify", "--model", str(model.with_name(f"model{ending}.pth")), "--data", data, *more),
        *("--agreement", "0", "--threads", "1", "--quiet", "--out", str(out)),
    )
    return read_results(out, name)


def line(objective: str, run: Results) -> str:
    """Return a row of the table."""
    shares = [f"{100 * np.mean(run.correct & (run.radius >= r)):.1f}" for r in RADII]
    ms = f"{1000 * float(np.median(run.seconds)):.1f}"
    acr = average_certified_radius(run.correct, run.radius)
    return f"| {objective} | {run.name} | {len(run)} | {' | '.join(shares)} | {acr:.3f} | {ms} |"


def measured(model: Path, head: str) -> dict[str, Any]:
    """Return what `fit-latent` measured."""
    text = model.with_name(f"model-{head}.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)["measured"]
    return found


def told(objective: str, model: Path, head: str) -> str:
    """Return a row of the table of the fits."""
    found = measured(model, head)
    classes = found["normality"]
    told_apart = sum(row["two_sample"] < 0.01 for row in classes)
    excess = np.nanmean([row["excess"] for row in classes])
    curves = found["curves"]
    half = int(np.argmin(np.abs(np.array(curves["measured"]) - 0.5)))
    return (
        f"| {objective} | {head} | {100 * found['accuracy']:.1f} | "
        f"{100 * found['accuracy_of_own_readout']:.1f} | {100 * curves['predicted'][0]:.1f} | "
        f"{100 * curves['measured'][half]:.0f} / {100 * curves['predicted'][half]:.0f} | "
        f"{excess:+.2f} | {told_apart} of {len(classes)} | {found['gap_estimate']:.2f} | "
        f"{found['lipschitz']:.2f} |"
    )


@click.command()
@click.option("--data", required=True, help="Data set, such as mnist:DIR.")
@click.option("--work", type=click.Path(path_type=Path), default=Path("runs/latents"))
@click.option("--minutes", default=2.0, show_default=True, help="Training of each encoder.")
@click.option("--images", default=500, show_default=True, help="Test images that are certified.")
@click.option("--fitted", default=12000, show_default=True, help="Training images for the heads.")
def main(data: str, work: Path, minutes: float, images: int, fitted: int) -> None:
    """Train, fit, certify, and write results/latents.md."""
    fits, lines, curves = [], [], []
    for objective in OBJECTIVES:
        model = encoder(data, work, objective, minutes, fitted)
        fits += [told(objective, model, head) for head in ("lda", "qda")]
        for name, (ending, more) in PROVEN.items():
            run = certified(data, model, ending, name, (*more, "--images", f"0:{images}"))
            lines.append(line(objective, run))
            if name in ("own last layer, pair by pair", "lda, pair by pair", "qda, T over L"):
                curves.append(read_results(model.parent / name_of(name), f"{objective}: {name}"))
        for name, ending in NOISY.items():
            some = (*NOISE, "--images", f"0:{images}:10")
            lines.append(line(objective, certified(data, model, ending, name, some)))
    draw_curves(curves, RESULTS / "latents.png", title="Proven radii of Gaussian heads")
    fit = work / OBJECTIVES[-1] / "model-lda.png"
    shutil.copyfile(fit, RESULTS / "latents_fit.png")
    (RESULTS / "latents.md").write_text(page(fits, lines, minutes, images, fitted))


def name_of(name: str) -> str:
    """Return the folder of a run."""
    return name.replace(" ", "-").replace(",", "")


def page(fits: Sequence[str], lines: Sequence[str], minutes: float, images: int, n: int) -> str:
    """Return the page."""
    return "\n".join(
        [
            "# Latents that are nearly Gaussian: what they certify",
            "",
            "```",
            f"python benchmarks/latents.py --data mnist:DIR --minutes {minutes:g} "
            f"--images {images} --fitted {n}",
            "```",
            "",
            f"Contractive networks of 128 units for MNIST, {minutes:g} minutes of one core each at "
            "sigma 0.25; heads fitted to four fifths of "
            f"{n} training images, measured on the other fifth.",
            "",
            "## The fits",
            "",
            "| objective | head | accuracy % | own last layer % | predicted % | at half: "
            "measured / predicted % | excess kurtosis | classes told from the fit | "
            "estimated gap, nats | proven L |",
            "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
            *fits,
            "",
            "*Predicted* is the accuracy that the mixture itself would have; *at half* is taken at "
            "the latent radius where half of the held-out images are certified. The gap is an "
            "estimate and bounds nothing.",
            "",
            "![what is measured, predicted and left under drift](latents_fit.png)",
            "",
            "## Certified accuracy",
            "",
            f"l2 in [0, 1] pixels, % of the first {images} test images (noise: every tenth of "
            "them, n = 1000, sigma 0.25); ms is the median of an image.",
            "",
            "| objective | how | images | "
            + " | ".join(f"r = {r:g}" for r in RADII)
            + " | ACR | ms |",
            "| --- | --- | ---: |" + " ---: |" * (len(RADII) + 2),
            *lines,
            "",
            "![certified accuracy by radius](latents.png)",
            "",
        ]
    )


if __name__ == "__main__":
    main()
