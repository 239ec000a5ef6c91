"""``deqcert conformal calibrate``: evidence for the true classes of held-out images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from deqcert.api import SmoothedClassifier
from deqcert.cli.fields import FILLED
from deqcert.cli.options import quiet_option, say, settings_options
from deqcert.conformal.registry import SET_METHODS
from deqcert.errors import ConfigError
from deqcert.options import split_pairs

UNUSED = ("method", "n0", "n", "alpha", "alpha_total", "audit", "goal", "agreement")
"""Settings of certificates that sets have no use for."""


@click.command(short_help="Calibrate prediction sets on images that the model has not seen.")
@settings_options(skip=(*UNUSED, "method_options"), data=":")
@click.option(
    "--method",
    type=FILLED,
    metavar=f"[{'|'.join(SET_METHODS)}]",
    help="How sets are made; default: one-draw, one solve an image.",
)
@click.option(
    "--method-option",
    "options",
    multiple=True,
    metavar="KEY=VALUE",
    help="An option of the method, such as score=margin (or softmax, aps), or for binarised n=200; "
    "may be repeated.",
)
@click.option(
    "--votes",
    type=FILLED,
    metavar="RUN",
    help="Instead of solving, take the votes of a finished run of deqcert certify, for method "
    "binarised; --images are then places in the run.",
)
@click.option(
    "--out",
    type=FILLED,
    metavar="DIR",
    help="Folder of the calibration; default: runs/MODEL-METHOD-calibration.",
)
@quiet_option("where the calibration is")
def command(
    data: str,
    split: str,
    images: str,
    method: str | None,
    options: tuple[str, ...],
    votes: str | None,
    out: str | None,
    quiet: bool,
    **settings: Any,
) -> None:
    """Look at held-out images with their labels, and keep how well they conform.

    The images must be like those that sets will be asked for, and the model must have learned
    nothing from them. Alpha and radius are chosen when sets are made: one calibration serves all.
    The same command given again continues a calibration that was stopped.
    """
    from deqcert.conformal import SetPredictor
    from deqcert.conformal.calibrate import calibrate_votes
    from deqcert.progress import Ticks

    given = split_pairs("--method-option", options, "score=margin")
    if votes is not None:
        if method not in (None, "binarised") or given:
            raise ConfigError(
                "votes make sets of method binarised with no options; leave --method and "
                "--method-option out"
            )
        from deqcert.conformal.votes import read_votes

        context = click.get_current_context()
        asked = context.get_parameter_source("data") is ParameterSource.COMMANDLINE
        run = read_votes(votes)
        folder = Path(out or f"{Path(votes)}-calibration")
        _conclude(calibrate_votes(run, data if asked else None, images, folder), folder)
        return
    smooth, chosen = SmoothedClassifier(**settings), method or "one-draw"
    folder = Path(out or f"runs/{Path(str(smooth.model)).name}-{chosen}-calibration")
    made = SetPredictor.calibrate(
        smooth,
        data,
        split=split,
        images=images,
        method=chosen,
        options=given,
        out=folder,
        told=Ticks(quiet),
        note=say,
    )
    _conclude(made.calibration, folder)


def _conclude(calibration: Any, folder: Path) -> None:
    facts = ", ".join(f"{k} {v}" for k, v in calibration.method.parameters().items())
    print(f"calibrated on {len(calibration)} images: {facts}")
    print(f"calibration: {folder}")
