"""Proven l2 radii of published monotone networks: by constants and by local proofs.

    python benchmarks/proven_radii.py DIR --data mnist:DIR

DIR holds the published files (eth-sri/CRAFT). For each of them and each rule: seconds for the
constants, milliseconds an image, accuracy, the average radius over all images (0 where the class is
wrong), certified accuracy at some radii; and the largest local slope of a logit difference that was
found on test images, as a share of its constant (mean over the pairs): no global constant can be
smaller than that slope. ``local`` begins from the constants of ``multiplier``; its milliseconds are
those of the proof around each image.
"""

from __future__ import annotations

import copy
import platform
import time
from pathlib import Path

import click
import torch

from deqcert.api import parse_images
from deqcert.data import load_dataset
from deqcert.memory import keep_freed_memory
from deqcert.models import ProvenModel, load_model
from deqcert.proofs import LOCAL, RULES, margins_of
from deqcert.solvers import StopRule, bind, get_solver

FILES = ("mon_h40_m20.0.pt", "deq_MNIST_SingleFcNet_m=20.mat")
RADII = (0.1, 0.3, 0.5, 1.0)
SLOPES = 1000
BOUNDS = (LOCAL, *RULES)


@torch.no_grad()
def steepest(model: ProvenModel, x: torch.Tensor) -> torch.Tensor:
    """Largest local slope of each difference of two logits at images, shape (K, K)."""
    form = model.relu_form()
    exact = copy.deepcopy(model).double()  # type: ignore[attr-defined]
    injection = exact.inject(x.double())
    stop = StopRule(tol=1e-10, max_nfe=1000)
    start = exact.initial_state(injection)
    z = get_solver("anderson").solve(bind(exact.cell, injection), start, stop).z
    identity = torch.eye(len(form.state), dtype=torch.float64)
    found = torch.zeros(len(form.readout), len(form.readout), dtype=torch.float64)
    for row in (z > 0).double():
        active = torch.diag(row)
        inner = torch.linalg.solve(identity - active @ form.state, active @ form.input)
        jacobian = form.readout @ inner
        found = found.maximum((jacobian[:, None] - jacobian[None]).norm(dim=2))
    return found


def steepness(model: ProvenModel, x: torch.Tensor, constants: torch.Tensor) -> float:
    """Largest local slopes as a share of their constants, mean over the pairs."""
    share = steepest(model, x[:SLOPES]) / constants
    return float(share[~torch.eye(len(share), dtype=torch.bool)].mean())


@click.command(help=__doc__.split("\n", 1)[0])
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
@click.option("--data", required=True)
@click.option("--images", default=":", show_default=True)
@click.option("--file", "files", multiple=True, default=FILES, show_default=True)
@click.option("--rule", "rules", multiple=True, type=click.Choice(BOUNDS), default=BOUNDS)
def main(
    folder: Path, data: str, images: str, files: tuple[str, ...], rules: tuple[str, ...]
) -> None:
    """Measure, and print a table in Markdown."""
    found = load_dataset(data, "test")
    indices = parse_images(images, len(found))
    x, labels = torch.from_numpy(found.batch(indices)), torch.from_numpy(found.labels())[indices]
    print(f"{platform.machine()}, one thread; {len(x)} images of {data.partition(':')[0]}\n")
    head = "".join(f" at {radius:g} |" for radius in RADII)
    print(f"| network | rule | constants (s) | ms an image | accuracy | ACR |{head} slope |")
    print("|---" * (7 + len(RADII)) + "|")
    for file in files:
        model = load_model(folder / file)
        assert isinstance(model, ProvenModel)
        for rule in rules:
            began = time.perf_counter()
            margins = margins_of(model, rule)
            ready = time.perf_counter()
            leads = margins.each(x, tol=1e-10, depth=1000)
            radii = torch.tensor([radius for radius, _ in margins.radii(leads)])
            done = time.perf_counter()
            right = torch.tensor([lead.best for lead in leads]) == labels
            proven = radii.clamp_min(0.0) * right
            slope = "" if rule == LOCAL else f"{steepness(model, x, margins.constants):.3f}"
            cells = [
                f"{ready - began:.1f}",
                f"{1000 * (done - ready) / len(x):.2f}",
                f"{right.double().mean():.4f}",
                f"{proven.double().mean():.4f}",
                *(f"{(proven >= radius).double().mean():.4f}" for radius in RADII),
                slope,
            ]
            print(f"| {file} | {rule} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    keep_freed_memory()
    torch.set_num_threads(1)
    main()
