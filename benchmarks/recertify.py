"""What certificates of a changed model cost from old votes, against certifying it from scratch.

    python benchmarks/recertify.py digits
    python benchmarks/recertify.py golden --golden ../shared/golden --data folder:CIFAR10
    python benchmarks/recertify.py report

Each writes benchmarks/results/recertify_NAME.json, and from all of these the page
benchmarks/results/recertify.md. CIFAR10 is the folder of images by class, test/CLASS/NNNN.jpg.

The old model votes n times an image (`--keep-votes` of a run), every changed model does so, too
(that is certifying it from scratch), and what an audit would have cast again is then looked up
among these votes. Cell evaluations are those of the samples that an
audit chose; seconds are its share of the processor time of one thread, at the measured price of
scattered samples. All bounds are at alpha 0.001 in all.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import prune

from deqcert.certifiers.bounds import certified_radius, lower_confidence_bound
from deqcert.certifiers.goals import Goal, Relative
from deqcert.certifiers.kept_votes import doubts
from deqcert.certifiers.looks import VotesAudit
from deqcert.data import Dataset, load_dataset
from deqcert.models import in_form, load_model
from deqcert.smoothing import Input, Predictor, SmoothingEngine, Stage, Votes
from deqcert.solvers import StopRule, get_solver

N0, ALPHA, SIGMA, BATCH = 100, 0.001, 0.25, 100
SHARES = (0.1, 0.15, 0.25, 0.35, 0.5, 0.75, 1.0)
LARGE = 100_000
RESULTS = Path(__file__).resolve().parent / "results"

ABOUT = """
`python benchmarks/recertify.py digits`, `... golden` and `... report` make this page; what is
promised is in [recertify.md](../../docs/recertify.md). sigma 0.25, n0 = 100, alpha 0.001 in all for
every way. *Cheaper* is evaluations from scratch (n + n0) over those of the audit; *ACR left* is of
the ACR from scratch at the same n; *published* is the incremental method at the same K.
""".strip().splitlines()


def weights(model: torch.nn.Module) -> Iterator[tuple[str, str | None, Tensor]]:
    """Yield every weight of two dimensions or more as it is multiplied, and where it is stored.

    A weight-normalised one is stored as a direction and a length; both names are yielded.
    """
    state = model.state_dict()
    for name, value in state.items():
        if name.endswith("weight_v"):
            length = name.removesuffix("v") + "g"
            norm = value.flatten(1).norm(dim=1).view(-1, *[1] * (value.ndim - 1))
            yield name, length, state[length].view_as(norm) * value / norm
        elif value.ndim >= 2 and value.is_floating_point() and not name.endswith("weight_g"):
            yield name, None, value


def changed(
    model: torch.nn.Module, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]
) -> torch.nn.Module:
    """Return a copy of a model whose weights are changed."""
    found = list(weights(model))
    after = change({name: value for name, _, value in found})
    state = dict(model.state_dict())
    for name, length, _ in found:
        state[name] = after[name]
        if length is not None:
            norm = after[name].flatten(1).norm(dim=1).clamp_min(1e-12)
            state[length] = norm.view_as(state[length])
            zero = norm <= 1e-12  # a filter of zeros has no direction
            state[name] = torch.where(
                zero.view(-1, *[1] * (after[name].ndim - 1)),
                torch.full_like(after[name], 1e-12),
                after[name],
            )
    made = copy.deepcopy(model)
    made.load_state_dict(state)
    return made


def pruned(amount: float) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """Set the smallest weights of all layers together to zero."""

    def change(held: dict[str, Tensor]) -> dict[str, Tensor]:
        flat = torch.cat([value.flatten() for value in held.values()])
        kept = prune.L1Unstructured(amount).compute_mask(flat, torch.ones_like(flat))
        parts = kept.split([value.numel() for value in held.values()])
        return {
            name: value * part.view_as(value)
            for (name, value), part in zip(held.items(), parts, strict=True)
        }

    return change


def int8(held: dict[str, Tensor]) -> dict[str, Tensor]:
    """Round each output channel's weights to 255 steps."""

    def rounded(value: Tensor) -> Tensor:
        step = value.flatten(1).abs().amax(dim=1).clamp_min(1e-12) / 127
        step = step.view(-1, *[1] * (value.ndim - 1))
        return (value / step).round() * step

    return {name: rounded(value) for name, value in held.items()}


