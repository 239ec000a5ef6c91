"""What does it cost to certify the converged model, and how near does a cheaper vote come to it?

    python benchmarks/faithful.py --model CKPT --start FILE --data cifar10:DIR --sigma 0.25

The same noisy copies of test images are classified in every mode:

- cold: cold solves to a residual of 1e-3, the model itself, which all others are held against;
- tolerance: the same tolerance from the learned start;
- margin: the learned start, each row ending when its class stands out (a readout every step);
- faithful: the rule that `deqcert train-start` kept in the start's file;
- what --also names: checks like it, of which faithful_rules.py prints some;
- one cell: one evaluation from the learned start.

Cold and tolerance are votes of the product's engine. All other modes are rules of the learned
start: its logits after every evaluation are kept, and each rule is applied to them, which gives the
votes that the engine would cast (--timed casts those by the engine, for their time and as a check).
Every mode is then certified from its own votes as `independent` does. Counted are the start, what
decides when a row ends, and the noisy copies that choose the class.

What was cast is kept in --work, image by image, so that a run that was stopped goes on, and more
votes of an image (--n 10000 after --n 1000) are added to those there are. Written are
results/faithful_NAME.json and, from all such files, the picture and the tables, which are printed
(--only-report does only this).
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import time
from collections.abc import Callable, Sequence
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
from deqcert.smoothing.noise import noisy_copies
from deqcert.solvers import StopRule, bind, get_solver
from deqcert.solvers.loop import SolveLoop
from deqcert.starts import Learned
from deqcert.starts.file import load_start

RESULTS = Path(__file__).resolve().parent / "results"
ALPHA, N0, BATCH = 0.001, 50, 100
TOLERANCE = StopRule(tol=1e-3, max_nfe=30)
SIZES = (400, 1000, 10000)
"""Votes of an image at which modes are compared, where there are as many."""

NEAR = 0.02
"""Relative difference of a radius from the cold one's that still counts as the same."""

MOST, FIRST, LEAD = 12, 4, 0.4
"""Evaluations that rows are followed for; after so many, only those that lead by less than so much
or that a rule at hand has not ended."""

DEEPER = StopRule(tol=0.0, max_nfe=MOST + 1)
"""One evaluation more than any row makes: none may end by the loop's own rule."""

GROUP = 6
"""Images that share batches."""

Arrays = dict[str, NDArray[Any]]


def modes(start: str, model: str, margin: float, also: Sequence[str]) -> dict[str, Predictor]:
    """Every way to vote, by its name; ``also`` has further checks, NAME=DEPTH:GAP,...,STEPS."""
    file, solver = load_start(start, model), get_solver("anderson")
    learned = Learned(file.net, file.cost)

    def fixed(depth: int) -> StopRule:
        return StopRule(tol=0.0, max_nfe=depth)

    more = {}
    for text in also:
        name, _, rule = text.partition("=")
        *checks, steps = rule.split(",")
        depths, gaps = zip(*(check.split(":") for check in checks), strict=True)
        early = CheckedStop(tuple(map(int, depths)), tuple(map(float, gaps)), file.readout)
        more[name] = Predictor(solver, fixed(int(steps)), learned, early=early)
    margins = DecidedStop(margin, file.readout)
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


def read(path: Path) -> Arrays:
    """Read what was kept of an image, if anything."""
    if not path.exists():
        return {}
    with np.load(path) as found:
        return dict(found)


def lacking(kept: Arrays, name: str, n: int) -> list[tuple[int, NDArray[np.int64]]]:
    """Return stages, and the numbers of the copies in each, that a mode has not cast."""
    wanted = []
    for stage, count in ((int(Stage.SELECT), N0), (int(Stage.ESTIMATE), n)):
        have = len(kept.get(f"{name}_{stage}_nfe", ()))
        if have < count:
            wanted.append((stage, np.arange(have, count)))
    return wanted


def add(kept: Arrays, name: str, stage: int, new: Arrays) -> None:
    """Put further copies behind those that are kept."""
    for what, column in new.items():
        key = f"{name}_{stage}_{what}"
        kept[key] = np.concatenate([kept[key], column]) if key in kept else column


def votes(
    engine: SmoothingEngine, predictor: Predictor, x: Input
) -> Callable[[int, NDArray[np.int64]], Arrays]:
    """Return what casts votes by the engine: a class and the evaluations per copy."""

    def cast(stage: int, samples: NDArray[np.int64]) -> Arrays:
        classes, nfe = np.empty(len(samples), np.int16), np.empty(len(samples), np.int16)
        for batch in engine.batches(predictor, x, stage, samples):
            at = batch.samples - samples[0]
            classes[at], nfe[at] = batch.predictions, batch.nfe
        return {"classes": classes, "nfe": nfe}

    return cast


