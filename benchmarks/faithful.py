"""What does it cost to certify the converged model, and how near does a cheaper vote come to it?

    python benchmarks/faithful.py --model CKPT --start FILE --data cifar10:DIR --sigma 0.25

The same noisy copies of test images are classified in every mode, by the product's own engine:

- cold: cold solves to a residual of 1e-3, the model itself, which all others are held against;
- tolerance: the same tolerance from the learned start;
- margin: the learned start, each row ending when its class stands out (a readout every step);
- faithful: the rule that `deqcert train-start` kept in the start's file;
- one cell: one evaluation from the learned start.

Every mode is then certified from its own votes as `independent` does. Counted are the start, what
decides when a row ends, and the noisy copies that choose the class. Votes are kept in --work, so
that a run that was stopped goes on. Written: results/faithful_NAME.json, and results/faithful.md
with its picture from all such files (--only-report writes these alone).
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray

from deqcert.certifiers.bounds import certified_radius, lower_confidence_bound
from deqcert.compose import early_stop
from deqcert.data import load_dataset
from deqcert.memory import keep_freed_memory
from deqcert.models import in_form, load_model
from deqcert.report.picture import COLOURS, new_figure, plain, save_figure
from deqcert.smoothing import DecidedStop, Input, Predictor, SmoothingEngine, Stage
from deqcert.solvers import StopRule, get_solver
from deqcert.starts import Learned
from deqcert.starts.file import load_start

RESULTS = Path(__file__).resolve().parent / "results"
ALPHA, N0 = 0.001, 100
TOLERANCE = StopRule(tol=1e-3, max_nfe=30)
NEAR = 0.02
"""Relative difference of a radius from the cold one's that still counts as the same."""