@dataclass
class Cast:
    """The votes of one model for one image, with what they cost."""

    selected: int
    votes: Votes
    seconds: float

    @property
    def share(self) -> np.ndarray:
        """Whether each sample votes for the selected class."""
        return self.votes.predictions == self.selected


def cast(engine: SmoothingEngine, predictor: Predictor, input: Input, n: int) -> Cast:
    """Cast all votes for an image."""
    began = time.process_time()
    counts = engine.votes(predictor, input, Stage.SELECT, N0).counts
    votes = engine.votes(predictor, input, Stage.ESTIMATE, n)
    return Cast(int(counts.argmax()), votes, time.process_time() - began)


def scattered(engine: SmoothingEngine, predictor: Predictor, input: Input, n: int) -> float:
    """Return the seconds of a vote for samples that do not follow each other."""
    chosen = np.random.default_rng(0).choice(n, size=min(n, 500), replace=False)
    began = time.process_time()
    engine.classify(predictor, input, Stage.ESTIMATE, chosen)
    return (time.process_time() - began) / len(chosen)


def recertify(
    old: np.ndarray, selected: int, new: np.ndarray, doubt: np.ndarray, size: int, goal: Goal | None
) -> tuple[float, int, int]:
    """Audit the votes of an image; return radius, votes cast again, and those that changed."""
    voters = np.flatnonzero(old == selected)
    voters = voters[np.argsort(doubt[voters], kind="stable")]
    found = VotesAudit(len(old), size, ALPHA, goal).run(
        voters,
        lambda samples: new[samples] == selected,
        np.random.default_rng(len(voters)),
        sigma=SIGMA,
        batch=BATCH,
    )
    return certified_radius(found.p_lower, SIGMA), found.audited, found.disagreements


def published(old: np.ndarray, selected: int, new: np.ndarray, size: int) -> float:
    """Return the radius of the published incremental method."""
    n, chosen = len(old), np.random.default_rng(0).choice(len(old), size=size, replace=False)
    same = int(np.sum(old[chosen] == new[chosen]))
    p = lower_confidence_bound(int(np.sum(old == selected)), n, ALPHA / 2)
    return certified_radius(
        max(0.0, p - (1.0 - lower_confidence_bound(same, size, ALPHA / 2))), SIGMA
    )


def looked_up(old: Cast, new: Cast, n: int, draw: np.random.Generator) -> dict[str, Any]:
    """Return what every way of certifying says of an image, from votes that are there.

    Args:
        old: Of the old model.
        new: Of the changed one.
        n: Samples; where they are more than there are votes, votes are drawn again from these.
        draw: For that.
    """
    there = len(old.votes.predictions)
    at = np.arange(there) if n == there else draw.integers(0, there, n)
    a, b = old.votes.predictions[at], new.votes.predictions[at]
    doubt = doubts(old.votes.margins)[at]
    found: dict[str, Any] = {
        "p": float(np.mean(b == new.selected)),
        "agree": float(np.mean(a == b)),
        "scratch": certified_radius(
            lower_confidence_bound(int(np.sum(b == new.selected)), n, ALPHA), SIGMA
        ),
        "scratch_class": new.selected,
        "class": old.selected,
        "old": certified_radius(
            lower_confidence_bound(int(np.sum(a == old.selected)), n, ALPHA), SIGMA
        ),
    }
    for share in SHARES:
        size = max(1, round(share * n))
        found[f"audit {share:g}"] = recertify(a, old.selected, b, doubt, size, None)
        found[f"published {share:g}"] = published(a, old.selected, b, size)
    for loss in (0.05, 0.1):
        found[f"goal {loss:g}"] = recertify(a, old.selected, b, doubt, n, Relative(loss))
    return found


