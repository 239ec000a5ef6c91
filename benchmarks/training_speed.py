"""Time of one training step of an MDEQ, and the memory it takes: torchdeq and deqcert.

    python benchmarks/training_speed.py

A step is forward, loss, backward, clipping and AdamW, on the same noisy images and dropout masks,
from the same weights, with Anderson acceleration forward and backward to the same relative
tolerance with the same most iterations. Contestants take turns, step by step; each measures its
memory in a process of its own. The weights are MDEQ-SMALL's: those of --model, or fresh ones.

- torchdeq: `torchdeq.get_deq(ift=True)`, its implicit differentiation by an autograd function.
- torchdeq hook: `hook_ift=True`, by a hook, with one evaluation and its graph less.
- deqcert: what `deqcert train` does in a step.
"""

from __future__ import annotations

import copy
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import torch
import torch.nn.functional as F
import torchdeq
from torch import Tensor

from deqcert.memory import keep_freed_memory, peak_memory
from deqcert.models import ARCHITECTURES, MDEQ, load_model
from deqcert.training import TrainConfig
from deqcert.training.passes import Passes

ROOT = Path(__file__).resolve().parent
WINDOW = 5
IMAGES = 50_000

Forward = Callable[[Tensor], Tensor]


def by_torchdeq(
    model: MDEQ, config: TrainConfig, generator: torch.Generator, hook: bool
) -> Forward:
    """The step as a user of torchdeq writes it."""
    deq = torchdeq.get_deq(
        ift=not hook, hook_ift=hook,
        f_solver="anderson", f_max_iter=config.max_nfe, f_tol=config.tol, f_stop_mode="rel",
        b_solver="anderson", b_max_iter=config.backward_nfe, b_tol=config.tol, b_stop_mode="rel",
    ).train()  # fmt: skip

    def forward(x: Tensor) -> Tensor:
        injection = model.inject(x)
        masks = model.draw_masks(len(x), generator)
        z0 = model.initial_state(injection)
        (z,), _ = deq(lambda z: model.cell(z, injection, masks), z0, solver_kwargs={"m": WINDOW})
        return model.readout(z)

    return forward


def contestant(name: str, model: MDEQ, config: TrainConfig) -> Callable[[Tensor, Tensor], float]:
    """A step of one contestant, on its own copy of the model."""
    model = copy.deepcopy(model).train()
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr)
    if name == "deqcert":
        forward: Forward = Passes(model, config, generator)
    else:
        forward = by_torchdeq(model, config, generator, hook=name.endswith("hook"))

    def step(x: Tensor, y: Tensor) -> float:
        loss = F.cross_entropy(forward(x), y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimizer.step()
        return loss.item()

    return step


NAMES = ("torchdeq", "torchdeq hook", "deqcert")


@click.command()
@click.option(
    "--model", default=None, help="Checkpoint of an MDEQ for 32x32; default: fresh weights."
)
@click.option("--batch", default=32)
@click.option("--steps", default=6, help="Steps of each contestant.")
@click.option("--max-nfe", default=16)
@click.option("--backward-nfe", default=12)
@click.option("--tol", default=1e-3)
@click.option("--threads", default=1)
@click.option("--only", default=None, help="Measure the memory of this contestant alone.")
@click.option("--out", default=str(ROOT / "results" / "training_speed.md"))
def main(
    model: str | None,
    batch: int,
    steps: int,
    max_nfe: int,
    backward_nfe: int,
    tol: float,
    threads: int,
    only: str | None,
    out: str,
) -> None:
    keep_freed_memory()
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    net = ARCHITECTURES.get("small").build() if model is None else load_model(model)
    config = TrainConfig(
        out=Path("."), max_nfe=max_nfe, backward_nfe=backward_nfe, tol=tol, lr=1e-4, batch=batch
    )
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(batch, 3, 32, 32, generator=generator)
    x = x + 0.25 * torch.randn(x.shape, generator=generator)
    y = torch.randint(0, 10, (batch,), generator=generator)
    if only:
        step = contestant(only, net, config)
        print(peak_memory(lambda: [step(x, y) for _ in range(2)]) / 2**20)
        return
    runners = {name: contestant(name, net, config) for name in NAMES}
    seconds: dict[str, list[float]] = {name: [] for name in NAMES}
    losses: dict[str, list[float]] = {name: [] for name in NAMES}
    for turn in range(steps + 1):
        for name in NAMES[turn % 3 :] + NAMES[: turn % 3]:
            began = time.perf_counter()
            losses[name].append(runners[name](x, y))
            if turn:  # the first is warm-up
                seconds[name].append(time.perf_counter() - began)
    memory = {name: measured_alone(name) for name in NAMES}
    settings = (
        f"{'fresh' if model is None else 'trained'} weights, batch {batch}, at most {max_nfe} "
        f"evaluations forward and {backward_nfe} backward, to {tol:g}"
    )
    report(out, settings, seconds, losses, memory, batch)


def measured_alone(name: str) -> float:
    command = [sys.executable, *sys.argv, "--only", name]
    return float(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


def _plain(word: str) -> str:
    return Path(word).name if word.endswith((".tar", ".pth")) else word


def report(
    out: str,
    settings: str,
    seconds: dict[str, list[float]],
    losses: dict[str, list[float]],
    memory: dict[str, float],
    batch: int,
) -> None:
    """Print a table, and add it to the file."""
    first = statistics.median(seconds[NAMES[0]])
    apart = max(
        abs(a - b) for name in NAMES for a, b in zip(losses[name], losses[NAMES[0]], strict=True)
    )
    lines = [
        f"## {settings}",
        "",
        f"{platform.machine()}, torch {torch.__version__}, torchdeq 0.1.0, "
        f"{torch.get_num_threads()} thread(s), {len(seconds[NAMES[0]])} interleaved rounds; losses "
        f"of the same step differ by at most {apart:.1e}. Command:",
        "",
        f"    python {' '.join(['benchmarks/training_speed.py', *map(_plain, sys.argv[1:])])}",
        "",
        "| | s/step, median | fastest | min/epoch of 50000 | times faster | peak memory, MiB |",
        "|---|---|---|---|---|---|",
    ]
    for name, times in seconds.items():
        middle = statistics.median(times)
        lines.append(
            f"| {name} | {middle:.3f} | {min(times):.3f} | {middle * IMAGES / batch / 60:.1f} | "
            f"{first / middle:.2f} | {memory[name]:.0f} |"
        )
    print("\n".join(lines))
    with Path(out).open("a", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n\n")


if __name__ == "__main__":
    main()
