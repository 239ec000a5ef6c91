"""``deqcert evaluate``: what models are worth, from many sides, in one folder and one page."""

from __future__ import annotations

import sys
from typing import Any

import click

from deqcert.api import SmoothedClassifier
from deqcert.attacking import parse_attack
from deqcert.attacks import ATTACKS
from deqcert.cli.fields import FILLED, options_from
from deqcert.cli.options import quiet_option, say, settings_options
from deqcert.errors import ConfigError
from deqcert.evaluation.config import Evaluating
from deqcert.evaluation.parts import PARTS, parse_parts
from deqcert.settings import Spreading


@click.command(short_help="What models are worth, from many sides: one folder, one page.")
@click.argument("models", nargs=-1, metavar="[NAME=]MODEL...")
@click.option(
    "--parts",
    metavar="PART,PART,...",
    help=f"What is measured: {', '.join(PARTS.names())}; default: all of them, ood with --ood.",
)
@click.option(
    "--ood",
    multiple=True,
    type=FILLED,
    metavar="SPEC",
    help="Images of another kind, which the models should notice; may be repeated. They are "
    "brought into the models' shape.",
)
@click.option(
    "--run",
    "runs",
    multiple=True,
    type=FILLED,
    metavar="RUN",
    help="A finished run of deqcert certify of one of the models, in place of certifying; may be "
    "repeated.",
)
@click.option(
    "--attack",
    "attacks",
    multiple=True,
    metavar="NAME[:KEY=VALUE,...]",
    help=f"{', '.join(ATTACKS.names())}; may be repeated; default: a few short ones that fit.",
)
@options_from(Evaluating)
@options_from(Spreading)
@settings_options(data=":", model=False)
@click.option("--out", type=FILLED, metavar="DIR", help="The folder; default: runs/evaluation.")
@quiet_option()
def command(
    models: tuple[str, ...],
    parts: str | None,
    ood: tuple[str, ...],
    runs: tuple[str, ...],
    attacks: tuple[str, ...],
    data: str,
    split: str,
    images: str,
    out: str | None,
    workers: int | None,
    ray: str | None,
    quiet: bool,
    model_config: str | None,
    **given: Any,
) -> None:
    """Measure what models are worth: proven, attacked, in bad light, in doubt, and what they cost.

    MODEL is what --model of deqcert certify takes; several stand side by side. All that is found
    goes into DIR/evaluation.json and a page, DIR/page.html, that needs nothing else. A part that
    cannot be measured is named there and costs no other. The same command given again does what is
    not done.
    """
    from deqcert.evaluation.run import evaluate, name_models
    from deqcert.report.evaluation import text

    if not models:
        raise ConfigError("no model is given; name at least one, such as digits or a checkpoint")
    named = name_models(models)
    if model_config is not None and len(named) > 1:
        raise ConfigError(
            "--model-config is for one model; put each configuration beside its checkpoint"
        )
    asked = Evaluating(**{name: given.pop(name) for name in Evaluating.__dataclass_fields__})
    wanted = None if parts is None else parse_parts(parts)
    done = evaluate(
        {
            name: SmoothedClassifier(model=model, model_config=model_config, **given)
            for name, model in named.items()
        },
        data,
        split=split,
        images=images,
        parts=wanted,
        asked=asked,
        ood=ood,
        runs=runs,
        attacks=[parse_attack(text) for text in attacks],
        out=out or "runs/evaluation",
        given=models,
        spread=Spreading(workers=workers, ray=ray),
        tell=(lambda line: None) if quiet else _tell,
        note=say,
    )
    print(text(done.found))
    for alarm in done.alarms:
        print(alarm)
    print(f"folder: {done.folder}\npage: {done.page}")
    if done.alarms:
        raise click.exceptions.Exit(1)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