def measure(name: str, model: Any, data: Dataset, images: range, n: int, depth: int) -> None:
    """Certify images from scratch and from old votes, for every change; write the record."""
    torch.set_num_threads(1)
    solver = get_solver("anderson")
    full = Predictor(solver, StopRule(tol=0.0, max_nfe=depth))
    fewer = Predictor(solver, StopRule(tol=0.0, max_nfe=depth - 2))
    model.eval()
    kinds: dict[str, tuple[Any, str, Predictor]] = {
        "nothing changed": (model, "folded", full),
        "pruned 10%": (changed(model, pruned(0.1)), "folded", full),
        "pruned 20%": (changed(model, pruned(0.2)), "folded", full),
        "pruned 50%": (changed(model, pruned(0.5)), "folded", full),
        "int8 weights": (changed(model, int8), "folded", full),
        "bfloat16": (model, "bfloat16", full),
        "two fewer steps": (model, "folded", fewer),
    }
    engines = {
        kind: SmoothingEngine(
            in_form(m, form, rows=BATCH, device="cpu"),
            sigma=SIGMA,
            batch=BATCH,
            levels=data.levels,
        )
        for kind, (m, form, _) in kinds.items()
    }
    record: dict[str, Any] = {
        "n": n,
        "depth": depth,
        "torch": torch.__version__,
        "changes": {kind: {"rows": [], "large": []} for kind in kinds if kind != "nothing changed"},
    }
    draw = np.random.default_rng(0)
    for number, index in enumerate(images):
        input = Input(data.image(index), index)
        old = cast(engines["nothing changed"], full, input, n)
        for kind, (_, _, predictor) in kinds.items():
            if kind == "nothing changed":
                continue
            part = record["changes"][kind]
            new = cast(engines[kind], predictor, input, n)
            if number == 0:
                part["seconds_scattered"] = scattered(engines[kind], predictor, input, n)
            part.setdefault("seconds", []).append(new.seconds)
            part["nfe"] = new.votes.nfe / n
            for key, size in (("rows", n), ("large", LARGE)):
                row = looked_up(old, new, size, draw)
                part[key].append({"label": data.label(index), "index": index, **row})
        record["images"] = number + 1
        (RESULTS / f"recertify_{name}.json").write_text(json.dumps(_short(record)) + "\n")
        print(f"{name}: {number + 1} of {len(images)} images", flush=True)


