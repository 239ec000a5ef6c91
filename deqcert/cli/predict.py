"""``deqcert predict``: the smoothed classifier's class for images, or none."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from deqcert.api import SmoothedClassifier
from deqcert.cli.fields import options_from
from deqcert.cli.options import json_option, say, settings_options
from deqcert.errors import ConfigError
from deqcert.options import number

if TYPE_CHECKING:
    from deqcert.smoothing import Silence

UNUSED = ("method", "n0", "n", "alpha_total", "audit", "goal", "agreement", "method_options")
"""Settings of certificates that a prediction has no use for."""


@dataclass(frozen=True, kw_only=True)
class Copies:
    """How many votes a prediction has.

    Args:
        n: Noisy copies of each image.
    """

    n: int = number(1000, low=1, metavar="N")


@click.command(short_help="The smoothed classifier's class for images, or an abstention.")
@click.argument("files", metavar="[FILE]...", nargs=-1, type=click.Path())
@settings_options(skip=UNUSED, data="0:10")
@options_from(Copies)
@json_option
def command(
    files: tuple[str, ...],
    data: str,
    split: str,
    images: str,
    n: int,
    as_json: bool,
    **settings: Any,
) -> None:
    """Classify images with the smoothed classifier, or abstain.

    Images are those of a data set, or FILEs of the model's size: PNG, JPEG and the like, or .npy
    (uint8, or floats in [0, 1]). One line per image: index, label, class (-1 for an abstention) and
    the class's name; for a FILE its name and the class. The start must be independent of other
    samples: cold or learned.
    """
    from deqcert.smoothing import Silence

    smooth, silence = SmoothedClassifier(**settings), Silence()
    if files:
        _refuse_data(click.get_current_context())
        if (levels := _levels(files)) is not None:
            smooth = smooth.on_grid(levels)
        smooth.engine.callbacks.append(silence)
        _predict_files(smooth, files, n, as_json)
        _conclude(smooth, silence)
        return
    dataset, indices = smooth.dataset(data, split=split, images=images)
    names, smooth = dataset.classes, smooth.on_grid(dataset.levels)
    smooth.engine.callbacks.append(silence)
    for place, index in enumerate(indices):
        label, found = dataset.label(index), smooth.predict(dataset.image(index), index, n=n)
        assert not isinstance(found, list)
        name = "abstain" if found is None else names[found] if found < len(names) else str(found)
        if as_json:
            answer = {"idx": index, "label": label, "predict": found, "name": name}
            print(json.dumps(answer), flush=True)
            continue
        if place == 0:  # not before the first answer: a refusal is all there is to say
            print("idx\tlabel\tpredict\tname")
        print(f"{index}\t{label}\t{-1 if found is None else found}\t{name}", flush=True)
    _conclude(smooth, silence)


def _conclude(smooth: SmoothedClassifier, silence: Silence) -> None:
    """Say what a reader of the answers should know."""
    if not smooth.predictor.converged:
        say(f"the answers are those of {smooth.predictor.about()}, smoothed")
    say(silence.note())


def _refuse_data(context: click.Context) -> None:
    for name in ("data", "split", "images"):
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise ConfigError(f"--{name} chooses images of a data set; leave it or the files out")


def _levels(files: Sequence[str]) -> int | None:
    """Return the steps of the grid that all the files lie on; None where one may lie on none."""
    from deqcert.data import image_levels

    found = {image_levels(file) for file in files}
    return found.pop() if len(found) == 1 else None


def _predict_files(smooth: SmoothedClassifier, files: Sequence[str], n: int, as_json: bool) -> None:
    from deqcert.data import read_image

    model: Any = smooth.engine.raw
    shape: tuple[int, ...] = model.input_shape
    for file in files:  # before the first solve
        read_image(file, shape)
    for place, file in enumerate(files):
        found = smooth.predict(read_image(file, shape), place, n=n)
        if as_json:
            print(json.dumps({"file": file, "predict": found}), flush=True)
            continue
        if place == 0:
            print("file\tpredict")
        print(f"{_printable(file)}\t{-1 if found is None else found}", flush=True)


def _printable(name: str) -> str:
    """Write a name so that it is one field of one line, in any encoding."""
    name = name.translate({ord(c): repr(c)[1:-1] for c in "\t\n\r"})
    encoding = sys.stdout.encoding or "utf-8"
    return name.encode(encoding, "backslashreplace").decode(encoding)