@torch.no_grad()
def traces(
    engine: SmoothingEngine,
    rules: Sequence[Predictor],
    wanted: Sequence[tuple[Input, int, NDArray[np.int64]]],
) -> list[Arrays]:
    """Follow rows of the learned start: logits per copy at the start and after each evaluation.

    Rows that lead clearly after the first evaluations, and that all rules have ended, keep their
    logits from there on. Copies of all images and stages share their batches.
    """
    model, crowd, found = engine.model, _Crowd(rules[0]), []
    rows = [(x, stage, int(sample)) for x, stage, samples in wanted for sample in samples]
    for first in range(0, len(rows), BATCH):
        parts = [
            noisy_copies(
                torch.from_numpy(np.asarray(x.x)),
                np.array([sample for _, _, sample in part]),
                sigma=engine.sigma,
                seed=engine.seed,
                index=x.index,
                stage=stage,
            )
            for (x, stage), part in together(rows[first : first + BATCH])
        ]
        injection = model.inject(torch.cat(parts))
        loop = SolveLoop(rules[0].solver, rules[0].start.initial(model, injection), DEEPER)
        logits = [model.readout(loop.z)]
        for _ in range(FIRST):
            loop.advance(bind(model.cell, injection))
            logits.append(model.readout(loop.z))
        trace = torch.stack(logits + logits[-1:] * (MOST - FIRST), dim=1).numpy()
        leading = np.sort(trace[:, FIRST], axis=1)
        unclear = leading[:, -1] - leading[:, -2] < LEAD
        for rule in rules:
            unclear |= (ends(trace, rule) > FIRST) & (rule.early is not None)
        found.append(trace)
        stay = torch.from_numpy(np.flatnonzero(unclear))
        if len(stay):
            crowd.join(first + stay.numpy(), injection[stay], loop, stay)
        crowd.follow(model, BATCH)
    crowd.follow(model, 1)
    whole = np.concatenate(found)
    for at, later in crowd.followed:
        whole[at, FIRST + 1 :] = later
    ends_at = np.cumsum([len(samples) for _, _, samples in wanted])
    return [
        {"logits": logits, "nfe": np.full(len(logits), MOST, np.int16)}
        for logits in np.split(whole, ends_at[:-1])
    ]


def together(
    rows: Sequence[tuple[Input, int, int]],
) -> list[tuple[tuple[Input, int], list[tuple[Input, int, int]]]]:
    """Group neighbouring rows of one image and stage."""
    groups = itertools.groupby(rows, key=lambda row: (row[0].index, row[1]))
    return [((part[0][0], part[0][1]), part) for _, members in groups if (part := list(members))]


class _Crowd:
    """Rows in doubt, which wait until there is a full batch of them to be followed to the end."""

    def __init__(self, of: Predictor) -> None:
        self.of = of
        self.waiting: list[tuple[NDArray[np.int64], torch.Tensor, SolveLoop]] = []
        self.followed: list[tuple[NDArray[np.int64], NDArray[np.float32]]] = []

    def join(
        self, at: NDArray[np.int64], injection: torch.Tensor, loop: SolveLoop, rows: torch.Tensor
    ) -> None:
        """Take in some rows of a loop, by index; ``at`` says which copies they are."""
        own = SolveLoop(self.of.solver, loop.z[rows], DEEPER)
        own.adopt(slice(0, len(rows)), loop, rows)
        self.waiting.append((at, injection, own))

    def follow(self, model: Any, least: int) -> None:
        """Follow all who wait, if they are at least so many, a batch at a time."""
        while sum(len(at) for at, _, _ in self.waiting) >= least:
            at = np.concatenate([entry[0] for entry in self.waiting])
            injection = torch.cat([entry[1] for entry in self.waiting])
            z = torch.cat([entry[2].z for entry in self.waiting])
            whole, first = SolveLoop(self.of.solver, z, DEEPER), 0
            for places, _, loop in self.waiting:
                rows = torch.arange(len(places))
                whole.adopt(slice(first, first + len(places)), loop, rows)
                first += len(places)
            self.waiting.clear()
            if len(at) > BATCH:
                rows = torch.arange(BATCH, len(at))
                self.join(at[BATCH:], injection[BATCH:], whole, rows)
            whole.select(torch.arange(min(BATCH, len(at))))
            logits = []
            for _ in range(FIRST, MOST):
                whole.advance(bind(model.cell, injection[:BATCH]))
                logits.append(model.readout(whole.z))
            self.followed.append((at[:BATCH], torch.stack(logits, dim=1).numpy()))


