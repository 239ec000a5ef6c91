"""Cell and readout beside their multiplications, for the record, and one image of MDEQ-LARGE.

    python benchmarks/cell.py --model mdeq_small_noise25.pth.tar
    python benchmarks/cell.py --model large --batch 20 --certify --form folded --form direct
    python benchmarks/cell.py --model mdeq_small_noise25.pth.tar --tried

A name of an architecture instead of a checkpoint has random weights, which cost what trained ones
do. On a machine with other load a single run says little: everything is repeated, and the lowest
and the highest repetition stand beside the median. `--tried` measures what is no form: bfloat16
compiled, and smaller batches.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict

import click
import numpy as np
import torch

from deqcert import SmoothedClassifier
from deqcert.bench.cell import CellBench, bench_cell
from deqcert.memory import keep_freed_memory, peak_memory
from deqcert.models import ARCHITECTURES, MDEQ, ImplicitModel, load_model
from deqcert.models.forms.base import folded
from deqcert.models.forms.bfloat16 import InBfloat16
from deqcert.models.forms.compiled import Compiled

FORMS = ("eager", "folded", "compiled", "direct", "bfloat16")


@click.command()
@click.option("--model", required=True, help="Checkpoint, or a name of an MDEQ's architecture.")
@click.option("--batch", default=100, show_default=True)
@click.option("--rounds", default=11, show_default=True)
@click.option("--repeats", default=5, show_default=True)
@click.option("--threads", default=1, show_default=True)
@click.option("--certify", is_flag=True, help="Certify one image at n = 1000 instead.")
@click.option(
    "--form",
    "forms",
    multiple=True,
    default=("folded",),
    show_default=True,
    help="For --certify; may be given several times.",
)
@click.option("--tried", is_flag=True, help="Measure what was tried instead.")
def main(
    model: str,
    batch: int,
    rounds: int,
    repeats: int,
    threads: int,
    certify: bool,
    forms: tuple[str, ...],
    tried: bool,
) -> None:
    """Print the tables."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    torch.manual_seed(0)
    loaded = MDEQ(ARCHITECTURES.get(model)) if model in ARCHITECTURES else load_model(model)
    if certify:
        image = torch.rand(*loaded.input_shape).numpy()
        for form in forms:
            one_image(loaded, image, batch, form)
        return
    images = torch.rand(batch, *loaded.input_shape)
    if not tried:
        table(loaded, images, FORMS, rounds, repeats)
        return
    for rows in (batch // 10, batch // 4):
        click.echo(f"{rows} rows")
        table(loaded, images[:rows], ("folded", "bfloat16"), rounds, repeats)
    click.echo(f"compiled over bfloat16, {batch} rows (only ms: its type is not seen)")
    table(Compiled(InBfloat16(folded(loaded, "cpu")), batch), images, ("eager",), rounds, repeats)


def table(
    model: ImplicitModel, images: torch.Tensor, forms: tuple[str, ...], rounds: int, repeats: int
) -> None:
    """Print the median, lowest and highest repetition of each part in each form."""
    runs: list[CellBench] = [
        bench_cell(model, images, forms, rounds=rounds) for _ in range(repeats)
    ]
    found = defaultdict(list)
    for run in runs:
        for timing in run.timings:
            found[timing.form, timing.part].append(timing)
    for name in runs[0].rates:
        for kind in runs[0].rates[name]:
            rates = sorted(run.rates[name][kind] for run in runs)
            click.echo(f"{name}, {kind}: {rates[0]:.0f} to {rates[-1]:.0f} GFLOP/s")
    click.echo("| form | part | MFLOP | ms | times the floor | products alone | by matmul's rate |")
    click.echo("| --- | --- | --- | --- | --- | --- | --- |")
    for (form, part), timings in found.items():
        ms = statistics.median(t.ms for t in timings)
        whole, alone, square = (
            f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"
            for values in (
                [t.multiple for t in timings],
                [t.products_multiple for t in timings],
                [
                    t.ms / t.flops * run.rates[t.dtype]["matmul"]
                    for t, run in zip(timings, runs, strict=True)
                ],
            )
        )
        click.echo(
            f"| `{form}` | {part} | {timings[0].flops:.1f} | {ms:.3f} | {whole} | {alone} "
            f"| {square} |"
        )


def one_image(model: ImplicitModel, image: np.ndarray, batch: int, form: str) -> None:
    """Certify one image in a form and print seconds and peak memory."""
    options = {"sigma": 0.25, "batch": batch, "n": 1000, "depth": 6, "tol": 0.0}
    smooth = SmoothedClassifier(model, form=form, **options)
    began, worked = time.perf_counter(), time.process_time()
    peak = peak_memory(lambda: click.echo(smooth.certify(image)))
    click.echo(
        f"{form}: {time.perf_counter() - began:.1f} s "
        f"({time.process_time() - worked:.1f} s of processor), "
        f"peak {peak / 2**20:.0f} MiB beyond the model"
    )


if __name__ == "__main__":
    main()
