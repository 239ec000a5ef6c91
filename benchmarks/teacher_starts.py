"""Do a student's solves end sooner when they start at its teacher's equilibria?

    python benchmarks/teacher_starts.py MODELS --out DIR

MODELS is the folder that benchmarks/changes.py filled. Two measurements, both on noisy copies at
sigma 0.25. *Trained* students: evaluations to a relative residual of 1e-3 from a cold start and
from the teacher's equilibrium of the same noisy copy, which takes the teacher's own solve. And *in
training* by distillation, where the teacher is solved on the same copy anyway: the mean evaluations
of the student's solves after so many epochs, cold and from there, and what the student is worth.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click
import numpy as np
import torch
from torch import Tensor

from deqcert.data import load_dataset
from deqcert.memory import keep_freed_memory
from deqcert.models import TrainableModel, load_model
from deqcert.solvers import Anderson, StopRule, bind
from deqcert.training import TrainConfig, loop, train
from deqcert.training.measure import solve
from deqcert.training.passes import Passes

STOP = StopRule(tol=1e-3, max_nfe=30)
STUDENTS = ("weights-50", "weights-80", "channels-50", "channels-50-tuned", "student", "alone")


class TaughtPasses(Passes):
    """Passes that begin at the teacher's equilibria."""

    teacher: TrainableModel

    def __call__(self, x: Tensor) -> Tensor:
        """Map images, shape (B, C, H, W), to logits, shape (B, K)."""
        if self.unrolled:
            return super().__call__(x)
        self._seen = x
        with torch.no_grad():
            start = solve(self.teacher, x).z
        return self._pass(x, self._gradient, start)


class TaughtTraining(loop._Training):
    """A training with such passes."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.passes = TaughtPasses(self.model, self.config, self.generator)
        self.passes.teacher = load_model("digits")


@torch.no_grad()
def starts(student: TrainableModel, teacher: TrainableModel, x: Tensor) -> list[float]:
    """Return mean evaluations cold, from the teacher's equilibrium, and of the teacher."""
    told = solve(teacher, x)
    injection = student.inject(x)
    cell, cold = bind(student.cell, injection), student.initial_state(injection)
    found = [Anderson().solve(cell, start, STOP).nfe for start in (cold, told.z)]
    return [nfe.double().mean().item() for nfe in (*found, told.nfe)]


def taught(out: Path, name: str, warm: bool, **given: Any) -> list[float]:
    """Train a student, and return its mean evaluations when it is solved, and its accuracy."""
    file = out / f"{name}-{'warm' if warm else 'cold'}.pth"
    if not file.exists():
        config = TrainConfig(
            out=out, name=file.stem, sigma=0.25, objective="distill", teacher="digits", lr=0.01,
            weight_decay=0.05, augment="none", jacobian_weight=0.1, max_nfe=10, backward_nfe=8,
            progress=False, **given,
        )  # fmt: skip
        with patch.object(loop, "_Training", TaughtTraining if warm else loop._Training):
            train(config)
    lines = file.with_suffix(".curve.csv").read_text().splitlines()
    rows = [dict(zip(lines[0].split(","), line.split(","), strict=True)) for line in lines[1:]]
    solved = [float(row["nfe"]) for row in rows if float(row["unrolled"]) == 0.0]
    measured = json.loads(file.with_suffix(".json").read_text())["measured"]
    return [float(np.mean(solved)), solved[-1], measured["noisy_accuracy"]]


@click.command(help=__doc__.split("\n", 1)[0])
@click.argument("models", type=click.Path(path_type=Path, exists=True))
@click.option("--epochs", default=8, show_default=True)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True)
def main(models: Path, epochs: int, out: Path) -> None:
    """Measure, and write two tables."""
    out.mkdir(parents=True, exist_ok=True)
    data, teacher = load_dataset("digits", "test"), load_model("digits")
    x = torch.from_numpy(data.batch(np.arange(len(data))))
    x = x + 0.25 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    lines = ["| student | cold | from the teacher | the teacher's own |", "|---" * 4 + "|"]
    for name in STUDENTS:
        found = starts(load_model(models / f"{name}.pth"), teacher, x)
        lines.append(f"| {name} | {' | '.join(f'{value:.2f}' for value in found)} |")
    lines += ["", "| student in training | start | evaluations | last epoch | noisy |"]
    lines.append("|---" * 5 + "|")
    narrow = models / "channels-50"
    students: dict[str, dict[str, Any]] = {
        "pruned": {"init": str(narrow.with_suffix(".pth")), "pretrain": 0.0},
        "new": {"model_config": narrow.with_suffix(".yaml"), "pretrain": 0.25},
    }
    for name, given in students.items():
        for warm in (False, True):
            mean, last, noisy = taught(out, name, warm, epochs=epochs, **given)
            start = "teacher's" if warm else "cold"
            lines.append(f"| {name} | {start} | {mean:.2f} | {last:.2f} | {noisy:.1%} |")
    (out / "teacher_starts.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    keep_freed_memory()
    torch.set_num_threads(1)
    main()
