"""What a learned start buys on a model, step by step, and which rule for the depth pays.

Noisy images are solved cold until they converge, and then step by step from a cold and from a
learned start. For each depth: agreement with the converged solve, and accuracy. Then, for several
rates of disagreement, the least mean cost at which a fixed depth, an early stop by the residual and
one by a decided margin keep to it, each at the best of many thresholds, chosen on these very
images.

    python benchmarks/starts_agreement.py --model CKPT --data SPEC --sigma S [--start FILE]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from deqcert.data import load_dataset
from deqcert.memory import keep_freed_memory
from deqcert.models import form_names, in_form, load_model
from deqcert.starts.file import load_start, start_path
from deqcert.training.starts.depth import Trajectories, choose_depth, costs, follow

RATES = (0.10, 0.05, 0.02, 0.01, 0.005)
ROWS = 100


def cheapest(trajectories: Trajectories, rate: float, readout: float, kind: str) -> float | None:
    """Return the least mean evaluations of a kind of rule at this rate, None if there are none."""
    depth = choose_depth(trajectories, rate, readout=readout, kinds=(kind,))
    return depth.nfe if depth.disagreement <= rate else None


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
    cost, readout = costs(model, net, injection)
    lines = [
        f"{given.images} noisy images of the test split, sigma {given.sigma:g}, {ROWS} rows on one "
        f"thread: a learned start takes {cost:.2f} and a readout {readout:.2f} times as long as a "
        "cell evaluation.",
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
        for trajectories in found.values():
            classes = trajectories.classes[:, step]
            row += [percent(classes[known] == truth[known]), percent(classes == labels)]
        lines.append(f"| {' | '.join(row)} |")
    lines += [
        "",
        "Least mean cells per vote, the start included, at a largest disagreement:",
        "",
        "| start | rule | " + " | ".join(f"{100 * rate:g}%" for rate in RATES) + " |",
        "| --- | --- |" + " ---: |" * len(RATES),
    ]
    for name, trajectories in found.items():
        begin = cost if name == "learned" else 0.0
        rules = {
            "fixed": ("fixed", readout),
            "residual": ("early", readout),
            "margin": ("margin", readout),
            "margin, readouts not counted": ("margin", 0.0),
        }
        for rule, (kind, price) in rules.items():
            least = [cheapest(trajectories, rate, price, kind) for rate in RATES]
            cells = " | ".join("-" if c is None else f"{c + begin:.2f}" for c in least)
            lines.append(f"| {name} | {rule} | {cells} |")
    text = "\n".join(lines) + "\n"
    print(text)
    if given.out is not None:
        given.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
