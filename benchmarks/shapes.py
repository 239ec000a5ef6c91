"""How many votes change when the model is evaluated in another batch shape?

    python benchmarks/shapes.py
    python benchmarks/shapes.py --model CHECKPOINT --data folder:DIR --n 10000

Library convolutions may round differently for another number of rows; a vote can only change where
two classes are nearly tied. Votes of one shape never depend on the batch (the tests show that), so
the shape is part of what a certificate is about, and is recorded in the manifest.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import torch

from deqcert.data import load_dataset
from deqcert.models import load_model
from deqcert.smoothing import Input, Predictor, SmoothingEngine, Stage
from deqcert.solvers import StopRule, get_solver

ROOT = Path(__file__).resolve().parent


@click.command()
@click.option("--model", default="digits", show_default=True)
@click.option("--data", default="digits", show_default=True)
@click.option("--sigma", default=0.25, show_default=True)
@click.option("--n", default=100_000, show_default=True, help="Votes compared, over ten images.")
@click.option("--shapes", default="7,16,64,250", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=ROOT / "results" / "shapes.md")
def main(model: str, data: str, sigma: float, n: int, shapes: str, out: Path) -> None:
    """Write the table."""
    dataset = load_dataset(data, split="test")
    predictor = Predictor(get_solver("anderson"), StopRule(tol=1e-3, max_nfe=30))
    votes = {}
    for shape in map(int, shapes.split(",")):
        engine = SmoothingEngine(load_model(model), sigma=sigma, batch=250, shape=shape)
        votes[shape] = np.concatenate(
            [
                engine.votes(
                    predictor, Input(dataset.image(i), i), Stage.ESTIMATE, n // 10
                ).predictions
                for i in range(10)
            ]
        )
        click.echo(f"shape {shape}: {np.bincount(votes[shape] + 1)}")
    shape, *others = votes
    lines = [
        f"# Votes that change with the batch shape ({Path(model).stem}, {n} votes, sigma {sigma})",
        "",
        f"`python benchmarks/shapes.py --n {n} --shapes {shapes}`, {torch.get_num_threads()} "
        f"threads, torch {torch.__version__}",
        "",
        f"| rows of an evaluation | votes that differ from {shape} rows |",
        "| --- | --- |",
        *(f"| {other} | {int(np.sum(votes[other] != votes[shape]))} |" for other in others),
    ]
    out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
