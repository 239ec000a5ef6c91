"""``deqcert bench forms``: which form of a model is the fastest here, kept for later runs."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass

import click

from deqcert.cli.fields import FILLED, options_from, renamed
from deqcert.cli.options import json_option, model_options
from deqcert.options import number
from deqcert.settings import Machine


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How forms are timed.

    Args:
        batch: Rows of an evaluation: the shape (or else the batch) that you will certify with.
        evaluations: Cell evaluations that are assumed for a vote.
        rounds: How often everything is run; the fastest counts.
    """

    batch: int = number(100, low=1, metavar="B")
    evaluations: int = number(6, low=1, metavar="E")
    rounds: int = number(7, low=1, metavar="R")


@click.command(short_help="Time of a model in each of its forms; the fastest is kept for --form.")
@model_options
@renamed("config", "model_config", FILLED)
@options_from(Timing)
@options_from(Machine, only=("device", "threads"))
@json_option
def command(
    model: str,
    model_config: str | None,
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
    from deqcert.models import load_model

    used = compose.prepare_process(threads)
    loaded = load_model(model, model_config)
    images = torch.rand(batch, *loaded.input_shape, generator=torch.Generator().manual_seed(0))
    result = bench_forms(
        loaded, images, rounds=rounds, evaluations=evaluations, device=device, tell=tell_form
    )
    print(result.json() if as_json else result.text())
    key = form_cache.describe(dataclasses.asdict(loaded.config), batch, used, device)
    kept = form_cache.remember(key, result.choice)
    where = f"in {form_cache.cache_file()}" if kept else "nowhere: the cache cannot be written"
    print(f"deqcert: note: choice {result.choice}, kept {where}", file=sys.stderr)


def tell_form(form: str) -> None:
    """Say which form comes next."""
    print(f"{form}: being made ...", file=sys.stderr, flush=True)
