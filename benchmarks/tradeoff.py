"""The trade-off between accuracy and proven radii, by objective: trained, certified, drawn.

    python benchmarks/tradeoff.py --data mnist:DIR --model-config FILE --radius 1.5 --epochs 6 \
        --out runs/tradeoff

For each objective, kappa and seed a model is trained and certified by the method that proves its
norm (multiplier bounds in l2, intervals in l-infinity). OUT gets the models, a line each in
points.csv, the table points.md (means over the seeds) and the picture points.png. Given again, the
command goes on with what is missing. Equal time is either the clock's (--minutes) or, on a machine
that others use, epochs that take the same processor time (--epochs 6, or --epochs adaptive=4
--epochs fixed-radius=6); points.csv has the processor seconds of each training.
"""

from __future__ import annotations

import csv
import platform
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import torch
from torch import Tensor

from deqcert.api import parse_images
from deqcert.data import load_dataset
from deqcert.memory import keep_freed_memory
from deqcert.models import ImplicitModel, load_model
from deqcert.proofs import margins_of
from deqcert.training import TrainConfig, train

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
FIXED = ("objective", "kappa", "seed", "seconds", "accuracy", "acr")
ROWS = 500

Point = dict[str, str]


def proven(model: ImplicitModel, x: Tensor) -> tuple[Tensor, Tensor]:
    """Class and proven radius of images, shape (B,) each."""
    margins = margins_of(model, "multiplier")
    leads = [lead for part in x.split(ROWS) for lead in margins.each(part, tol=1e-10, depth=1000)]
    radii = [max(0.0, margins.radius(lead)[0]) for lead in leads]
    return torch.tensor([lead.best for lead in leads]), torch.tensor(radii)


def point(config: TrainConfig, images: str, at: Sequence[float]) -> Point:
    """Train and certify one model."""
    began = time.process_time()
    path = train(config)
    spent = time.process_time() - began
    test = load_dataset(config.data, "test")
    indices = parse_images(images, len(test))
    labels = torch.from_numpy(test.labels())[indices]
    classes, radii = proven(load_model(path), torch.from_numpy(test.batch(indices)))
    right = classes == labels
    radii = radii * right
    found = {
        "objective": config.objective,
        "kappa": f"{config.objective_options['kappa']:g}",
        "seed": str(config.seed),
        "seconds": f"{spent:.0f}",
        "accuracy": f"{right.double().mean():.4f}",
        "acr": f"{radii.double().mean():.4f}",
    }
    return found | {f"{r:g}": f"{(radii >= r).double().mean():.4f}" for r in at}


def groups(points: Sequence[Point]) -> Iterator[tuple[str, str, list[Point]]]:
    """Points of the same objective and kappa."""
    for key in dict.fromkeys((p["objective"], p["kappa"]) for p in points):
        yield *key, [p for p in points if (p["objective"], p["kappa"]) == key]


def spread(values: Sequence[float], digits: str) -> str:
    """Mean, and the least and largest where there are several."""
    mean = format(statistics.mean(values), digits)
    if len(values) == 1:
        return mean
    return f"{mean} ({format(min(values), digits)} to {format(max(values), digits)})"


