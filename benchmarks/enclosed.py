"""Proven equilibria against standard smoothing, on digits with a contractive model.

    deqcert train --architecture contractive --epochs 100 --lr 0.01 --weight-decay 0.05 \
        --augment none --jacobian-weight 0 --threads 1 --out contractive
    python benchmarks/enclosed.py --model contractive/model.pth

All methods certify the same images with the same noise. A vote is proven if the class of its exact
equilibrium is, whichever one it is; selection votes are among them. nfe counts every evaluation of
a vote: its solve, its proofs in float64, selection and audit.
"""

from __future__ import annotations

import platform
from pathlib import Path

import click
import numpy as np
import torch

import deqcert.smoothing.proven as proven
from deqcert.certifiers import Certificate, get_certifier
from deqcert.certifiers.metrics import average_certified_radius, certified_accuracy
from deqcert.data import load_dataset
from deqcert.memory import keep_freed_memory
from deqcert.models import load_model
from deqcert.smoothing import NO_VOTE, Input, Predictor, SmoothingEngine
from deqcert.solvers import StopRule, get_solver
from deqcert.starts import get_start

ROOT = Path(__file__).resolve().parent
RADII = (0.0, 0.25, 0.5, 0.75)


def predictors() -> dict[str, Predictor]:
    """The ways in which states are found, by name."""
    solver = get_solver("anderson")
    found = {
        "cold to 1e-3": Predictor(solver, StopRule(tol=1e-3)),
        "cold to 1e-6": Predictor(solver, StopRule(tol=1e-6, max_nfe=60)),
        "cold, 1 step": Predictor(solver, StopRule(tol=0, max_nfe=1)),
    }
    for steps in (1, 2):
        found[f"previous, {steps} step{'s' * (steps > 1)}"] = Predictor(
            solver, StopRule(tol=0, max_nfe=steps), get_start("previous"), warmup=StopRule(tol=1e-3)
        )
    return found


SETTINGS = (
    ("standard", "cold to 1e-3"),
    ("standard", "cold to 1e-6"),
    ("serialized", "previous, 1 step"),
    ("serialized", "previous, 2 steps"),
    ("enclosed", "cold to 1e-3"),
    ("enclosed", "cold, 1 step"),
    ("enclosed", "previous, 1 step"),
)


class Watcher:
    """Count how many votes are proven, while certificates are made."""

    def __init__(self) -> None:
        self.real, self.votes, self.proven = proven.proven_votes, 0, 0

    def __call__(self, *arguments, **options):  # type: ignore[no-untyped-def]
        """Vote, and count."""
        votes = self.real(*arguments, **options)
        self.votes += len(votes.predictions)
        self.proven += int(np.sum(votes.predictions != NO_VOTE))
        return votes


@click.command()
@click.option("--model", required=True, help="A checkpoint of a contractive model.")
@click.option("--images", default=50, show_default=True, help="The first so many test digits.")
@click.option("--sigma", default=0.25, show_default=True)
@click.option("--n", default=10000, show_default=True)
@click.option("--audit", default=2000, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=ROOT / "results" / "enclosed.md")
def main(model: str, images: int, sigma: float, n: int, audit: int, out: Path) -> None:
    """Write the table."""
    keep_freed_memory()
    torch.set_num_threads(1)
    loaded = load_model(model)
    engine = SmoothingEngine(loaded, sigma=sigma, batch=500)
    data, known = load_dataset("digits"), predictors()
    lines = [
        f"# Proven equilibria: {images} test digits, sigma {sigma}, n={n}, alpha 0.001",
        "",
        f"`python benchmarks/enclosed.py --images {images} --sigma {sigma} --n {n} "
        f"--audit {audit}` (and `--model`, trained as the script says)",
        "",
        f"Contraction factor of the stored weight, proven: {loaded.factor():.6f}. One thread, "
        f"{platform.machine()}, torch {torch.__version__}.",
        "",
        "| method | votes from | not proven | mean nfe | "
        + " | ".join(f"r={r:g}" for r in RADII)
        + " | ACR |",
        "| --- | --- | --- | --- | " + "--- | " * len(RADII) + "--- |",
    ]
    for method, name in SETTINGS:
        options = {"n0": 100, "n": n, "alpha": 0.001}
        if method == "serialized":
            options |= {"reference": known["cold to 1e-3"], "audit": audit}
        if method == "enclosed":
            options["depth"] = 30
        certifier = get_certifier(method, known[name], **options)
        watcher = proven.proven_votes = Watcher()  # type: ignore[assignment]
        found: list[Certificate] = [
            certifier.certify(engine, Input(data.image(image), image)) for image in range(images)
        ]
        proven.proven_votes = watcher.real
        correct = [c.prediction == data.label(image) for image, c in enumerate(found)]
        radius = [c.radius for c in found]
        nfe = sum(c.nfe for c in found) / (images * (n + 100))
        shares = " | ".join(f"{100 * a:.0f}%" for a in certified_accuracy(correct, radius, RADII))
        left = f"{watcher.votes - watcher.proven} of {watcher.votes}" if watcher.votes else ""
        acr = average_certified_radius(correct, radius)
        lines.append(f"| `{method}` | {name} | {left} | {nfe:.2f} | {shares} | {acr:.4f} |")
        print(lines[-1], flush=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
