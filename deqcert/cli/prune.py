"""``deqcert prune``: a model with fewer weights or channels."""

from __future__ import annotations

import json
from typing import Any

import click

from deqcert.changes.config import PruneConfig
from deqcert.cli.fields import options_from
from deqcert.cli.options import quiet_option


@click.command(short_help="Take the least weights or channels out of a model.")
@options_from(PruneConfig)
@quiet_option("the checkpoint's path")
def command(quiet: bool, **given: Any) -> None:
    """Set the smallest weights of a model to zero, or take whole channels out of it.

    What comes out is another model, with a hash and certificates of its own, and a record beside it
    that names its parent. A short training gives back most of the accuracy: train --init FILE
    --pretrain 0, with --keep-zeros where weights were set to zero.
    """
    from deqcert.changes import prune

    path = prune(PruneConfig(**given))
    if not quiet:
        _tell(json.loads(path.with_suffix(".json").read_text(encoding="utf-8")))
    print(f"checkpoint: {path}")


def _tell(record: dict[str, Any]) -> None:
    width = max(len(layer["name"]) for layer in record["layers"])
    for layer in record["layers"]:
        share = 100.0 * layer["pruned"] / layer["of"]
        print(f"{layer['name']:{width}}  {layer['pruned']:>8} of {layer['of']:<8} {share:5.1f}%")
    weights = record["weights"]
    print(
        f"{record['how']}: {100.0 * record['sparsity']:.1f}% of the {record['unit']}; "
        f"{weights['left']} of {weights['before']} weights are left"
    )
