"""Proven l-infinity boxes of published monotone networks: balls, zonotopes, slopes, branches.

    python benchmarks/linf.py DIR --data mnist:DIR

DIR holds the published files (eth-sri/CRAFT). For each of them and each radius: on how many of the
images the class is right and proven over the whole box (cut off at 0 and 1) by each rule, with
seconds of one core for all images together; and on how many an input with another class was found.
Proven and found together are at most those that are classified right; where they are all of them,
nobody can prove more. The l2 ball around the box is there to compare with, by the classical
constants and by the multiplier bound, as method `lipschitz` has them.
"""

from __future__ import annotations

import platform
import time
from pathlib import Path

import click
import torch

from deqcert.api import parse_images
from deqcert.data import load_dataset
from deqcert.memory import keep_freed_memory
from deqcert.models import ProvenModel, load_model
from deqcert.proofs import Boxes, margins_of
from deqcert.proofs.relaxed import pixel_boxes

FILES = (
    "deq_MNIST_SingleFcNet_m=20.mat",
    "mon_h40_m20.0.pt",
    "mnist_mon_h200_m20.0.pt",
    "mnist_sm_mon_conv_c8_k6_s3_m20.0.pt",
)
RADII = (0.01, 0.02, 0.05)
BALLS = {"ball, classical constants": "classical", "ball, multiplier bound": "multiplier"}
RULES = {
    "zonotopes": {"rounds": 4, "steps": 0, "branches": 0},
    "zonotopes, slopes chosen": {"rounds": 4, "steps": 2, "branches": 0},
    "zonotopes, slopes, branches": {"rounds": 4, "steps": 2, "branches": 3000},
}


def balls(
    model: ProvenModel, rule: str, x: torch.Tensor, best: torch.Tensor, radius: float
) -> torch.Tensor:
    """Where the ball around the box proves the class, whose centre is the box's, shape (B,)."""
    margins = margins_of(model, rule)
    eps = torch.full((len(x),), radius, dtype=torch.float64)
    centre, half = pixel_boxes(x.double().flatten(1), eps)
    leads = margins.each(centre.view(x.shape), tol=1e-10, depth=1000)
    reach = torch.tensor([margins.radius(lead)[0] for lead in leads])
    own = torch.tensor([lead.best for lead in leads]) == best
    return own & (reach >= half.norm(dim=1) * (1 + 1e-9))


def row(file: str, rule: str, cells: list[str]) -> None:
    """Print a row of the table."""
    print("| " + " | ".join((file, rule, *cells)) + " |", flush=True)


@click.command(help=__doc__.split("\n", 1)[0])
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
@click.option("--data", required=True)
@click.option("--images", default=":100", show_default=True)
@click.option("--file", "files", multiple=True, default=FILES, show_default=True)
@click.option("--radius", "radii", multiple=True, type=float, default=RADII, show_default=True)
def main(
    folder: Path, data: str, images: str, files: tuple[str, ...], radii: tuple[float, ...]
) -> None:
    """Measure, and print a table in Markdown."""
    found = load_dataset(data, "test")
    indices = parse_images(images, len(found))
    x, labels = torch.from_numpy(found.batch(indices)), torch.from_numpy(found.labels())[indices]
    print(f"{platform.machine()}, one thread; {len(x)} images of {data.partition(':')[0]}\n")
    print("| network | rule |" + "".join(f" {radius:g} | s |" for radius in radii))
    print("|---" * (2 + 2 * len(radii)) + "|")
    for file in files:
        model = load_model(folder / file)
        assert isinstance(model, ProvenModel)
        right = Boxes(model, **RULES["zonotopes"]).classes(x) == labels
        row(file, "classified right", [str(int(right.sum())), ""] * len(radii))
        for rule, constants in BALLS.items():
            margins_of(model, constants)
            cells = []
            for radius in radii:
                began = time.process_time()
                proven = balls(model, constants, x, labels, radius)
                cells += [str(int(proven.sum())), f"{time.process_time() - began:.1f}"]
            row(file, rule, cells)
        for rule, options in RULES.items():
            boxes = Boxes(model, **options)
            best = boxes.classes(x)
            cells, wrong = [], []
            for radius in radii:
                began = time.process_time()
                decision = boxes.decide(x, torch.full((len(x),), radius), best)
                cells.append(str(int((decision.proven & right).sum())))
                cells.append(f"{time.process_time() - began:.1f}")
                wrong += [str(int((decision.refuted & right).sum())), ""]
            row(file, rule, cells)
        row(file, "another class found", wrong)


if __name__ == "__main__":
    keep_freed_memory()
    torch.set_num_threads(1)
    main()
