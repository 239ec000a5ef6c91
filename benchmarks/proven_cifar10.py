"""Deterministic l2 accuracy of trained equilibrium models that prove their own radii.

    python benchmarks/proven_cifar10.py MODEL... --data folder:DIR --images 0:10000:10

For each checkpoint: the largest constant of a pair of classes in logits per pixel unit, the proven
contraction factor, cell evaluations and milliseconds of one core an image, accuracy, the average
radius (0 where the class is wrong) and certified accuracy at 36, 72, 108 and 255 of 255. Beside it
what the same weights give without feedback: one evaluation from zero is then their equilibrium.
With --attacked, how many certified points a gradient attack moves to another class at their radius
(there should be none), and how many at three times of it.
"""

from __future__ import annotations

import copy
import platform
import time
from pathlib import Path

import click
import torch
from torch import Tensor

from deqcert.api import parse_images
from deqcert.data import load_dataset
from deqcert.memory import keep_freed_memory
from deqcert.models import LipschitzConvDEQ, load_model
from deqcert.proofs import Margins
from deqcert.solvers import StopRule, get_solver
from deqcert.solvers.gradients import equilibrium, get_gradient

RADII = (36, 72, 108, 255)
TOL, DEPTH = 1e-10, 200


def attacked(model: LipschitzConvDEQ, x: Tensor, best: Tensor, radius: Tensor) -> Tensor:
    """Classes after steps of that length against the lead, shape (B,); ``model`` is float64."""
    stop = StopRule(tol=1e-9, max_nfe=DEPTH)
    solver = get_solver("anderson")
    gradient = get_gradient("implicit", solver=solver, stop=stop)

    def logits(images: Tensor) -> Tensor:
        injection = model.inject(images)
        start = model.initial_state(injection)
        z, _ = equilibrium(
            model.cell, start, injection, solver=solver, stop=stop, gradient=gradient
        )
        return model.readout(z)

    at = x
    for _ in range(2):
        at = at.detach().requires_grad_()
        found = logits(at)
        own = found.gather(1, best[:, None])
        rival = found.scatter(1, best[:, None], -torch.inf).amax(dim=1, keepdim=True)
        (slope,) = torch.autograd.grad((rival - own).sum(), at)
        size = slope.flatten(1).norm(dim=1).clamp_min(1e-300)
        at = x + slope * (radius / size)[:, None, None, None]
    with torch.no_grad():
        return logits(at).argmax(dim=1)


@torch.no_grad()
def proven(model: LipschitzConvDEQ, x: Tensor, batch: int) -> tuple[Tensor, Tensor, float, float]:
    """Classes, radii, mean evaluations and seconds of one core an image."""
    margins, leads = Margins(model, "multiplier"), []
    began = time.process_time()
    for part in x.split(batch):
        leads += margins.each(part, tol=TOL, depth=DEPTH)
    seconds = (time.process_time() - began) / len(x)
    radii = torch.tensor([margins.radius(lead)[0] for lead in leads], dtype=torch.float64)
    best = torch.tensor([lead.best for lead in leads])
    return best, radii, sum(lead.nfe for lead in leads) / len(leads), seconds


@click.command(help=__doc__.split("\n", 1)[0])
@click.argument("models", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--data", required=True)
@click.option("--images", default=":", show_default=True)
@click.option("--batch", default=50, show_default=True)
@click.option("--attacked", "points", default=0, show_default=True, help="Images to attack.")
def main(models: tuple[Path, ...], data: str, images: str, batch: int, points: int) -> None:
    """Measure, and print a table in Markdown."""
    found = load_dataset(data, "test")
    indices = parse_images(images, len(found))
    x, labels = torch.from_numpy(found.batch(indices)), torch.from_numpy(found.labels())[indices]
    print(f"{platform.machine()}, one thread; {len(x)} images of {data.partition(':')[0]}\n")
    head = "".join(f" {radius}/255 |" for radius in RADII)
    print(f"| model | constant | factor | nfe | CPU ms an image | accuracy | ACR |{head}")
    print("|---" * (7 + len(RADII)) + "|")
    for path in models:
        model = load_model(path)
        if not isinstance(model, LipschitzConvDEQ):
            raise click.BadParameter(f"{path} is no lipschitz-conv model.")
        plain = copy.deepcopy(model)
        torch.nn.init.zeros_(plain.feedback)
        for name, one in ((path.stem, model), (f"{path.stem}, feedback cut", plain)):
            best, radii, nfe, seconds = proven(one, x, batch)
            ours = radii * (best == labels)
            cells = [
                f"{one.proven_lipschitz().max():.3f}",
                f"{one.factor():.3f}",
                f"{nfe:.1f}",
                f"{1000 * seconds:.2f}",
                f"{(best == labels).double().mean():.4f}",
                f"{ours.mean():.4f}",
                *(f"{(ours >= radius / 255).double().mean():.4f}" for radius in RADII),
            ]
            print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
        if points:
            report(model, x, batch, points)


def report(model: LipschitzConvDEQ, x: Tensor, batch: int, points: int) -> None:
    """Attack the first certified images, and print what was found."""
    best, radii, _, _ = proven(model, x[:points], batch)
    chosen = torch.nonzero(radii > 0.0).squeeze(1)
    exact, moved = copy.deepcopy(model).double(), [0, 0]
    for rows in chosen.split(batch):
        for at, times in enumerate((1.0, 3.0)):
            after = attacked(exact, x[rows].double(), best[rows], times * radii[rows])
            moved[at] += int((after != best[rows]).sum())
    print(f"\n{len(chosen)} attacked: {moved[0]} moved at the radius, {moved[1]} at three times it")


if __name__ == "__main__":
    keep_freed_memory()
    torch.set_num_threads(1)
    main()
