"""``deqcert predict``: the smoothed classifier's class for images, or none."""

from __future__ import annotations

import json
from typing import Any

import click

from deqcert.api import SmoothedClassifier
from deqcert.cli.options import json_option, settings_options

UNUSED = ("method", "n0", "n", "audit", "goal", "method_options")
"""Settings of certificates that a prediction has no use for."""


@click.command(short_help="The smoothed classifier's class for images, or an abstention.")
@settings_options(skip=UNUSED, data="0:10")
@click.option("--n", type=int, default=1000, show_default=True, help="Noisy copies of each image.")
@json_option
def command(data: str, split: str, images: str, n: int, as_json: bool, **settings: Any) -> None:
    """Classify images with the smoothed classifier, or abstain.

    One line per image: index, label, class (-1 for an abstention) and the class's name. The start
    must be independent of other samples: cold or learned.
    """
    smooth = SmoothedClassifier(**settings)
    dataset, indices = smooth.dataset(data, split=split, images=images)
    names = dataset.classes
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
