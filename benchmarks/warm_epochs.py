"""Training solves that start where the same image's solve ended in the last epoch, or cold.

    python benchmarks/warm_epochs.py --out DIR
    python benchmarks/warm_epochs.py --data mnist:DIR --count 1000 --epochs 4 --only noise --out DIR

Each setting is trained twice from one seed, so both see the same images in the same order with the
same noise; the warm one keeps each image's last equilibrium in half precision and begins there. It
lives here and not in the package: see benchmarks/results/warm_epochs.md for why. Evaluations are
means a solve over all epochs after the unrolled ones but the first, in which nothing is known yet;
seconds are the processor's, for the whole training.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click
import numpy as np
import torch
from torch import Tensor

from deqcert.data import load_dataset
from deqcert.memory import keep_freed_memory
from deqcert.models import load_model
from deqcert.training import TrainConfig, loop, train
from deqcert.training.passes import Passes

SETTINGS = {
    "nothing": {"sigma": 0.0, "augment": "none"},
    "noise": {"sigma": 0.25, "augment": "none"},
    "noise and shifts": {"sigma": 0.25, "augment": "shift"},
}
"""What changes an image from one epoch to the next."""


class WarmPasses(Passes):
    """Passes that begin at kept states.

    Attributes:
        rows: Which images the next pass sees, shape (B,).
        kept: Last equilibrium of every image, shape (N, D), float16; zeros, the cold start, where
            there is none.
    """

    rows: Tensor
    kept: Tensor | None = None
    images = 0

    def __call__(self, x: Tensor) -> Tensor:
        """Map images, shape (B, C, H, W), to logits, shape (B, K)."""
        if self.unrolled:
            return super().__call__(x)
        self._seen = x
        if self.kept is None:
            with torch.no_grad():
                size = self.model.initial_state(self.model.inject(x[:2])).shape[1]
            self.kept = torch.zeros(self.images, size, dtype=torch.float16)
        logits = self._pass(x, self._gradient, self.kept[self.rows].float())
        assert self._last is not None
        self.kept[self.rows] = self._last[0].detach().half()
        return logits


class WarmTraining(loop._Training):
    """A training whose passes know which images they see."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.passes = WarmPasses(self.model, self.config, self.generator)
        self.passes.images = len(self.data)

    def _batch(self, share: float) -> tuple[Tensor, Tensor]:
        first = self.step * self.config.batch
        assert isinstance(self.passes, WarmPasses)
        self.passes.rows = self.order[first : first + self.config.batch]
        return super()._batch(share)


def few(spec: str, split: str, count: int, out: Path) -> str:
    """Write the first images of a split to a file; return how it is named as data."""
    data = load_dataset(spec, split)
    rows = np.arange(min(count, len(data)))
    file = out / f"{split}-{len(rows)}.npz"
    if not file.exists():
        np.savez(file, x=data.batch(rows), y=data.labels()[rows])
    return f"npz:{file}"


def measure(out: Path, name: str, warm: bool, **given: Any) -> dict[str, float]:
    """Train one model and return what it took and what it can do."""
    file = out / f"{name}.pth"
    spent = file.with_suffix(".spent")
    if not file.exists():
        began = time.process_time()
        with patch.object(loop, "_Training", WarmTraining if warm else loop._Training):
            train(TrainConfig(out=out, name=name, progress=False, **given))
        spent.write_text(str(time.process_time() - began))
    record = json.loads(file.with_suffix(".json").read_text())
    lines = file.with_suffix(".curve.csv").read_text().splitlines()
    rows = [dict(zip(lines[0].split(","), line.split(","), strict=True)) for line in lines[1:]]
    solved = [float(row["nfe"]) for row in rows if float(row["unrolled"]) == 0.0][1:]
    found = record["measured"]
    return {
        "nfe": float(np.mean(solved)),
        "last": solved[-1],
        "seconds": float(spent.read_text()),
        "clean": found["clean_accuracy"],
        "noisy": found["noisy_accuracy"],
    }


@click.command(help=__doc__.split("\n", 1)[0])
@click.option("--data", default="digits", show_default=True)
@click.option("--count", default=10**6, help="Training images at most.")
@click.option("--epochs", default=12, show_default=True)
@click.option("--max-nfe", default=10, show_default=True)
@click.option("--only", type=click.Choice(list(SETTINGS)), help="Only this setting.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True)
def main(data: str, count: int, epochs: int, max_nfe: int, only: str | None, out: Path) -> None:
    """Train cold and warm, and print a table."""
    out.mkdir(parents=True, exist_ok=True)
    given = {
        "data": few(data, "train", count, out),
        "test_data": few(data, "test", count, out),
        "epochs": epochs,
        "lr": 0.01,
        "weight_decay": 0.05,
        "jacobian_weight": 0.1,
        "max_nfe": max_nfe,
        "backward_nfe": 8,
        "pretrain": 0.25,
    }
    lines = ["| each epoch brings | start | evaluations | last epoch | seconds | clean | noisy |"]
    lines.append("|---" * 7 + "|")
    for setting in SETTINGS if only is None else [only]:
        for warm in (False, True):
            name = f"{setting.replace(' ', '-')}-{'warm' if warm else 'cold'}"
            found = measure(out, name, warm, **(given | SETTINGS[setting]))
            cells = [setting, "last epoch's" if warm else "cold", f"{found['nfe']:.2f}"]
            cells += [f"{found['last']:.2f}", f"{found['seconds']:.1f}"]
            cells += [f"{found['clean']:.1%}", f"{found['noisy']:.1%}"]
            lines.append(f"| {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    with torch.no_grad():
        model = load_model(out / f"{name}.pth")
        injection = model.inject(torch.zeros(1, *model.input_shape))
        size = model.initial_state(injection).shape[1]
    images = len(load_dataset(given["data"], "train"))
    table = "\n".join(lines) + f"\n\nkept: {images} states of {size}, "
    table += f"{2e-6 * images * size:.1f} MB in half precision\n"
    (out / "warm_epochs.md").write_text(table)
    print(table)


if __name__ == "__main__":
    keep_freed_memory()
    torch.set_num_threads(1)
    main()
