"""What the noise of a vote costs: exact and float, beside the vote itself, all on one thread.

    python benchmarks/noise.py

The checkpoint is in the folder that DEQCERT_GOLDEN names. The vote is the cheapest that
there is, one evaluation of MDEQ-SMALL, injection and readout included; a vote that solves on costs
as many times more. Kernels and votes take turns; processor time of the fastest of the
rounds counts, so that what else the machine does matters little.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import torch

from deqcert import kernels
from deqcert.kernels.native import extension
from deqcert.memory import keep_freed_memory
from deqcert.models import load_model
from deqcert.models.forms import in_form
from deqcert.smoothing import Input, Predictor, SmoothingEngine, Stage, noisy_copies
from deqcert.solvers import StopRule, get_solver

ROOT = Path(__file__).resolve().parent
ROWS = 100
GRIDS = ((255, 0.25), (255, 0.5), (255, 1.0))


@click.command()
@click.option("--rounds", default=20, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=ROOT / "results" / "noise.md")
def main(rounds: int, out: Path) -> None:
    """Write the table."""
    torch.set_num_threads(1)
    keep_freed_memory()
    golden = Path(os.environ.get("DEQCERT_GOLDEN", ROOT.parent / ".." / "shared" / "golden"))
    model = load_model(str(golden / "mdeq_small_noise25.pth.tar"))
    x = torch.randint(0, 256, model.input_shape).float() / 255
    predictor = Predictor(get_solver("anderson"), StopRule(tol=0.0, max_nfe=1))
    formed = in_form(model, "folded", rows=ROWS, device="cpu")
    engine = SmoothingEngine(formed, sigma=0.5, batch=ROWS, levels=255)
    samples = np.arange(ROWS)

    def noise(levels: int | None, sigma: float) -> Callable[[], object]:
        place = {"sigma": sigma, "seed": 0, "index": 0, "stage": 0, "levels": levels}
        return lambda: noisy_copies(x, samples, **place)

    jobs: dict[str, Callable[[], object]] = {
        "vote": lambda: engine.votes(predictor, Input(x, 0), Stage.ESTIMATE, ROWS),
        "float, sigma 0.5": noise(None, 0.5),
        **{f"exact, sigma {sigma:g}": noise(levels, sigma) for levels, sigma in GRIDS},
    }
    sets = list(extension.isas()) if extension is not None else ["torch"]
    best = {(isa, name): float("inf") for isa in sets for name in jobs}
    for _ in range(rounds):
        for isa in sets:
            if extension is not None:
                extension.select_isa(isa)
            for name, job in jobs.items():
                if name == "vote" and isa != sets[0]:
                    continue
                began = time.process_time()
                job()
                best[isa, name] = min(best[isa, name], (time.process_time() - began) / ROWS)
    vote = best[sets[0], "vote"]
    lines = [
        "# What noise costs",
        "",
        f"`python benchmarks/noise.py`, MDEQ-SMALL (3072 values an input), one thread of "
        f"{platform.machine()}, torch {torch.__version__}, kernels: {kernels.status().path}; "
        f"processor time of the fastest of {rounds} rounds of {ROWS} copies.",
        "",
        f"The cheapest vote, one evaluation with exact noise: {1e6 * vote:.0f} microseconds.",
        "",
        "| noise | instruction set | microseconds per copy | share of that vote |",
        "| --- | --- | --- | --- |",
        *(
            f"| {name} | {isa} | {1e6 * found:.1f} | {100 * found / vote:.2f}% |"
            for (isa, name), found in best.items()
            if name != "vote"
        ),
    ]
    out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    click.echo("\n".join(lines))


if __name__ == "__main__":
    main()
