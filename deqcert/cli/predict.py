"""``deqcert predict``: the smoothed classifier's class for images, or none."""

from __future__ import annotations

import json

import click

from deqcert.cli.options import (
    Solving,
    Source,
    solving_options,
    source_options,
)


@click.command(short_help="The smoothed classifier's class for images, or an abstention.")
@source_options(images="0:10")
@click.option("--n", type=int, default=1000, show_default=True, help="Noisy copies an image.")
@click.option(
    "--alpha",
    type=float,
    default=0.001,
    show_default=True,
    help="Probability that an answer may differ from the smoothed classifier's.",
)
@solving_options()
@click.option("--json", "as_json", is_flag=True, help="Print for machines.")
def command(source: Source, solving: Solving, n: int, alpha: float, as_json: bool) -> None:
    """Classify images with the smoothed classifier, or abstain.

    One line an image: index, label, class (-1 for an abstention) and the class's name. Solves
    start cold, since the test needs independent samples.
    """
    from deqcert.certifiers import predict
    from deqcert.cli import build

    predictor = build.make_cold(solving)
    subject = build.load(source)
    engine = build.make_engine(source, subject.model)
    names = subject.dataset.classes
    if not as_json:
        print("idx\tlabel\tpredict\tname")
    for image in subject.images:
        x, label = subject.dataset.image(image), subject.dataset.label(image)
        found = predict(engine, predictor, Input(x, image), n=n, alpha=alpha)
        name = "abstain" if found is None else names[found] if found < len(names) else str(found)
        if as_json:
            answer = {"idx": image, "label": label, "predict": found, "name": name}
            print(json.dumps(answer), flush=True)
        else:
            print(f"{image}\t{label}\t{-1 if found is None else found}\t{name}", flush=True)