def ends(logits: NDArray[Any], predictor: Predictor) -> NDArray[np.int64]:
    """Say after how many evaluations each row ends, given its logits at every depth."""
    early, most = predictor.early, predictor.stop.max_nfe
    done = np.zeros(logits.shape[:2], dtype=bool)
    if isinstance(early, CheckedStop | DecidedStop):
        leading = np.partition(logits, -2, axis=2)
        gap = leading[:, :, -1] - leading[:, :, -2]
        if isinstance(early, CheckedStop):
            for depth, least in zip(early.depths, early.gaps, strict=True):
                done[:, depth] = gap[:, depth] > least
        else:
            drift = np.abs(np.diff(logits, axis=1)).max(axis=2)
            done[:, 1:] = gap[:, 1:] > early.margin * drift
    done[:, most:] = True
    return done.argmax(axis=1)


@dataclasses.dataclass(frozen=True)
class Cast:
    """The votes of one mode on one image: classes of both stages, and evaluations of all."""

    select: NDArray[np.int16]
    estimate: NDArray[np.int16]
    nfe: float


def voted(kept: Arrays, mode: str, predictor: Predictor, n: int) -> Cast | None:
    """Return a mode's first n votes of an image, or None where there are not as many."""
    name = mode if not predictor.stop.fixed_depth else "trace"
    classes, spent = [], []
    for stage, count in ((Stage.SELECT, N0), (Stage.ESTIMATE, n)):
        key = f"{name}_{int(stage)}_"
        if len(kept.get(f"{key}nfe", ())) < count:
            return None
        if name == "trace":
            logits = kept[f"{key}logits"][:count]
            nfe = ends(logits, predictor)
            classes.append(logits[np.arange(count), nfe].argmax(axis=1).astype(np.int16))
        else:
            nfe = kept[f"{key}nfe"][:count]
            classes.append(kept[f"{key}classes"][:count])
        spent.append(nfe)
    nfe = np.concatenate(spent).astype(np.int64)
    return Cast(*classes, predictor.spent(int(nfe.sum()), len(nfe), predictor.readouts(nfe)))


def certify(select: NDArray[Any], estimate: NDArray[Any], sigma: float) -> tuple[int, float]:
    """Certify an image from its votes as `independent` does: a class or -1, and a radius."""
    guess = int(np.bincount(select[select >= 0], minlength=1).argmax())
    p_lower = lower_confidence_bound(int((estimate == guess).sum()), len(estimate), ALPHA)
    return (guess if p_lower > 0.5 else -1), certified_radius(p_lower, sigma)


def compare(
    mine: dict[int, Cast], cold: dict[int, Cast], labels: dict[int, int], sigma: float
) -> dict[str, Any]:
    """Hold the votes of a mode against the cold ones, on the images that both have."""
    images = sorted(mine.keys() & cold.keys())
    agree, bias, away, changed, correct, radius = [], [], [], 0, [], []
    for image in images:
        ours, truth = mine[image].estimate, cold[image].estimate
        known = truth >= 0
        agree.append(float((ours == truth)[known].mean()))
        guess, r = certify(mine[image].select, ours, sigma)
        wanted, t = certify(cold[image].select, truth, sigma)
        top = wanted if wanted >= 0 else int(np.bincount(truth[known]).argmax())
        bias.append(float((ours == top).mean() - (truth == top).mean()))
        away.append(abs(r - t) / t if t else float(r > 0))
        changed += guess != wanted
        correct.append(guess == labels[image])
        radius.append(r)
    size = N0 + len(ours)
    return {
        "images": images,
        "evaluations": float(np.mean([mine[i].nfe for i in images]) / size),
        "agreement": float(np.mean(agree)),
        "least agreement": float(np.min(agree)),
        "largest bias": float(np.abs(bias).max()),
        "mean bias": float(np.mean(bias)),
        "mean absolute bias": float(np.abs(bias).mean()),
        "near": float(np.mean([d <= NEAR for d in away])),
        "near five": float(np.mean([d <= 0.05 for d in away])),
        "away": [round(d, 4) for d in away],
        "classes changed": int(changed),
        "radii": [round(r, 5) for r in radius],
        "certified": [
            float(np.mean([c and r >= step * sigma for c, r in zip(correct, radius, strict=True)]))
            for step in (0.0, 0.5, 1.0, 1.5, 2.0)
        ],
        "ACR": float(np.mean([c * r for c, r in zip(correct, radius, strict=True)])),
    }