def table(points: Sequence[Point], at: Sequence[float]) -> str:
    """Markdown, one line per objective and kappa."""
    head = ["objective", "kappa", "seeds", "seconds", "accuracy", "ACR", *(f"at {r:g}" for r in at)]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for objective, kappa, group in groups(points):
        cells = [objective, kappa, str(len(group))]
        cells.append(spread([float(p["seconds"]) for p in group], ".0f"))
        cells.append(spread([float(p["accuracy"]) for p in group], ".1%"))
        cells.append(spread([float(p["acr"]) for p in group], ".3f"))
        cells += [f"{statistics.mean(float(p[f'{r:g}']) for p in group):.1%}" for r in at]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw(path: Path, points: Sequence[Point], at: Sequence[float], norm: str) -> None:
    """Accuracy against ACR, and against certified accuracy at each radius, one panel each."""
    from matplotlib.figure import Figure

    panels = [("acr", f"mean proven {norm} radius (ACR)", 1.0)]
    panels += [(f"{r:g}", f"certified at {r:g} (%)", 100.0) for r in at]
    figure = Figure(figsize=(3.4 * len(panels), 3.6), dpi=100, layout="constrained")
    for axes, (column, label, factor) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
    ):
        for colour, objective in zip(COLOURS, dict.fromkeys(p["objective"] for p in points)):
            own = [p for p in points if p["objective"] == objective]
            axes.scatter(
                [100.0 * float(p["accuracy"]) for p in own],
                [factor * float(p[column]) for p in own],
                s=14, color=colour, alpha=0.6,
            )  # fmt: skip
            means = [
                tuple(statistics.mean(float(p[c]) for p in group) for c in ("accuracy", column))
                for _, _, group in groups(own)
            ]
            axes.plot(
                [100.0 * a for a, _ in means], [factor * r for _, r in means],
                color=colour, marker="o", markersize=4, label=objective,
            )  # fmt: skip
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
@click.option("--kappa", "kappas", multiple=True, type=float, default=(0.1, 0.5, 0.9))
@click.option("--seed", "seeds", multiple=True, type=int, default=(0,))
@click.option("--radius", type=float, required=True, help="Largest radius that is trained for.")
@click.option("--at", multiple=True, type=float, help="Radii of certified accuracy.")
@click.option("--images", default=":", show_default=True, help="Test images that are certified.")
@click.option("--epochs", multiple=True, metavar="N|OBJECTIVE=N")
@click.option("--minutes", type=float, default=0.0, help="Of every training, instead of epochs.")
@click.option("--batch", type=int, default=256, show_default=True)
@click.option("--lr", type=float, default=3e-3, show_default=True)
def main(
    data: str, model_config: Path, out: Path, objectives: tuple[str, ...], kappas: tuple[float, ...],
    seeds: tuple[int, ...], radius: float, at: tuple[float, ...], images: str,
    epochs: tuple[str, ...], minutes: float, batch: int, lr: float,
) -> None:  # fmt: skip
    if not epochs and not minutes:
        raise click.UsageError("give --epochs or --minutes.")
    each = dict(("*" + "=" + text).split("=")[-2:] for text in epochs)
    at = at or (radius / 2.0, radius)
    out.mkdir(parents=True, exist_ok=True)
    lines, points = out / "points.csv", []
    if lines.exists():
        with lines.open(newline="") as file:
            points = list(csv.DictReader(file))
    done = {(p["objective"], float(p["kappa"]), int(p["seed"])) for p in points}
    for seed in seeds:  # a whole curve first
        for kappa in kappas:
            for objective in objectives:
                if (objective, kappa, seed) in done:
                    continue
                config = TrainConfig(
                    out=out,
                    name=f"{objective}-{kappa:g}-{seed}",
                    data=data,
                    model_config=model_config,
                    objective=objective,
                    objective_options={"kappa": kappa, "radius": radius},
                    sigma=0.0,
                    epochs=int(each.get(objective, each.get("*", 1))),
                    minutes=minutes,
                    batch=batch,
                    lr=lr,
                    clip=10.0,
                    pretrain=0.0,
                    tol=1e-2,
                    backward_nfe=8,
                    jacobian_weight=0.0,
                    augment="none",
                    test_draws=1,
                    seed=seed,
                    progress=False,
                )
                points.append(point(config, images, at))
                with lines.open("w", newline="") as file:
                    writer = csv.DictWriter(file, points[0], lineterminator="\n")
                    writer.writeheader()
                    writer.writerows(points)
                print(points[-1], flush=True)
    said = f"{platform.machine()}, one thread; test images {images} of {data.partition(':')[0]}\n\n"
    (out / "points.md").write_text(said + table(points, at))
    draw(out / "points.png", points, at, "l2")


if __name__ == "__main__":
    keep_freed_memory()
    torch.set_num_threads(1)
    main()
