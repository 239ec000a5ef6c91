"""Proofs held against attacks: certified points of a model, attacked inside their radii.

    python benchmarks/attacks_proofs.py --data mnist:DIR --model FILE --method lipschitz

For each model and method: how many of the images have a certified radius, how many of these any
attack breaks (the exact equilibrium is proven to have another class inside), how near the attacks
come (the largest lead of another class as a share of the certified class's own, -1: nothing moved,
0: a break; and the smallest distance of another class over the certified radius), and how many of
the same radii an attack breaks when they are doubled: a proof that is twice too large would be
noticed by so much. l2 radii and l-infinity radii stand in tables of their own.
"""

from __future__ import annotations

import dataclasses
import platform
import time
from collections.abc import Sequence

import click
import numpy as np
import torch

from deqcert.api import parse_images
from deqcert.attacking import parse_attack
from deqcert.attacks import Attack
from deqcert.attacks.evaluation import CertifiedImage, Group, Outcome, ProvenEvaluation
from deqcert.certifiers import CERTIFIERS, get_certifier
from deqcert.data import Dataset, load_dataset
from deqcert.memory import keep_freed_memory
from deqcert.models import load_model
from deqcert.options import options_of, parse_pairs
from deqcert.smoothing import Input

ATTACKS = ("pgd-implicit:steps=10", "apgd-implicit:steps=20", "ddn:steps=20", "random:steps=20")
HEAD = (
    "model",
    "method",
    "images",
    "certified",
    "mean radius",
    "broken",
    "lead",
    "nearest / radius",
    "broken at twice the radius",
    "seconds",
)


def certify(model, method: str, data: Dataset, indices: range) -> list[CertifiedImage]:
    """Certify images by a method, given with options as in ``zonotope:branches=0``."""
    name, _, pairs = method.partition(":")
    known = options_of(CERTIFIERS.get(name))
    options = parse_pairs("method option", pairs.split(",") if pairs else [], known)
    certifier = get_certifier(name, **options)
    certifier.check(model)
    found = [certifier.certify(model, Input(data.image(i), i)) for i in indices]
    return [
        CertifiedImage(i, one.prediction, one.radius) for i, one in zip(indices, found, strict=True)
    ]


def attack(
    model, attacks: Sequence[Attack], images: Sequence[CertifiedImage], data: Dataset, norm: str
) -> list[Outcome]:
    """Attack every image inside its radius and beyond."""
    evaluation = ProvenEvaluation.of_run(model, attacks, images, norm=norm, rows=4096)
    size = evaluation.together
    return [
        outcome
        for first in range(0, len(images), size)
        for outcome in evaluation.outcomes(Group.of(images[first : first + size], data))
    ]


def numbers(outcomes: Sequence[Outcome], kind: str) -> np.ndarray:
    """Return what the attacks found, shape (images, attacks)."""
    return np.array(
        [
            [value for key, value in one.numbers.items() if key.startswith(f"{kind}:")]
            for one in outcomes
        ]
    )


@click.command(help=__doc__.split("\n", 1)[0])
@click.option("--data", required=True)
@click.option("--images", default="0:2100", show_default=True)
@click.option("--model", "models", multiple=True, required=True)
@click.option("--method", "methods", multiple=True, required=True)
@click.option("--attack", "attacks", multiple=True, default=ATTACKS, show_default=True)
def main(
    data: str,
    images: str,
    models: tuple[str, ...],
    methods: tuple[str, ...],
    attacks: tuple[str, ...],
) -> None:
    """Measure, and print a table in Markdown per norm."""
    found = load_dataset(data, "test")
    indices = parse_images(images, len(found))
    print(f"{platform.machine()}, one thread; {data.partition(':')[0]}, test images {images}")
    norms = {method: CERTIFIERS.get(method.partition(":")[0]).norm for method in methods}
    for norm in dict.fromkeys(norms.values()):
        known = [one for one in map(parse_attack, attacks) if norm in one.norms]
        print(f"\n{norm} radii; attacks: {', '.join(one.describe() for one in known)}\n")
        print("| " + " | ".join(HEAD) + " |\n" + "|---" * len(HEAD) + "|", flush=True)
        for file in models:
            model = load_model(file)
            for method in (name for name, measured in norms.items() if measured == norm):
                began = time.perf_counter()
                made = certify(model, method, found, indices)
                proven = [image for image in made if image.radius > 0.0]
                outcomes = attack(model, known, proven, found, norm)
                twice = [dataclasses.replace(one, radius=2.0 * one.radius) for one in proven]
                planted = attack(model, known[:1], twice, found, norm)
                radius = np.array([image.radius for image in proven])
                nearest = numbers(outcomes, "norm").min(axis=1) / radius
                cells = [
                    file.rpartition("/")[2],
                    method,
                    str(len(made)),
                    str(len(proven)),
                    f"{radius.mean():.4f}",
                    str(sum(bool(one.alarms) for one in outcomes)),
                    f"{numbers(outcomes, 'lead').max():.3f}",
                    f"{nearest.min():.3f}",
                    str(sum(bool(one.alarms) for one in planted)),
                    f"{time.perf_counter() - began:.0f}",
                ]
                print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    keep_freed_memory()
    torch.set_num_threads(1)
    main()