def _short(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _short(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_short(part) for part in value]
    return round(value, 6) if isinstance(value, float) else value


def average(rows: list[dict[str, Any]], key: str) -> float:
    """Return the average certified radius of a way of certifying."""
    held = "scratch_class" if key == "scratch" else "class"
    radii = [row[key][0] if isinstance(row[key], list) else row[key] for row in rows]
    return float(
        np.mean([r * (row[held] == row["label"]) for r, row in zip(radii, rows, strict=True)])
    )


def cost(rows: list[dict[str, Any]], key: str, n: int) -> float:
    """Return which share of the evaluations from scratch a way of certifying takes."""
    return float(np.mean([row[key][1] for row in rows])) / (n + N0)


def cheapest(rows: list[dict[str, Any]], n: int, least: float) -> str:
    """Say how much cheaper the smallest audit is that keeps a share of the ACR."""
    whole = average(rows, "scratch")
    for share in SHARES:
        if average(rows, f"audit {share:g}") >= least * whole:
            return f"{1 / cost(rows, f'audit {share:g}', n):.1f}"
    return "-"


def table(part: dict[str, Any], key: str, n: int) -> list[str]:
    """Return the lines of a table over changes."""
    columns = [
        "change",
        "agreement",
        "ACR from scratch",
        "K = n/4: cheaper, ACR left",
        "published, K = n/4",
        "K = n/10: cheaper, ACR left",
        "goal 5%: cheaper, ACR left",
        "goal 10%",
        "cheaper at 95% of the ACR",
    ]
    lines = [f"| {' | '.join(columns)} |", f"| {' | '.join(['---'] * len(columns))} |"]
    for kind, found in part["changes"].items():
        rows = found[key]
        whole = average(rows, "scratch")

        def both(name: str, rows: list[dict[str, Any]] = rows, whole: float = whole) -> str:
            return f"{1 / cost(rows, name, n):.1f}x, {100 * average(rows, name) / whole:.1f}%"

        theirs = 100 * average(rows, "published 0.25") / whole
        agree = np.mean([row["agree"] for row in rows])
        lines.append(
            f"| {kind} | {100 * agree:.2f}% | {whole:.3f} | {both('audit 0.25')} | "
            f"{theirs:.1f}% | {both('audit 0.1')} | {both('goal 0.05')} | {both('goal 0.1')} | "
            f"{cheapest(rows, n, 0.95)}x |"
        )
    return lines


def seconds(part: dict[str, Any], n: int) -> list[str]:
    """Return the lines of a table of processor seconds."""
    lines = [
        "| change | from scratch, s an image | evaluations a vote | K = n/4, s | goal 5%, s |",
        "| --- | --- | --- | --- | --- |",
    ]
    for kind, found in part["changes"].items():
        each = found["seconds_scattered"]
        parts = [
            each * np.mean([row[key][1] for row in found["rows"]])
            for key in ("audit 0.25", "goal 0.05")
        ]
        lines.append(
            f"| {kind} | {np.mean(found['seconds']):.2f} | {found['nfe']:.1f} | "
            f"{parts[0]:.2f} | {parts[1]:.2f} |"
        )
    return lines


def write_page() -> None:
    """Write the page from the records that are there."""
    lines = ["# A changed model from old votes, against from scratch", "", *ABOUT, ""]
    titles = {"digits": "Digits, the shipped model", "golden": "MDEQ-SMALL on CIFAR-10 test images"}
    for name, title in titles.items():
        file = RESULTS / f"recertify_{name}.json"
        if not file.exists():
            continue
        part = json.loads(file.read_text())
        n = part["n"]
        lines += [
            f"## {title}",
            "",
            f"{part['images']} images, {part['depth']} evaluations a solve (cold, tol 0), n = {n}.",
            "",
            *table(part, "rows", n),
            "",
            f"The same at n = {LARGE}, votes drawn again from the {n} of each image (a bootstrap,",
            "not new solves; unanimous images stay unanimous):",
            "",
            *table(part, "large", LARGE),
            "",
            "Processor time of one thread:",
            "",
            *seconds(part, n),
            "",
        ]
        counts = [row["p"] for row in part["changes"]["int8 weights"]["rows"]]
        whole = sum(p == 1 for p in counts)
        some = sum(p >= 0.999 for p in counts)
        lines += [
            f"Under int8 weights {whole} of {len(counts)} images are unanimous, and {some} have a "
            "share of at least 0.999 for their class.",
            "",
        ]
    (RESULTS / "recertify.md").write_text("\n".join(lines).rstrip() + "\n")


@click.group()
def main() -> None:
    """Measure, and write the page."""


@main.command()
@click.option("--images", default=12, show_default=True, help="Test digits.")
@click.option("--n", default=10_000, show_default=True, help="Votes of an image.")
@click.option("--depth", default=5, show_default=True, help="Evaluations of a solve.")
def digits(images: int, n: int, depth: int) -> None:
    """Measure on the shipped model."""
    data = load_dataset("digits", "test")
    chosen = range(0, len(data), len(data) // images)[:images]
    measure("digits", load_model("digits"), data, chosen, n, depth)
    write_page()


@main.command()
@click.option("--golden", default="../shared/golden", show_default=True, help="Folder.")
@click.option("--data", default="folder:cifar10", show_default=True, help="CIFAR-10.")
@click.option("--images", default=8, show_default=True, help="Test images of CIFAR-10.")
@click.option("--n", default=1000, show_default=True, help="Votes of an image.")
@click.option("--depth", default=5, show_default=True, help="Evaluations of a solve.")
def golden(golden: str, data: str, images: int, n: int, depth: int) -> None:
    """Measure on the MDEQ-SMALL."""
    model = load_model(f"{golden}/mdeq_small_noise25.pth.tar", f"{golden}/mdeq_small_noise25.yaml")
    held = load_dataset(data, "test")
    chosen = range(0, len(held), len(held) // images)[:images]
    measure("golden", model, held, chosen, n, depth)
    write_page()


@main.command()
def report() -> None:
    """Write the page from the records."""
    write_page()


if __name__ == "__main__":
    main()
