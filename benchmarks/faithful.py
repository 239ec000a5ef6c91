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
from deqcert.smoothing import CheckedStop, DecidedStop, Input, Predictor, SmoothingEngine, Stage
from deqcert.solvers import StopRule, bind, get_solver
from deqcert.solvers.loop import SolveLoop
from deqcert.starts import Learned
from deqcert.starts.file import load_start

RESULTS = Path(__file__).resolve().parent / "results"
ALPHA, N0 = 0.001, 50
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


def modes(start: str, model: str, margin: float, also: Sequence[str]) -> dict[str, Predictor]:
    """Every way to vote, by its name; ``also`` has further checks, NAME=DEPTH:GAP,...,STEPS."""
    file, solver = load_start(start, model), get_solver("anderson")
    learned = Learned(file.net, file.cost)

    def fixed(depth: int) -> StopRule:
        return StopRule(tol=0.0, max_nfe=depth)

    margins = DecidedStop(margin, file.readout)
    more = {}
    for text in also:
        name, _, rule = text.partition("=")
        *checks, steps = rule.split(",")
        depths, gaps = zip(*(check.split(":") for check in checks), strict=True)
        early = CheckedStop(tuple(map(int, depths)), tuple(map(float, gaps)), file.readout)
        more[name] = Predictor(solver, fixed(int(steps)), learned, early=early)
    return {
        "cold": Predictor(solver, TOLERANCE),
        "tolerance": Predictor(solver, TOLERANCE, learned),
        "margin": Predictor(solver, fixed(10), learned, early=margins),
        "faithful": Predictor(solver, fixed(file.steps), learned, early=early_stop(file)),
        **more,
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


def cast_together(
    engine: SmoothingEngine, predictors: dict[str, Predictor], x: Input, n: int, work: Path
) -> None:
    """Cast the votes of all rules of one start from one trajectory of each row, unless there.

    A row's states do not depend on when it ends, so that these are the votes of :func:`cast`, in a
    third of the time. What they take is not measured.
    """
    left = {
        mode: predictor
        for mode, predictor in predictors.items()
        if x.index not in Kept.read(work / f"{mode}.npz").images
    }
    if not left:
        return
    any_of = next(iter(left.values()))
    most = max(predictor.stop.max_nfe for predictor in left.values())
    ended: dict[str, list[tuple[NDArray[Any], NDArray[Any]]]] = {mode: [] for mode in left}
    for stage, count in ((Stage.SELECT, N0), (Stage.ESTIMATE, n)):
        logits = []
        with torch.no_grad():
            fixed = dataclasses.replace(any_of, stop=StopRule(tol=0.0, max_nfe=1), early=None)
            for batch in engine.batches(fixed, x, stage, np.arange(count)):
                start = any_of.start.initial(engine.model, batch.injection)
                loop = SolveLoop(any_of.solver, start, StopRule(tol=0.0, max_nfe=most + 1))
                read = [engine.model.readout(loop.z)]
                for _ in range(most):
                    loop.advance(bind(engine.model.cell, batch.injection))
                    read.append(engine.model.readout(loop.z))
                logits.append(torch.stack(read, dim=1).numpy())
        trace = np.concatenate(logits)
        for mode, predictor in left.items():
            depth = ends(trace, predictor)
            ended[mode].append((trace[np.arange(count), depth].argmax(axis=1), depth))
    for mode, predictor in left.items():
        kept = Kept.read(work / f"{mode}.npz")
        (select, _), (estimate, _) = ended[mode]
        nfe = np.concatenate([depth for _, depth in ended[mode]])
        kept.images.append(x.index)
        kept.select.append(select.astype(np.int16))
        kept.estimate.append(estimate.astype(np.int16))
        kept.nfe.append(predictor.spent(int(nfe.sum()), len(nfe), predictor.readouts(nfe)))
        kept.seconds.append(float("nan"))
        kept.write(work / f"{mode}.npz")
        print(f"{mode}: image {x.index}, {kept.nfe[-1] / len(nfe):.2f} a vote", flush=True)


def ends(logits: NDArray[Any], predictor: Predictor) -> NDArray[np.int64]:
    """Say after how many evaluations each row ends, given its logits at every depth."""
    early, most = predictor.early, predictor.stop.max_nfe
    leading = np.sort(logits, axis=2)
    done = np.zeros(logits.shape[:2], dtype=bool)
    if isinstance(early, CheckedStop):
        for depth, gap in zip(early.depths, early.gaps, strict=True):
            done[:, depth] = leading[:, depth, -1] - leading[:, depth, -2] > gap
    elif isinstance(early, DecidedStop):
        drift = np.abs(np.diff(logits, axis=1)).max(axis=2)
        done[:, 1:] = (leading[:, 1:, -1] - leading[:, 1:, -2]) > early.margin * drift
    done[:, most:] = True
    return done.argmax(axis=1)


def certify(select: NDArray[Any], estimate: NDArray[Any], sigma: float) -> tuple[int, float]:
    """Certify an image from its votes as `independent` does: a class or -1, and a radius."""
    guess = int(np.bincount(select[select >= 0], minlength=1).argmax())
    p_lower = lower_confidence_bound(int((estimate == guess).sum()), len(estimate), ALPHA)
    return (guess if p_lower > 0.5 else -1), certified_radius(p_lower, sigma)


def judge(folder: Path, names: Sequence[str], labels: dict[int, int], sigma: float) -> list[Any]:
    """Hold every mode against the cold one, on the images that are done in both."""
    kept = {name: Kept.read(folder / f"{name}.npz") for name in names}
    rows = [
        compare(name, votes, kept["cold"], labels, sigma)
        for name, votes in kept.items()
        if votes.images
    ]
    return [row for row in rows if row["images"]]


def compare(
    name: str, votes: Kept, cold: Kept, labels: dict[int, int], sigma: float
) -> dict[str, Any]:
    """Hold one mode against the cold one."""
    mine, theirs = ({int(image): i for i, image in enumerate(k.images)} for k in (votes, cold))
    images = sorted(mine.keys() & theirs.keys() & labels.keys())
    agree, bias, away, changed, correct, radius = [], [], [], 0, [], []
    for image in images:
        row, other = mine[image], theirs[image]
        ours, truth = votes.estimate[row], cold.estimate[other]
        known = truth >= 0
        agree.append(float((ours == truth)[known].mean()))
        guess, r = certify(votes.select[row], ours, sigma)
        wanted, t = certify(cold.select[other], truth, sigma)
        top = wanted if wanted >= 0 else int(np.bincount(truth[known]).argmax())
        bias.append(float((ours == top).mean() - (truth == top).mean()))
        away.append(abs(r - t) / t if t else float(r > 0))
        changed += guess != wanted
        correct.append(guess == labels[image])
        radius.append(r)
    size = N0 + len(votes.estimate[0])
    seconds = float(np.mean([votes.seconds[mine[i]] for i in images]))
    return {
        "mode": name,
        "images": images,
        "evaluations": float(np.mean([votes.nfe[mine[i]] for i in images]) / size),
        "milliseconds": None if np.isnan(seconds) else 1000 * seconds / size,
        "agreement": float(np.mean(agree)),
        "least agreement": float(np.min(agree)),
        "largest bias": float(np.abs(bias).max()),
        "mean bias": float(np.mean(bias)),
        "near": float(np.mean([d <= NEAR for d in away])),
        "near five": float(np.mean([d <= 0.05 for d in away])),
        "away": [round(d, 4) for d in sorted(away)],
        "classes changed": int(changed),
        "radii": radius,
        "certified": [
            float(np.mean([c and r >= step * sigma for c, r in zip(correct, radius, strict=True)]))
            for step in (0.0, 0.5, 1.0, 1.5, 2.0)
        ],
        "ACR": float(np.mean([c * r for c, r in zip(correct, radius, strict=True)])),
    }


@click.command()
@click.option("--model", help="Checkpoint.")
@click.option("--start", help="What `deqcert train-start` wrote for it.")
@click.option("--data", help="As `deqcert certify --data` takes it.")
@click.option("--sigma", default=0.25, show_default=True)
@click.option("--images", default=60, show_default=True)
@click.option("--n", default=1000, show_default=True)
@click.option("--margin", default=1.86, show_default=True, help="Of mode margin.")
@click.option("--also", multiple=True, help="Further checks: NAME=DEPTH:GAP,...,STEPS.")
@click.option("--form", default="compiled", show_default=True)
@click.option("--name", default="golden", show_default=True)
@click.option("--minutes", default=0.0, help="Stop casting votes after so long; 0 never.")
@click.option("--work", type=click.Path(path_type=Path), default=Path("runs/faithful"))
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS)
@click.option("--skip", multiple=True, help="A mode that casts no votes now.")
@click.option("--timed", is_flag=True, help="Cast every mode by itself, which takes its time.")
@click.option("--only-report", is_flag=True, help="Write the report from what is there.")
def main(
    model: str | None,
    start: str | None,
    data: str | None,
    sigma: float,
    images: int,
    n: int,
    margin: float,
    also: tuple[str, ...],
    form: str,
    name: str,
    minutes: float,
    work: Path,
    out: Path,
    skip: tuple[str, ...],
    timed: bool,
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
        batch, predictors = 100, modes(start, model, margin, also)
        for mode in skip:
            del predictors[mode]
        formed = in_form(load_model(model), form, rows=batch)
        engine = SmoothingEngine(formed, sigma=sigma, batch=batch)
        chosen = spread(images, len(dataset))
        for image in chosen:
            if minutes and time.perf_counter() - began > 60 * minutes:
                break
            x = Input(dataset.image(image), image)
            together = {}
            for mode, predictor in predictors.items():
                if timed or not predictor.stop.fixed_depth:
                    cast(engine, predictor, x, n, work / name / f"{mode}.npz")
                else:
                    together[mode] = predictor
            cast_together(engine, together, x, n, work / name)
        labels = {image: dataset.label(image) for image in chosen}
        every = modes(start, model, margin, also)
        rows = judge(work / name, list(every), labels, sigma)
        file = load_start(start, model)
        content = {
            "name": name,
            "sigma": sigma,
            "n0": N0,
            "n": n,
            "alpha": ALPHA,
            "form": form,
            "start": {"cost": file.cost, "readout": file.readout, "stated": file.disagreement},
            "rules": {mode: predictor.describe() for mode, predictor in every.items()},
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
        axes.plot(x, y, marker=marker, color=colour, linestyle="none", label=plain(content["name"]))
        for row in rows:
            axes.annotate(
                row["mode"],
                (row["evaluations"], 100 * row["near"]),
                textcoords="offset points",
                xytext=(-4, -13) if row["evaluations"] > x[-1] - 1 else (5, -11),
                ha="right" if row["evaluations"] > x[-1] - 1 else "left",
                fontsize=8,
                color=colour,
            )
    axes.axhline(95, color="0.6", linewidth=0.8, linestyle=":")
    axes.set_xlabel("cell evaluations per vote, everything counted")
    axes.set_ylabel("radius within 2% of the cold one (% of images)")
    axes.set_ylim(0, 104)
    axes.set_title(
        "Cost of a vote against faithfulness to the converged model",
        loc="left",
        fontsize=11,
        fontweight="bold",
    )
    axes.legend(loc="lower right", frameon=False, fontsize=8)
    save_figure(figure, out / "faithful.png")


def table(content: dict[str, Any]) -> list[str]:
    """Format one model's modes as Markdown."""
    lines = [
        f"## {content['name']}",
        "",
        f"n = {content['n']}, n0 = {content['n0']}, alpha "
        f"{content['alpha']:g}, sigma {content['sigma']:g}, form {content['form']}; the start "
        f"costs {content['start']['cost']:.2f} evaluations, a readout "
        f"{content['start']['readout']:.2f}. Faithful: {content['rules']['faithful']}.",
        "",
        "| mode | images | evaluations | ms | agreement % | least of an image | bias of the "
        "class's share: largest, mean | radius within 2% | 5% | classes changed | certified at 0, "
        "0.5, 1, 1.5 sigma | ACR |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- | ---: |",
    ]
    for row in content["rows"]:
        spent = "" if row["milliseconds"] is None else f"{row['milliseconds']:.2f}"
        certified = ", ".join(f"{100 * share:.0f}" for share in row["certified"][:4])
        lines.append(
            f"| {row['mode']} | {len(row['images'])} | {row['evaluations']:.2f} "
            f"| {spent} | {100 * row['agreement']:.2f} | {100 * row['least agreement']:.1f} "
            f"| {row['largest bias']:.3f}, {row['mean bias']:+.4f} | {100 * row['near']:.0f}% "
            f"| {100 * row['near five']:.0f}% | {row['classes changed']} "
            f"| {certified} | {row['ACR']:.3f} |"
        )
    return [*lines, ""]


if __name__ == "__main__":
    main()
