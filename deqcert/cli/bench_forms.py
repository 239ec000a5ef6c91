"""``deqcert bench forms``: which form of a model is the fastest here, kept for later runs."""

from __future__ import annotations

import dataclasses
import sys

import click


@click.command(short_help="Time of a model in each of its forms; the fastest is kept for --form.")
@click.option(
    "--model",
    default="digits",
    show_default=True,
    metavar="NAME|FILE",
    help="Checkpoint of the MDEQ-Vision family, or digits: the one that is shipped.",
)
@click.option(
    "--config",
    metavar="FILE",
    help="The checkpoint's YAML configuration; default: the .yaml beside it.",
)
@click.option(
    "--batch",
    type=int,
    default=100,
    show_default=True,
    metavar="B",
    help="Rows of an evaluation: the --shape (or else the --batch) that you will certify with.",
)
@click.option("--threads", type=int, metavar="T", help="CPU threads; default: torch's own.")
@click.option("--device", default="cpu", show_default=True, help="Where to run: cpu or cuda.")
@click.option(
    "--evaluations",
    type=int,
    default=6,
    show_default=True,
    metavar="E",
    help="Cell evaluations that are assumed for a vote.",
)
@click.option(
    "--rounds",
    type=int,
    default=7,
    show_default=True,
    metavar="R",
    help="How often everything is run; the fastest counts.",
)
@click.option("--json", "as_json", is_flag=True, help="Print for machines.")
def command(
    model: str,
    config: str | None,
    batch: int,
    threads: int | None,
    device: str,
    evaluations: int,
    rounds: int,
    as_json: bool,
) -> None:
    """Measure a model in every form that it has.

    The fastest in float32 is kept in the user's cache, for this model, batch, number of threads,
    device, processor and release of torch; `--form auto` finds it there. Where no form is faster
    than eager by more than noise, that is eager.
    """
    import torch

    from deqcert import compose, form_cache
    from deqcert.bench.forms import bench_forms
    from deqcert.errors import ConfigError
    from deqcert.models import load_model

    if batch < 1:
        raise ConfigError(f"batch is {batch}, but it must be a whole number from 1")
    used = compose.prepare_process(threads)
    loaded = load_model(model, config)
    images = torch.rand(batch, *loaded.input_shape, generator=torch.Generator().manual_seed(0))
    result = bench_forms(
        loaded, images, rounds=rounds, evaluations=evaluations, device=device, tell=_tell
    )
    print(result.json() if as_json else result.text())
    key = form_cache.describe(dataclasses.asdict(loaded.config), batch, used, device)
    kept = form_cache.remember(key, result.choice)
    where = f"in {form_cache.cache_file()}" if kept else "nowhere: the cache cannot be written"
    print(f"deqcert: note: choice {result.choice}, kept {where}", file=sys.stderr)


def _tell(form: str) -> None:
    print(f"{form}: being made ...", file=sys.stderr, flush=True)
