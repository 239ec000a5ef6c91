"""The trade-off between accuracy and proven radii, by objective: trained, certified, drawn.

    python benchmarks/tradeoff.py --data mnist:DIR --model-config FILE --radius 1.5 --epochs 6 \
        --out runs/tradeoff

For each objective, kappa and seed a model is trained, and certified by the method that proves its
norm: ``lipschitz`` with multiplier bounds in l2, ``interval`` in l-infinity. OUT gets the models, a
line each in points.csv, the table points.md (means over the seeds) and the picture points.png.
Given again, the command goes on with what is missing; --train-only leaves the certifying to a later
call. Equal time is either the clock's (--minutes) or, on a machine that others use, epochs that
take the same processor time (--epochs 6, or --epochs adaptive=4 --epochs fixed-radius=6);
points.csv has the processor seconds of each training.
"""

from __future__ import annotations

import csv
import platform
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from torch import Tensor

from deqcert.api import parse_images
from deqcert.data import load_dataset
from deqcert.memory import keep_freed_memory
from deqcert.models import TrainableModel, load_model
from deqcert.proofs import margins_of
from deqcert.training import TrainConfig, train
from deqcert.training.proof import proven_norm

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
ROWS = 500
NAMES = {"l2": "l2", "linf": "l-infinity"}

Key = tuple[str, str, str]
"""Objective, kappa and seed."""

Points = dict[Key, dict[str, str]]
"""What is known of each training: its processor seconds, and once it is certified the rest."""


@dataclass(frozen=True)
class Sweep:
    """What all trainings of a call share.

    Attributes:
        out: Folder.
        data: Images, as deqcert names them.
        images: Test images that are certified.
        at: Radii of certified accuracy.
        radius: Largest radius that is trained for.
        epochs: By objective; "" for the others.
        settings: Further parameters of each training.
    """

    out: Path
    data: str
    images: str
    at: Sequence[float]
    radius: float
    epochs: dict[str, int]
    settings: dict[str, object]

    def config(self, key: Key) -> TrainConfig:
        """The training of a point: without noise, and without what only noise needs."""
        objective, kappa, seed = key
        return TrainConfig(
            out=self.out,
            name="-".join(key),
            data=self.data,
            objective=objective,
            objective_options={"kappa": float(kappa), "radius": self.radius},
            seed=int(seed),
            epochs=self.epochs.get(objective, self.epochs.get("", 1)),
            sigma=0.0,
            pretrain=0.0,
            jacobian_weight=0.0,
            clip=10.0,
            tol=1e-2,
            backward_nfe=8,
            augment="none",
            test_draws=1,
            progress=False,
            **self.settings,  # type: ignore[arg-type]
        )

    def certified(self, model: TrainableModel) -> dict[str, str]:
        """Accuracy, ACR and certified accuracies of a model."""
        test = load_dataset(self.data, "test")
        indices = parse_images(self.images, len(test))
        x, labels = torch.from_numpy(test.batch(indices)), torch.from_numpy(test.labels())[indices]
        classes, radii = proven(model, x, self.radius)
        right = classes == labels
        radii = radii * right
        known = {"norm": str(proven_norm(model)), "images": str(len(x))}
        for name, value in (("accuracy", right), ("acr", radii)):
            known[name] = f"{value.double().mean():.4f}"
        return known | {f"{r:g}": f"{(radii >= r).double().mean():.4f}" for r in self.at}


def proven(model: TrainableModel, x: Tensor, limit: float) -> tuple[Tensor, Tensor]:
    """Class and proven radius of images, shape (B,) each; in l-infinity up to the limit."""
    if proven_norm(model) == "linf":
        from deqcert.proofs.intervals import intervals_of

        bounds = intervals_of(model, tol=1e-7, max_nfe=1000)
        found = [r for part in x.split(ROWS) for r in bounds.reach(part, limit, resolution=1e-3)]
        return torch.tensor([r.best for r in found]), torch.tensor([r.radius for r in found])
    margins = margins_of(model, "multiplier")
    leads = [lead for part in x.split(ROWS) for lead in margins.each(part, tol=1e-10, depth=1000)]
    radii = [max(0.0, margins.radius(lead)[0]) for lead in leads]
    return torch.tensor([lead.best for lead in leads]), torch.tensor(radii)