@dataclasses.dataclass
class Kept:
    """Votes of one mode, an entry per image that is done.

    Attributes:
        images: Indices of the images.
        select: Class per copy that chooses the class, shape (images, n0).
        estimate: Class per copy that bounds its probability, shape (images, n).
        nfe: Evaluations spent on both.
        seconds: Processor time spent on both.
    """

    images: list[int] = dataclasses.field(default_factory=list)
    select: list[NDArray[np.int16]] = dataclasses.field(default_factory=list)
    estimate: list[NDArray[np.int16]] = dataclasses.field(default_factory=list)
    nfe: list[float] = dataclasses.field(default_factory=list)
    seconds: list[float] = dataclasses.field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> Kept:
        """Read what is there already."""
        if not path.exists():
            return cls()
        with np.load(path) as found:
            return cls(**{name: list(found[name]) for name in found})

    def write(self, path: Path) -> None:
        """Write all of it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(
            path, **{f.name: np.array(getattr(self, f.name)) for f in dataclasses.fields(self)}
        )


def modes(start: str, model: str, margin: float) -> dict[str, Predictor]:
    """Every way to vote, by its name."""
    file, solver = load_start(start, model), get_solver("anderson")
    learned = Learned(file.net, file.cost)

    def fixed(depth: int) -> StopRule:
        return StopRule(tol=0.0, max_nfe=depth)

    margins = DecidedStop(margin, file.readout)
    return {
        "cold": Predictor(solver, TOLERANCE),
        "tolerance": Predictor(solver, TOLERANCE, learned),
        "margin": Predictor(solver, fixed(10), learned, early=margins),
        "faithful": Predictor(solver, fixed(file.steps), learned, early=early_stop(file)),
        "one cell": Predictor(solver, fixed(1), learned),
    }


def spread(count: int, size: int) -> list[int]:
    """Image indices, evenly spaced, in an order in which any first part is spread, too."""
    chosen = np.linspace(0, size - 1, count).astype(int)
    return [int(chosen[i]) for i in sorted(range(count), key=lambda i: f"{i:016b}"[::-1])]


def cast(engine: SmoothingEngine, predictor: Predictor, x: Input, n: int, at: Path) -> None:
    """Cast the votes of an image, unless they are there."""
    kept = Kept.read(at)
    if x.index in kept.images:
        return
    began = time.process_time()
    select = engine.votes(predictor, x, Stage.SELECT, N0)
    estimate = engine.votes(predictor, x, Stage.ESTIMATE, n)
    kept.seconds.append(time.process_time() - began)
    kept.images.append(x.index)
    kept.select.append(select.predictions)
    kept.estimate.append(estimate.predictions)
    kept.nfe.append(select.nfe + estimate.nfe)
    kept.write(at)
    print(f"{at.stem}: image {x.index}, {kept.nfe[-1] / (n + N0):.2f} a vote", flush=True)


def certify(select: NDArray[Any], estimate: NDArray[Any], sigma: float) -> tuple[int, float]:
    """Certify an image from its votes as `independent` does: a class or -1, and a radius."""
    guess = int(np.bincount(select[select >= 0], minlength=1).argmax())
    p_lower = lower_confidence_bound(int((estimate == guess).sum()), len(estimate), ALPHA)
    return (guess if p_lower > 0.5 else -1), certified_radius(p_lower, sigma)


def judge(folder: Path, names: Sequence[str], labels: dict[int, int], sigma: float) -> list[Any]:
    """Hold every mode against the cold one, on the images that are done in all of them."""
    kept = {name: Kept.read(folder / f"{name}.npz") for name in names}
    images = sorted(set.intersection(*(set(map(int, k.images)) for k in kept.values())))
    rows = []
    truth: list[tuple[int, float]] = []
    for name, votes in kept.items():
        at = [[int(i) for i in votes.images].index(image) for image in images]
        found = [certify(votes.select[row], votes.estimate[row], sigma) for row in at]
        truth = truth or found
        cold = kept["cold"]
        base = [[int(i) for i in cold.images].index(image) for image in images]
        agree, bias = [], []
        for row, other, (guess, _) in zip(at, base, truth, strict=True):
            mine, theirs = votes.estimate[row], cold.estimate[other]
            known = theirs >= 0
            agree.append(float((mine == theirs)[known].mean()))
            top = guess if guess >= 0 else int(np.bincount(theirs[known]).argmax())
            bias.append(float((mine == top).mean() - (theirs == top).mean()))
        size = N0 + len(votes.estimate[0])
        away = [
            abs(r - t) / t if t else float(r > 0)
            for (_, r), (_, t) in zip(found, truth, strict=True)
        ]
        correct = [c == labels[i] for (c, _), i in zip(found, images, strict=True)]
        steps, radius = [0.0, 0.5, 1.0, 1.5, 2.0], [r for _, r in found]
        rows.append(
            {
                "mode": name,
                "evaluations": float(np.mean([votes.nfe[row] for row in at]) / size),
                "milliseconds": 1000 * float(np.mean([votes.seconds[row] for row in at]) / size),
                "agreement": float(np.mean(agree)),
                "least agreement": float(np.min(agree)),
                "largest bias": float(np.abs(bias).max()),
                "near": float(np.mean([d <= NEAR for d in away])),
                "away": [round(d, 4) for d in sorted(away)],
                "classes changed": sum(c != t for (c, _), (t, _) in zip(found, truth, strict=True)),
                "radii": radius,
                "certified": [
                    float(
                        np.mean(
                            [c and r >= s * sigma for c, r in zip(correct, radius, strict=True)]
                        )
                    )
                    for s in steps
                ],
                "ACR": float(np.mean([c * r for c, r in zip(correct, radius, strict=True)])),
            }
        )
    return [images, rows]


@click.command()
@click.option("--model", help="Checkpoint.")
@click.option("--start", help="What `deqcert train-start` wrote for it.")
@click.option("--data", help="As `deqcert certify --data` takes it.")
@click.option("--sigma", default=0.25, show_default=True)
@click.option("--images", default=60, show_default=True)
@click.option("--n", default=1000, show_default=True)
@click.option("--margin", default=1.86, show_default=True, help="Of mode margin.")
@click.option("--form", default="compiled", show_default=True)
@click.option("--name", default="golden", show_default=True)
@click.option("--minutes", default=0.0, help="Stop casting votes after so long; 0 never.")
@click.option("--work", type=click.Path(path_type=Path), default=Path("runs/faithful"))
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS)
@click.option("--only-report", is_flag=True, help="Write the report from what is there.")
def main(
    model: str | None,
    start: str | None,
    data: str | None,
    sigma: float,
    images: int,
    n: int,
    margin: float,
    form: str,
    name: str,
    minutes: float,
    work: Path,
    out: Path,
    only_report: bool,
) -> None:
    """Cast the votes, judge them, and write the report of all models there are."""
    out.mkdir(parents=True, exist_ok=True)
    if not only_report:
        if model is None or start is None or data is None:
            raise click.UsageError("give --model, --start and --data, or --only-report.")
        torch.set_num_threads(1)
        keep_freed_memory()
        began, dataset = time.perf_counter(), load_dataset(data, "test")
        predictors, batch = modes(start, model, margin), 100
        formed = in_form(load_model(model), form, rows=batch)
        engine = SmoothingEngine(formed, sigma=sigma, batch=batch)
        chosen = spread(images, len(dataset))
        for image in chosen:
            if minutes and time.perf_counter() - began > 60 * minutes:
                break
            for mode, predictor in predictors.items():
                x = Input(dataset.image(image), image)
                cast(engine, predictor, x, n, work / name / f"{mode}.npz")
        labels = {image: dataset.label(image) for image in chosen}
        done, rows = judge(work / name, list(predictors), labels, sigma)
        file = load_start(start, model)
        content = {
            "name": name,
            "sigma": sigma,
            "n0": N0,
            "n": n,
            "alpha": ALPHA,
            "images": done,
            "form": form,
            "start": {"cost": file.cost, "readout": file.readout, "stated": file.disagreement},
            "rules": {mode: predictor.describe() for mode, predictor in predictors.items()},
            "rows": rows,
        }
        (out / f"faithful_{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    report(out)


def report(out: Path) -> None:
    """Print the tables of all models, and draw cost against faithfulness."""
    found = [json.loads(path.read_text()) for path in sorted(out.glob("faithful_*.json"))]
    for content in found:
        print("\n".join(table(content)))
    figure, axes = new_figure()
    for content, colour, marker in zip(found, COLOURS, "os^D", strict=False):
        rows = [row for row in content["rows"] if row["mode"] != "cold"]
        rows.sort(key=lambda row: row["evaluations"])
        x, y = [row["evaluations"] for row in rows], [100 * row["near"] for row in rows]
        axes.plot(x, y, marker=marker, color=colour, linewidth=1.2, label=plain(content["name"]))
        for row in rows:
            axes.annotate(
                row["mode"],
                (row["evaluations"], 100 * row["near"]),
                textcoords="offset points",
                xytext=(5, -11),
                fontsize=8,
                color=colour,
            )
    axes.axhline(95, color="0.6", linewidth=0.8, linestyle=":")
    axes.set_xlabel("cell evaluations a vote, everything counted")
    axes.set_ylabel("images whose radius is within 2% of the converged model's (%)")
    axes.set_ylim(0, 104)
    axes.set_title("Cost against faithfulness", loc="left", fontsize=11, fontweight="bold")
    axes.legend(loc="lower right", frameon=False, fontsize=8)
    save_figure(figure, out / "faithful.png")


def table(content: dict[str, Any]) -> list[str]:
    """Format one model's modes as Markdown."""
    lines = [
        f"## {content['name']}",
        "",
        f"{len(content['images'])} images, n = {content['n']}, n0 = {content['n0']}, alpha "
        f"{content['alpha']:g}, sigma {content['sigma']:g}, form {content['form']}; the start "
        f"costs {content['start']['cost']:.2f} evaluations, a readout "
        f"{content['start']['readout']:.2f}. Faithful: {content['rules']['faithful']}.",
        "",
        "| mode | evaluations | ms | agreement % | least of an image | largest bias of the class's "
        "share | radius within 2% | classes changed | certified at 0, 0.5, 1, 1.5 sigma | ACR |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- | ---: |",
    ]
    for row in content["rows"]:
        certified = ", ".join(f"{100 * share:.0f}" for share in row["certified"][:4])
        lines.append(
            f"| {row['mode']} | {row['evaluations']:.2f} | {row['milliseconds']:.2f} "
            f"| {100 * row['agreement']:.2f} | {100 * row['least agreement']:.1f} "
            f"| {row['largest bias']:.3f} | {100 * row['near']:.0f}% | {row['classes changed']} "
            f"| {certified} | {row['ACR']:.3f} |"
        )
    return [*lines, ""]


if __name__ == "__main__":
    main()
