"""Certify CIFAR-10 images with MDEQ-SMALL, as the field does and as deqcert does; where time goes.

    python benchmarks/end_to_end.py --data folder:DIR

The checkpoint is in the folder that DEQCERT_GOLDEN names, the images are class folders (``test/``).
Contestants take turns, image by image:

- field: the eager model, torchdeq's Anderson with a fixed number of evaluations, batches of 400,
  noise from torch.
- equal: our engine and solver at the same fixed number of evaluations, so that the base classifier
  is the same; in the fastest form that `deqcert bench forms` kept, or as --form says.
- tolerance: the same, each row until its own residual is small.

All certify by the standard method from n votes; a vote costs the same at every n.
"""

from __future__ import annotations

import os
import platform
import time
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torchdeq.solver import get_solver as torchdeq_solver

import deqcert.smoothing.engine as engine_module
from deqcert.certifiers import get_certifier
from deqcert.certifiers.bounds import certified_radius, lower_confidence_bound
from deqcert.data import load_dataset
from deqcert.memory import keep_freed_memory
from deqcert.models import load_model
from deqcert.models.forms import FORMS, in_form
from deqcert.smoothing import Input, Predictor, SmoothingEngine
from deqcert.solvers import StopRule, get_solver

ROOT = Path(__file__).resolve().parent
WINDOW = 6


class Watched:
    """A model, a solver's step and a noise source whose seconds are counted by part."""

    def __init__(self, model: Any) -> None:
        self.model, self.seconds = model, Counter()
        for name in ("config", "input_shape", "num_classes"):
            setattr(self, name, getattr(model, name))
        for name in ("inject", "initial_state", "cell", "readout"):
            setattr(self, name, self.timed(name, getattr(model, name)))

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function with its seconds counted under a name."""

        def run(*arguments: Any, **options: Any) -> Any:
            began = time.perf_counter()
            result = function(*arguments, **options)
            self.seconds[part] += time.perf_counter() - began
            return result

        return run

    @contextmanager
    def certifying(self, solver: Any) -> Any:
        """Count the solver's steps and the engine's noise as well."""
        noise, step = engine_module.noisy_copies, type(solver).step
        engine_module.noisy_copies = self.timed("noise", noise)
        type(solver).step = self.timed_method(step)
        try:
            yield
        finally:
            engine_module.noisy_copies, type(solver).step = noise, step

    def timed_method(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """Return a method with its seconds counted as the solver's."""

        def run(this: Any, *arguments: Any, **options: Any) -> Any:
            return self.timed("solver", step)(this, *arguments, **options)

        return run


def field(watched: Watched, x: torch.Tensor, sigma: float, n: int, depth: int) -> np.ndarray:
    """Count votes of fixed cold solves, with torch and torchdeq alone."""
    solve = torchdeq_solver("anderson")
    counts = torch.zeros(watched.num_classes, dtype=torch.int64)
    draw = watched.timed("noise", lambda rows: x + sigma * torch.randn(rows, *x.shape))
    with torch.no_grad():
        for first in range(0, n, 400):
            injection = watched.inject(draw(min(400, n - first)))
            start = watched.initial_state(injection)
            z = solve(
                lambda z, c=injection: watched.cell(z, c), start, max_iter=depth, tol=0.0, m=WINDOW
            )[0]
            winners = watched.readout(z).argmax(1)
            counts += torch.bincount(winners, minlength=len(counts))
    return counts.numpy()