def judge(
    folder: Path, every: dict[str, Predictor], labels: dict[int, int], sigma: float
) -> dict[int, Any]:
    """Compare all modes at every number of votes of which there are some images."""
    kept = {image: read(folder / f"{image}.npz") for image in labels}
    tables: dict[int, Any] = {}
    for n in SIZES:
        cast = {
            mode: {i: v for i in labels if (v := voted(kept[i], mode, predictor, n)) is not None}
            for mode, predictor in every.items()
        }
        # The cold row is about the images that the others are about.
        cast["cold"] = {i: v for i, v in cast["cold"].items() if i in cast["faithful"]}
        if cast["cold"]:
            tables[n] = {
                mode: compare(mine, cast["cold"], labels, sigma)
                for mode, mine in cast.items()
                if mine.keys() & cast["cold"].keys()
            }
    return tables


def measure(
    engine: SmoothingEngine,
    every: dict[str, Predictor],
    images: Sequence[Input],
    n: int,
    folder: Path,
) -> dict[str, float]:
    """Cast votes in every mode by the engine; return milliseconds of one thread per vote.

    Raises:
        AssertionError: If a vote is not the one that the rule was found to cast.
    """
    times = {}
    for mode, predictor in every.items():
        spent = 0.0
        for x in images:
            began = time.process_time()
            cast = votes(engine, predictor, x)(Stage.ESTIMATE, np.arange(n))
            spent += time.process_time() - began
            known = voted(read(folder / f"{x.index}.npz"), mode, predictor, n)
            if known is not None:
                assert np.array_equal(known.estimate, cast["classes"]), (mode, x.index)
        times[mode] = 1000 * spent / (n * len(images))
        print(f"{mode}: {times[mode]:.2f} ms", flush=True)
    return times


