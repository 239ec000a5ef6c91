"""What a learned start buys on a model, step by step, and which rule for the depth pays.

Noisy images are solved cold until they converge, and then step by step from a cold and from a
learned start. For each depth: agreement with the converged solve, and accuracy. Then, for several
rates of disagreement, the least mean cost at which a fixed depth, an early stop by the residual and
one by a decided margin keep to it. A decided margin is a gap between the two largest logits above
FACTOR times the largest change of a logit in the last step; it has to read out after every step,
and every readout but the one that casts the vote is counted by its measured time.

    python benchmarks/starts_agreement.py --model CKPT --data SPEC --sigma S [--start FILE]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deqcert.data import load_dataset
from deqcert.memory import keep_freed_memory
from deqcert.models import form_names, in_form, load_model
from deqcert.models.start_file import load_start, start_path
from deqcert.training.depth import Courses, choose_depth, follow, start_cost

RATES = (0.10, 0.05, 0.02, 0.01, 0.005)
FACTORS = np.geomspace(0.05, 200, 60)
ROWS = 100


def seconds(function: Callable[[], Tensor], repeats: int = 9) -> float:
    """Return the shortest time of several."""
    times = []
    with torch.no_grad():
        for _ in range(repeats + 1):
            began = time.perf_counter()
            function()
            times.append(time.perf_counter() - began)
    return min(times[1:])


def fixed_cost(courses: Courses, rate: float) -> float | None:
    """Return the smallest fixed depth whose disagreement is at most the rate."""
    known = courses.truth >= 0
    wrong = (courses.classes[known] != courses.truth[known, None]).mean(axis=0)
    good = np.flatnonzero(wrong <= rate)
    return None if not len(good) else float(good[0] + 1)


def margin_costs(courses: Courses, readout: float) -> Iterator[tuple[float, float]]:
    """Yield mean cost and disagreement of a decided margin at many factors and largest depths.

    Args:
        courses: what was followed.
        readout: time of a readout in times of a cell evaluation.
    """
    known = courses.truth >= 0
    logits = courses.logits[known]
    leading = np.sort(logits[:, 1:], axis=2)
    gap = leading[:, :, -1] - leading[:, :, -2]
    drift = np.abs(np.diff(logits, axis=1)).max(axis=2)
    wrong = courses.classes[known] != courses.truth[known, None]
    n, most = wrong.shape
    for factor in FACTORS:
        decided = gap > factor * drift
        first = np.where(decided.any(axis=1), decided.argmax(axis=1), most)
        for steps in range(1, most + 1):
            last = np.minimum(first, steps - 1)
            # One readout at the start and one after each step; the last casts the vote.
            cost = last + 1 + (last + 1) * readout
            yield float(cost.mean()), float(wrong[np.arange(n), last].mean())


def cheapest(pairs: list[tuple[float, float]], rate: float) -> float | None:
    """Return the least cost whose disagreement is at most the rate."""
    return min((cost for cost, wrong in pairs if wrong <= rate), default=None)


def percent(hits: NDArray[np.bool_]) -> str:
    """Format a share."""
    return f"{100 * float(hits.mean()):.1f}"


def main() -> None:
    """Measure, and print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--sigma", type=float, required=True)
    parser.add_argument("--start", help="default: beside the model")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write here, too")
    given = parser.parse_args()

    torch.set_num_threads(1)
    keep_freed_memory()
    model = load_model(given.model)
    model = in_form(model, "folded" if "folded" in form_names(model) else "eager", rows=ROWS)
    net = load_start(given.start or start_path(given.model), given.model).net
    data = load_dataset(given.data, "test")
    with torch.no_grad():
        injection = model.inject(torch.from_numpy(data.batch(np.arange(min(ROWS, len(data))))))
        z = net(injection)
    cost = start_cost(model, net, injection)
    cell, out = seconds(lambda: model.cell(z, injection)), seconds(lambda: model.readout(z))
    lines = [
        f"{given.images} noisy images of the test split, sigma {given.sigma:g}, {ROWS} rows on one "
        f"thread: a cell takes {1000 * cell / len(injection):.3f} ms a row, a learned start "
        f"{cost:.2f} and a readout {out / cell:.2f} cells.",
        "",
    ]
    found = {
        name: follow(
            model,
            start,
            data,
            sigma=given.sigma,
            images=given.images,
            steps=given.steps,
            seed=given.seed,
        )
        for name, start in (("cold", None), ("learned", net))
    }
    truth, labels = found["cold"].truth, found["cold"].labels
    known = truth >= 0
    lines += [
        f"Converged: {percent(known)}% of them, accuracy {percent(truth == labels)}%.",
        "",
        "| cells | cold: agreement | accuracy | learned: agreement | accuracy |",
        "| ---: | ---: | ---: | ---: | ---: |",
    ]
    for step in range(given.steps):
        row = [str(step + 1)]
        for courses in found.values():
            classes = courses.classes[:, step]
            row += [percent(classes[known] == truth[known]), percent(classes == labels)]
        lines.append(f"| {' | '.join(row)} |")
    lines += [
        "",
        "Least mean cells a vote, the start included, at a largest disagreement:",
        "",
        "| start | rule | " + " | ".join(f"{100 * rate:g}%" for rate in RATES) + " |",
        "| --- | --- |" + " ---: |" * len(RATES),
    ]
    for name, courses in found.items():
        begin = cost if name == "learned" else 0.0
        margin = list(margin_costs(courses, out / cell))
        free = list(margin_costs(courses, 0.0))
        chosen = [choose_depth(courses, rate) for rate in RATES]
        rules = {
            "fixed": [fixed_cost(courses, rate) for rate in RATES],
            "residual": [
                depth.nfe if depth.disagreement <= rate else None
                for depth, rate in zip(chosen, RATES, strict=True)
            ],
            "margin": [cheapest(margin, rate) for rate in RATES],
            "margin, readouts not counted": [cheapest(free, rate) for rate in RATES],
        }
        for rule, costs in rules.items():
            cells = " | ".join("-" if c is None else f"{c + begin:.2f}" for c in costs)
            lines.append(f"| {name} | {rule} | {cells} |")
    text = "\n".join(lines) + "\n"
    print(text)
    if given.out is not None:
        given.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
