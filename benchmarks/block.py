"""A residual block in its kernel beside torch, and torch's convolutions of MDEQ-SMALL by shape.

    python benchmarks/block.py

One thread, processor time, the median of interleaved rounds. The floor is what the multiplications
take at the rate of a wide 3x3 convolution in the same run.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial

import click
import torch
import torch.nn.functional as F

from deqcert import kernels
from deqcert.bench.cell import WIDE
from deqcert.memory import keep_freed_memory

# Channels in and out, side of the map, side of the kernel.
SHAPES = [
    (8, 40, 32, 3),
    (40, 8, 32, 3),
    (16, 80, 16, 3),
    (80, 16, 16, 3),
    (32, 160, 8, 3),
    (160, 32, 8, 3),
    (8, 8, 32, 1),
]
BLOCKS = [(8, 32), (16, 16), (32, 8)]


@click.command()
@click.option("--rows", default=100, show_default=True)
@click.option("--rounds", default=11, show_default=True)
def main(rows: int, rounds: int) -> None:
    """Print the tables."""
    torch.set_num_threads(1)
    keep_freed_memory()
    torch.manual_seed(0)
    # Of each: what is run, and its operations.
    runs: dict[str, tuple[Callable[[], object], float]] = {}
    batch, channels, height, width = WIDE
    wide = torch.rand(WIDE), torch.rand(channels, channels, 3, 3)
    flops = 2 * batch * (height - 2) * (width - 2) * channels**2 * 9
    runs["wide"] = partial(F.conv2d, *wide), flops
    for entering, out, side, k in SHAPES:
        x, weight = torch.rand(rows, entering, side, side), torch.rand(out, entering, k, k)
        run = partial(F.conv2d, x, weight, padding=k // 2)
        runs[f"{entering} to {out}, {side}x{side}, kernel {k}"] = run, _flops(x, out, k)
    for c, side in BLOCKS:
        weights = kernels.BlockWeights(
            first=torch.randn(5 * c, c, 3, 3) / (9 * c) ** 0.5,
            second=torch.randn(c, 5 * c, 3, 3) / (45 * c) ** 0.5,
            scales=(torch.ones(5 * c), torch.ones(c), torch.ones(c)),
            shifts=(torch.zeros(5 * c), torch.zeros(c), torch.zeros(c)),
            groups=8,
            eps=(1e-5, 1e-5, 1e-5),
        )
        x = torch.randn(rows, c, side, side)
        for name, function in (
            ("kernel", kernels.residual_block),
            ("torch", kernels.residual_block.reference),
        ):
            run = partial(function, x, x, weights)
            runs[f"block of {c}, {side}x{side}, {name}"] = run, 2 * _flops(x, 5 * c, 3)
    spent: dict[str, list[float]] = {name: [] for name in runs}
    with torch.no_grad():
        for _ in range(rounds + 1):
            for name, (run, _) in runs.items():
                began = time.process_time()
                run()
                spent[name].append(time.process_time() - began)
    seconds = {name: statistics.median(times[1:]) for name, times in spent.items()}
    rate = runs["wide"][1] / seconds["wide"]
    click.echo("| | ms per row | GFLOP/s | times the floor |\n| --- | --- | --- | --- |")
    for name, (_, flops) in runs.items():
        each = 1e3 * seconds[name] / (batch if name == "wide" else rows)
        click.echo(
            f"| {name} | {each:.3f} | {1e-9 * flops / seconds[name]:.0f} "
            f"| {rate * seconds[name] / flops:.2f} |"
        )


def _flops(x: torch.Tensor, out: int, kernel: int) -> float:
    return 2.0 * x.numel() * out * kernel**2


if __name__ == "__main__":
    main()