def read(path: Path) -> Points:
    """What an earlier call has found."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {(row["objective"], row["kappa"], row["seed"]): row for row in rows}


def write(path: Path, points: Points) -> None:
    """Write all points, those that are not certified with empty cells."""
    columns = dict.fromkeys(name for row in points.values() for name in row)
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        table.writeheader()
        table.writerows(points.values())


def groups(rows: Sequence[dict[str, str]]) -> Iterator[tuple[str, str, list[dict[str, str]]]]:
    """Points of the same objective and kappa, in order."""
    keys = sorted({(row["objective"], float(row["kappa"])) for row in rows})
    for objective, kappa in keys:
        same = [r for r in rows if (r["objective"], float(r["kappa"])) == (objective, kappa)]
        yield objective, f"{kappa:g}", same


def spread(values: Sequence[float], digits: str) -> str:
    """Mean, and the least and largest where there are several."""
    mean = format(statistics.mean(values), digits)
    if len(values) == 1:
        return mean
    return f"{mean} ({format(min(values), digits)} to {format(max(values), digits)})"


def table(rows: Sequence[dict[str, str]], at: Sequence[float]) -> str:
    """Markdown, one line per objective and kappa."""
    head = ["objective", "kappa", "seeds", "seconds", "accuracy", "ACR", *(f"at {r:g}" for r in at)]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for objective, kappa, group in groups(rows):
        cells = [objective, kappa, str(len(group))]
        cells.append(spread([float(p["seconds"]) for p in group], ".0f"))
        cells.append(spread([float(p["accuracy"]) for p in group], ".1%"))
        cells.append(spread([float(p["acr"]) for p in group], ".3f"))
        cells += [f"{statistics.mean(float(p[f'{r:g}']) for p in group):.1%}" for r in at]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw(path: Path, rows: Sequence[dict[str, str]], at: Sequence[float]) -> None:
    """Accuracy against ACR, and against certified accuracy at each radius, one panel each."""
    from matplotlib.figure import Figure

    panels = [("acr", f"mean proven {NAMES[rows[0]['norm']]} radius (ACR)", 1.0)]
    panels += [(f"{r:g}", f"certified at {r:g} (%)", 100.0) for r in at]
    figure = Figure(figsize=(3.4 * len(panels), 3.6), dpi=100, layout="constrained")
    kinds = dict(zip(sorted({row["objective"] for row in rows}), COLOURS, strict=False))
    for axes, (column, label, factor) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
    ):
        for objective, colour in kinds.items():
            own = [row for row in rows if row["objective"] == objective]
            x, y = ([100.0 * float(r["accuracy"]) for r in own], [float(r[column]) for r in own])
            axes.scatter(x, [factor * value for value in y], s=14, color=colour, alpha=0.5)
            means = [
                [statistics.mean(float(r[name]) for r in group) for name in ("accuracy", column)]
                for _, _, group in groups(own)
            ]
            x, y = [100.0 * mean[0] for mean in means], [factor * mean[1] for mean in means]
            axes.plot(x, y, color=colour, marker="o", markersize=4, label=objective)
        axes.set_xlabel("accuracy (%)", fontsize=11)
        axes.set_ylabel(label, fontsize=11)
        axes.grid(True, color="#dddddd", linewidth=0.6)
    figure.axes[0].legend(fontsize=10, frameon=False)
    figure.savefig(path)


@click.command(help=__doc__.split("\n", 1)[0])
@click.option("--data", required=True)
@click.option("--model-config", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--objective", "objectives", multiple=True, default=("adaptive", "fixed-radius"))
@click.option("--kappa", "kappas", multiple=True, type=float, default=(0.0, 0.5, 0.9))
@click.option("--seed", "seeds", multiple=True, type=int, default=(0,))
@click.option("--radius", type=float, required=True, help="Largest radius that is trained for.")
@click.option("--at", multiple=True, type=float, help="Radii of certified accuracy.")
@click.option("--images", default=":", show_default=True, help="Test images that are certified.")
@click.option("--epochs", multiple=True, metavar="N|OBJECTIVE=N")
@click.option("--minutes", type=float, default=0.0, help="Of every training, instead of epochs.")
@click.option("--batch", type=int, default=256, show_default=True)
@click.option("--lr", type=float, default=3e-3, show_default=True)
@click.option("--train-only", is_flag=True, help="Certify in a later call.")
def main(
    out: Path,
    objectives: tuple[str, ...],
    kappas: tuple[float, ...],
    seeds: tuple[int, ...],
    epochs: tuple[str, ...],
    train_only: bool,
    **given: object,
) -> None:
    if not epochs and not given["minutes"]:
        raise click.UsageError("give --epochs or --minutes.")
    shared = {name: given.pop(name) for name in ("data", "images", "at", "radius")}
    shared["at"] = shared["at"] or (shared["radius"] / 2, shared["radius"])  # type: ignore[operator]
    numbers = {name: int(n) for name, _, n in (text.rpartition("=") for text in epochs)}
    sweep = Sweep(out=out, epochs=numbers, settings=given, **shared)  # type: ignore[arg-type]
    out.mkdir(parents=True, exist_ok=True)
    points = read(out / "points.csv")
    keys = [(o, f"{k:g}", str(s)) for s in seeds for k in kappas for o in objectives]
    for key in keys:
        row = points.setdefault(key, dict(zip(("objective", "kappa", "seed"), key, strict=True)))
        path = out / f"{'-'.join(key)}.pth"
        if not path.exists():
            began = time.process_time()
            train(sweep.config(key))
            row["seconds"] = f"{time.process_time() - began:.0f}"
        if not train_only and not row.get("accuracy"):
            model = load_model(path)
            assert isinstance(model, TrainableModel)
            row |= sweep.certified(model)
        write(out / "points.csv", points)
        print(row, flush=True)
    if all(points[key].get("accuracy") for key in keys):
        rows = [points[key] for key in keys]
        where = f"{len(rows)} models, {rows[0]['images']} test images of {sweep.data.split(':')[0]}"
        (out / "points.md").write_text(
            f"{platform.machine()}, one thread; {where}.\n\n{table(rows, sweep.at)}"
        )
        draw(out / "points.png", rows, sweep.at)


if __name__ == "__main__":
    keep_freed_memory()
    torch.set_num_threads(1)
    main()
