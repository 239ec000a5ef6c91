"""Certify CIFAR-10 images with MDEQ-SMALL: cold solves of 30 evaluations against warm starts.

    python benchmarks/certify_cifar10.py --data folder:DIR --image 3

The checkpoint is in the folder that DEQCERT_GOLDEN names, the images are class folders (``test/``)
in the one given by --data. Agreement is the share of the n votes that equal those of the cold
solves of the same noise. Every row is one certificate of one image, timed on its own.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path

import click
import numpy as np
import torch

from deqcert import kernels
from deqcert.certifiers import get_certifier
from deqcert.data import load_dataset
from deqcert.memory import keep_freed_memory
from deqcert.models import load_model
from deqcert.smoothing import Input, Predictor, SmoothingEngine, Votes
from deqcert.solvers import StopRule, get_solver
from deqcert.starts import get_start

ROOT = Path(__file__).resolve().parent


class RecordingEngine(SmoothingEngine):
    """An engine that keeps the last votes it counted."""

    last: Votes

    def votes(self, *arguments, **options):  # type: ignore[no-untyped-def]
        """Vote, and remember."""
        self.last = super().votes(*arguments, **options)
        return self.last


@click.command()
@click.option("--data", required=True, help="As `deqcert certify --data` takes it.")
@click.option("--image", default=3, show_default=True, help="Index among the test images.")
@click.option("--sigma", default=0.25, show_default=True)
@click.option("--n", default=10000, show_default=True)
@click.option("--alpha", default=0.001, show_default=True)
@click.option("--audit", default=1000, show_default=True)
@click.option("--depth", default=30, show_default=True, help="Evaluations of a cold solve.")
@click.option("--batch", default=100, show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=ROOT / "results")
def main(
    data: str,
    image: int,
    sigma: float,
    n: int,
    alpha: float,
    audit: int,
    depth: int,
    batch: int,
    threads: int,
    out: Path,
) -> None:
    """Write the table."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    folder = Path(os.environ.get("DEQCERT_GOLDEN", ROOT.parent / "../shared/golden"))
    model = load_model(folder / "mdeq_small_noise25.pth.tar")
    dataset = load_dataset(data, split="test")
    x, label = dataset.image(image), dataset.label(image)
    engine = RecordingEngine(model, sigma=sigma, batch=batch)
    solver = get_solver("anderson")
    cold = Predictor(solver, StopRule(tol=0, max_nfe=depth))
    tolerant = Predictor(solver, StopRule(tol=1e-3, max_nfe=depth))
    common = {"n0": 100, "n": n, "alpha": alpha}

    lines = [
        f"# One CIFAR-10 image, MDEQ-SMALL, sigma {sigma}, n={n}, alpha {alpha}",
        "",
        f"`python benchmarks/certify_cifar10.py --image {image} --n {n} --audit {audit} "
        f"--threads {threads}` (and `--data`)",
        "",
        f"Image {image} of the test folders, class {dataset.classes[label]}; {threads} threads, "
        f"{platform.machine()}, torch {torch.__version__}, kernels: {kernels.status().path}. "
        f"nfe counts every cell evaluation of the certificate, audit included, a vote.",
        "",
        "| method | start | evaluations | class | radius | nfe per vote | agreement | seconds | "
        "times faster |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    yardstick, truth = None, None
    rows = [("standard", cold), ("standard", tolerant)]
    for steps in (3, 5):
        rows.append(("standard", Predictor(solver, StopRule(tol=0, max_nfe=steps))))
    for start, steps in (("previous", 1), ("previous", 3), ("mean", 1), ("mean", 2), ("mean", 3)):
        stop = StopRule(tol=0, max_nfe=steps)
        warm = Predictor(solver, stop, get_start(start), warmup=cold.stop)
        rows.append(("serialized", warm))
    for method, predictor in rows:
        extra = {} if predictor.independent else {"reference": cold, "audit": audit}
        certificate = get_certifier(method, predictor, **common, **extra).certify(
            engine, Input(x, image)
        )
        votes = engine.last.predictions
        truth = votes if truth is None else truth
        yardstick = yardstick or certificate.seconds
        stop = predictor.stop
        asked = str(stop.max_nfe) if stop.fixed_depth else f"to {stop.tol:g}, at most {depth}"
        answer = "abstains" if certificate.prediction is None else str(certificate.prediction)
        lines.append(
            f"| {method} | {predictor.start.name} | {asked} | {answer} | "
            f"{certificate.radius:.3f} | {certificate.nfe / n:.2f} | "
            f"{np.mean(votes == truth):.2%} | {certificate.seconds:.1f} | "
            f"{yardstick / certificate.seconds:.2f} |"
        )
        click.echo(lines[-1])
    out.mkdir(parents=True, exist_ok=True)
    (out / f"certify_cifar10_{image}.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