@click.command()
@click.option("--model", help="Checkpoint.")
@click.option("--start", help="What `deqcert train-start` wrote for it.")
@click.option("--data", help="As `deqcert certify --data` takes it.")
@click.option("--sigma", default=0.25, show_default=True)
@click.option("--images", default=60, show_default=True)
@click.option("--first", default=0, help="Only so many of them now, from the front; 0 for all.")
@click.option("--n", default=1000, show_default=True)
@click.option("--margin", default=1.86, show_default=True, help="Of mode margin.")
@click.option("--also", multiple=True, help="Further checks: NAME=DEPTH:GAP,...,STEPS.")
@click.option("--form", default="compiled", show_default=True)
@click.option("--name", default="golden", show_default=True)
@click.option("--tolerance", default=16, show_default=True, help="Images of mode tolerance.")
@click.option("--timed", default=0, help="Time every mode on so many images instead.")
@click.option("--work", type=click.Path(path_type=Path), default=Path("runs/faithful"))
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS)
@click.option("--only-report", is_flag=True, help="Write the report from what is there.")
def main(
    model: str | None,
    start: str | None,
    data: str | None,
    sigma: float,
    images: int,
    first: int,
    n: int,
    margin: float,
    also: tuple[str, ...],
    form: str,
    name: str,
    tolerance: int,
    timed: int,
    work: Path,
    out: Path,
    only_report: bool,
) -> None:
    """Cast the votes, judge them, and write the report of all models there are."""
    if not only_report:
        if model is None or start is None or data is None:
            raise click.UsageError("give --model, --start and --data, or --only-report.")
        torch.set_num_threads(1)
        keep_freed_memory()
        dataset, every, folder = (
            load_dataset(data, "test"),
            modes(start, model, margin, also),
            work / name,
        )
        folder.mkdir(parents=True, exist_ok=True)
        formed = in_form(load_model(model), form, rows=BATCH)
        engine = SmoothingEngine(formed, sigma=sigma, batch=BATCH)
        chosen = spread(images, len(dataset))
        rules = [predictor for predictor in every.values() if predictor.stop.fixed_depth]
        now = [Input(dataset.image(image), image) for image in chosen[: first or None]]
        for begin in range(0, 0 if timed else len(now), GROUP):
            group = now[begin : begin + GROUP]
            kept = [read(folder / f"{x.index}.npz") for x in group]
            for number, (x, own) in enumerate(zip(group, kept, strict=True), begin):
                for mode in ("cold", "tolerance") if number < tolerance else ("cold",):
                    cast = votes(engine, every[mode], x)
                    for stage, samples in lacking(own, mode, n):
                        add(own, mode, stage, cast(stage, samples))
                    np.savez(folder / f"{x.index}.npz", **own)
            pairs = list(zip(group, kept, strict=True))
            wanted = [(x, own, *more) for x, own in pairs for more in lacking(own, "trace", n)]
            asked = [(x, stage, samples) for x, _, stage, samples in wanted]
            followed = traces(engine, rules, asked) if asked else []
            for (_, own, stage, _), new in zip(wanted, followed, strict=True):
                add(own, "trace", stage, new)
            for x, own in pairs:
                np.savez(folder / f"{x.index}.npz", **own)
            print(f"{begin + len(group)} images, {n} votes", flush=True)
        if timed:
            times = measure(engine, every, now[:timed], n, folder)
            (folder / "times.json").write_text(json.dumps(times))
        file = load_start(start, model)
        content = {
            "name": name,
            "sigma": sigma,
            "n0": N0,
            "alpha": ALPHA,
            "form": form,
            "start": {"cost": file.cost, "readout": file.readout, "stated": file.disagreement},
            "rules": {mode: predictor.describe() for mode, predictor in every.items()},
            "milliseconds": json.loads(path.read_text())
            if (path := folder / "times.json").exists()
            else {},
            "tables": judge(folder, every, {i: dataset.label(i) for i in chosen}, sigma),
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
        n, rows = widest(content["tables"])
        draw(axes, rows, f"{content['name']}, n = {n}", colour, marker)
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


def widest(tables: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the most votes of an image that the most images have, and the modes there."""
    return max(
        tables.items(), key=lambda entry: (len(entry[1]["faithful"]["images"]), int(entry[0]))
    )


def draw(axes: Any, rows: dict[str, Any], label: str, colour: str, marker: str) -> None:
    """Draw the modes of a model, with their names, and where the cheapest of each share stand."""
    shown = {mode: row for mode, row in rows.items() if mode != "cold"}
    x = [row["evaluations"] for row in shown.values()]
    y = [100 * row["near"] for row in shown.values()]
    axes.plot(x, y, marker=marker, color=colour, linestyle="none", label=plain(label))
    for mode, across, up in zip(shown, x, y, strict=True):
        # Names stand on the outer side of the modes' common curve, where no other mode is.
        left = up > 60 and marker == "o" and mode != "margin"
        axes.annotate(
            mode,
            (across, up),
            textcoords="offset points",
            xytext=(-7, -3) if left else (7, -3),
            ha="right" if left else "left",
            fontsize=8,
            color=colour,
        )


def table(content: dict[str, Any]) -> list[str]:
    """Format one model's modes as Markdown."""
    lines = [
        f"## {content['name']}",
        "",
        f"n0 = {content['n0']}, alpha {content['alpha']:g}, sigma {content['sigma']:g}, form "
        f"{content['form']}; the start costs {content['start']['cost']:.2f} evaluations, a readout "
        f"{content['start']['readout']:.2f}. Faithful: {content['rules']['faithful']}.",
        "",
    ]
    for n, rows in content["tables"].items():
        lines += [
            f"n = {n}:",
            "",
            "| mode | images | evaluations | ms | agreement % | least of an image | bias of the "
            "class's share: largest, mean size, mean | radius within 2% | 5% | classes changed | "
            "certified at 0, 0.5, 1, 1.5 sigma | ACR |",
            "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- | ---: |",
        ]
        for mode, row in rows.items():
            spent = content["milliseconds"].get(mode)
            certified = ", ".join(f"{100 * share:.0f}" for share in row["certified"][:4])
            lines.append(
                f"| {mode} | {len(row['images'])} | {row['evaluations']:.2f} "
                f"| {'' if spent is None else f'{spent:.1f}'} | {100 * row['agreement']:.2f} "
                f"| {100 * row['least agreement']:.1f} | {row['largest bias']:.3f}, "
                f"{row['mean absolute bias']:.4f}, {row['mean bias']:+.4f} "
                f"| {100 * row['near']:.0f}% | {100 * row['near five']:.0f}% "
                f"| {row['classes changed']} | {certified} | {row['ACR']:.3f} |"
            )
        lines.append("")
    return lines


if __name__ == "__main__":
    main()
