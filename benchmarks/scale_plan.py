"""What large runs cost on many workers, by the processor time of a vote measured here.

    python benchmarks/scale_plan.py --rows 4

One thread evaluates models with random weights of the public sizes: injection, cell and readout of
a row, in processor time (the smallest of some rounds), because a machine that is shared says little
in wall time. A vote is taken as one injection, one readout and as many cells as the method makes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from deqcert.compose import prepare_process
from deqcert.models import ARCHITECTURES, MDEQ, in_form

RUNS = {
    "10000 CIFAR-10 images, n = 100000": ("small", 10000 * 100100),
    "50000 ImageNet images, n = 100000": ("imagenet-small", 50000 * 100100),
}
CELLS = {"to 1e-3, cold": 12.1, "learned start, one cell": 1.33}
"""Mean evaluations per vote: benchmarks/results/certify_cifar10_8003.md and faithful.md."""

WORKERS = (1, 10, 100, 1000)


def least(run: Callable[[], object], rounds: int) -> float:
    """Return the smallest processor time of some calls, in seconds."""
    times = []
    for _ in range(rounds + 1):
        began = time.process_time()
        run()
        times.append(time.process_time() - began)
    return min(times[1:])


def costs(name: str, rows: int, rounds: int) -> tuple[float, float]:
    """Return what injection and readout cost together, and a cell; in milliseconds a row."""
    model = MDEQ(ARCHITECTURES.get(name)).eval()
    formed = in_form(model, "folded", rows=rows)
    with torch.no_grad():
        x = torch.rand(rows, *model.input_shape)
        injection = formed.inject(x)
        z = formed.initial_state(injection)
        once = least(lambda: (formed.inject(x), formed.readout(z)), rounds)
        cell = least(lambda: formed.cell(z, injection), rounds)
    return 1000 * once / rows, 1000 * cell / rows


def main() -> None:
    """Print the costs of a row and the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    prepare_process(1)
    torch.manual_seed(0)
    for title, (name, votes) in RUNS.items():
        once, cell = costs(name, given.rows, given.rounds)
        print(f"\n{title} ({name}): cell {cell:.2f} ms a row, injection and readout {once:.2f} ms")
        print("| solve | ms a vote | core hours | " + " | ".join(f"{w} workers" for w in WORKERS))
        for solve, cells in CELLS.items():
            each = once + cells * cell
            hours = each * votes / 3.6e6
            spread = " | ".join(
                f"{hours / w:.1f} h" if hours / w < 72 else f"{hours / w / 24:.0f} days"
                for w in WORKERS
            )
            print(f"| {solve} | {each:.1f} | {hours:.0f} | {spread} |")


if __name__ == "__main__":
    main()