@click.command()
@click.option("--data", required=True, help="As `deqcert certify --data` takes it.")
@click.option("--images", default=10, show_default=True, help="Test images, evenly spaced.")
@click.option("--sigma", default=0.25, show_default=True)
@click.option("--n", default=10000, show_default=True)
@click.option("--alpha", default=0.001, show_default=True)
@click.option("--depth", default=30, show_default=True, help="Evaluations of a fixed solve.")
@click.option("--tol", default=1e-3, show_default=True)
@click.option("--batch", default=100, show_default=True, help="Rows of ours.")
@click.option("--form", default="compiled", type=click.Choice(list(FORMS)), show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=ROOT / "results")
def main(
    data: str,
    images: int,
    sigma: float,
    n: int,
    alpha: float,
    depth: int,
    tol: float,
    batch: int,
    form: str,
    threads: int,
    out: Path,
) -> None:
    """Run the contestants and write results/end_to_end.md."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    golden = Path(os.environ.get("DEQCERT_GOLDEN", "../shared/golden"))
    model = load_model(golden / "mdeq_small_noise25.pth.tar", golden / "mdeq_small_noise25.yaml")
    dataset = load_dataset(data, "test")
    chosen = np.linspace(0, len(dataset) - 1, images).astype(int).tolist()
    eager = Watched(model.eval())
    lean = Watched(in_form(model, form, rows=batch))
    solver = get_solver("anderson", window=WINDOW)
    engine = SmoothingEngine(lean, sigma=sigma, batch=batch)
    stops = {
        "equal": StopRule(tol=0.0, max_nfe=depth),
        "tolerance": StopRule(tol=tol, max_nfe=depth),
    }
    spent: dict[str, Counter[str]] = {name: Counter() for name in ("field", *stops)}
    wall, nfe = Counter[str](), Counter[str]()
    radii: dict[str, list[float]] = {name: [] for name in spent}
    classes: dict[str, list[int | None]] = {name: [] for name in spent}
    torch.manual_seed(0)
    for image in [chosen[0], *chosen]:  # the first once more: it warms up
        x = torch.from_numpy(np.asarray(dataset.image(image), dtype=np.float32))
        warming = not radii["field"] and not wall
        for name in spent:
            watched = eager if name == "field" else lean
            watched.seconds.clear()
            began = time.perf_counter()
            if name == "field":
                guess = int(field(watched, x, sigma, 100, depth).argmax())
                votes = int(field(watched, x, sigma, n, depth)[guess])
                p_lower = lower_confidence_bound(votes, n, alpha)
                radius, answer = certified_radius(p_lower, sigma), guess if p_lower > 0.5 else None
                evaluations = (n + 100) * depth
            else:
                predictor = Predictor(solver, stops[name])
                certifier = get_certifier("standard", predictor, n0=100, n=n, alpha=alpha)
                with watched.certifying(solver):
                    certificate = certifier.certify(engine, Input(x, image))
                radius, answer = certificate.radius, certificate.prediction
                evaluations = certificate.nfe
            if warming:
                continue
            wall[name] += time.perf_counter() - began
            spent[name].update(watched.seconds)
            nfe[name] += evaluations
            radii[name].append(radius)
            classes[name].append(answer)
        if warming:
            wall["warm"] = 1e-9
            continue
        print(image, {k: f"{r[-1]:.3f}" for k, r in radii.items()}, flush=True)
    parts = ("cell", "solver", "inject", "readout", "noise", "rest")
    lines = [
        f"# {images} CIFAR-10 images with MDEQ-SMALL, n={n}",
        "",
        f"sigma {sigma:g}, n0 100, n {n}, alpha {alpha:g}, {threads} threads, "
        f"{platform.machine()}, torch {torch.__version__}; field: eager, torchdeq Anderson, "
        f"window {WINDOW}, {depth} evaluations, batch 400; ours: batch {batch}, form {form}. "
        "Command:",
        "",
        f"    python benchmarks/end_to_end.py --data folder:DIR --images {images} --n {n} "
        f"--batch {batch} --form {form} --threads {threads}",
        "",
        "| | ms/vote | times faster | nfe/vote | mean radius | same class | "
        + " | ".join(f"{part} %" for part in parts)
        + " |",
        "|---" * (6 + len(parts)) + "|",
    ]
    for name, seconds in spent.items():
        seconds["rest"] = wall[name] - sum(seconds[part] for part in parts[:-1])
        same = np.mean([a == b for a, b in zip(classes[name], classes["field"], strict=True)])
        lines.append(
            f"| {name} | {1000 * wall[name] / (images * n):.3f} | {wall['field'] / wall[name]:.2f} "
            f"| {nfe[name] / (images * n):.2f} | {np.mean(radii[name]):.4f} | {100 * same:.0f}% | "
            + " | ".join(f"{100 * seconds[part] / wall[name]:.1f}" for part in parts)
            + " |"
        )
    out.mkdir(parents=True, exist_ok=True)
    (out / "end_to_end.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
