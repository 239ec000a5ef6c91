"""How many samples does a fixed grid of radii need? Sequential sampling against all of n.

    python benchmarks/sequential.py

Votes of the shipped digits model are drawn once, n an image, and then certified twice: all of them
by `standard`, and by `independent` with a goal, which stops where it would have stopped. Then the
same is simulated many times with the probabilities that those images have.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import torch

from deqcert.certifiers import Certificate, get_certifier
from deqcert.certifiers.bounds import certified_radius, lower_confidence_bound
from deqcert.certifiers.goals import Radii, parse_goal
from deqcert.certifiers.plan import forecast
from deqcert.certifiers.sampling import radii
from deqcert.data import load_dataset
from deqcert.models import load_model
from deqcert.smoothing import Input, Predictor, SmoothingEngine, Votes
from deqcert.solvers import StopRule, get_solver

N0, ALPHA, SIGMA = 100, 0.001, 0.25
ROOT = Path(__file__).resolve().parent


class Replaying(SmoothingEngine):
    """An engine that draws the votes of an image once."""

    drawn: dict[tuple[int, int], Votes]

    def classify(self, predictor, x, image, stage, samples):  # type: ignore[no-untyped-def]
        """Look votes up; draw all of them at the first question."""
        if (image, stage) not in self.drawn:
            everything = np.arange(N0 if stage == 0 else self.most, dtype=np.int64)
            self.drawn[image, stage] = super().classify(
                predictor, Input(x, image), stage, everything
            )
        votes = self.drawn[image, stage]
        return Votes(
            votes.predictions[samples],
            votes.classes,
            round(votes.nfe / len(votes.predictions) * len(samples)),
            votes.seconds / len(votes.predictions) * len(samples),
            votes.margins[samples],
        )


def decisions(certificate: Certificate, at: tuple[float, ...]) -> list[bool]:
    """Return at which radii a class is certified."""
    return [certificate.prediction is not None and certificate.radius >= r for r in at]


@click.command()
@click.option("--images", default=50, show_default=True, help="Test digits.")
@click.option("--n", default=100_000, show_default=True, help="Most samples.")
@click.option("--at", default="0,0.25,0.5,0.75", show_default=True, help="The grid of radii.")
@click.option("--batch", default=500, show_default=True)
@click.option("--repeats", default=200, show_default=True, help="Simulated runs per image.")
@click.option("--seed", default=0, show_default=True)
@click.option("--threads", default=1, show_default=True)
@click.option("--votes", type=click.Path(path_type=Path), help="Keep the drawn votes here.")
@click.option("--out", type=click.Path(path_type=Path), default=ROOT / "results" / "sequential.md")
def main(
    images: int,
    n: int,
    at: str,
    batch: int,
    repeats: int,
    seed: int,
    threads: int,
    votes: Path | None,
    out: Path,
) -> None:
    """Write the table."""
    torch.set_num_threads(threads)
    grid = tuple(float(part) for part in at.split(","))
    goals = [Radii(grid), parse_goal("relative=0.05"), parse_goal("relative=0.02")]
    dataset = load_dataset("digits")
    engine = Replaying(load_model("digits"), sigma=SIGMA, seed=seed, batch=batch)
    engine.most, engine.drawn = n, _load(votes)
    predictor = Predictor(get_solver("anderson"), StopRule(tol=1e-3, max_nfe=30))
    options = {"n0": N0, "n": n, "alpha": ALPHA}
    standard = get_certifier("standard", predictor, **options)
    fixed = []
    for image in range(images):
        fixed.append(standard.certify(engine, Input(dataset.image(image), image)))
        click.echo(f"{image}: {fixed[-1].details.votes} of {n}, radius {fixed[-1].radius:.3f}")
        if votes is not None:
            _save(votes, engine.drawn)
    p = np.array([certificate.details.votes / n for certificate in fixed])

    lines = [
        f"# Samples until a goal is settled (digits, sigma {SIGMA}, alpha {ALPHA}, at most n={n})",
        "",
        f"`python benchmarks/sequential.py --images {images} --n {n} --at {at} --batch {batch} "
        f"--repeats {repeats} --seed {seed}`",
        "",
        f"{images} test digits, {n} real votes each, cold to 1e-3. `standard` uses all of them; "
        "`independent` looks after whole batches and stops where its goal is settled. A decision "
        f"is one image at one radius of {at}: certified or not.",
        "",
        "| | samples per image | times fewer | decisions that differ | ACR (all classes) |",
        "| --- | --- | --- | --- | --- |",
        f"| `standard`, n={n} | {n} | 1.0 | | {np.mean([c.radius for c in fixed]):.4f} |",
    ]
    notes: list[str] = []
    for goal in goals:
        method = get_certifier("independent", predictor, goal=goal, **options)
        early = [
            method.certify(engine, Input(dataset.image(image), image)) for image in range(images)
        ]
        mean = np.mean([certificate.details.n for certificate in early])
        differing = [
            (image, r, one.details.p_lower, other.details.p_lower)
            for image, (one, other) in enumerate(zip(early, fixed, strict=True))
            for r, a, b in zip(grid, decisions(one, grid), decisions(other, grid), strict=True)
            if a != b
        ]
        acr = np.mean([certificate.radius for certificate in early])
        lines.append(
            f"| `independent`, {goal.describe()} | {mean:.0f} | {n / mean:.1f} | "
            f"{len(differing)} of {images * len(grid)} | {acr:.4f} |"
        )
        click.echo(lines[-1])
        notes += [
            f"- {goal.describe()}: image {image} at {r:g}: p_lower {a:.6f} when stopped, {b:.6f} "
            f"of all {n}; {certified_radius(b, SIGMA):.4f} is the radius of these"
            for image, r, a, b in differing
        ]
    lines += ["", *(notes or ["No decision differs."]), ""]

    rng = np.random.default_rng(seed)
    lines += [
        f"Simulated: the same {images} probabilities, {repeats} runs each, every run stopped and "
        "not. A probability counts as a near tie for a radius if `standard` at this n certifies it "
        "in 1 to 99% of the runs.",
        "",
        "| goal | samples per image | times fewer | decisions that differ | near ties among them |",
        "| --- | --- | --- | --- | --- |",
    ]
    for goal in goals:
        samples, differ, ties, total = [], 0, 0, 0
        for probability in p:
            runs = forecast(
                np.full(repeats, probability),
                goal,
                n=n,
                alpha=ALPHA,
                sigma=SIGMA,
                batch=batch,
                rng=rng,
            )
            samples.append(runs.drawn.mean())
            whole = [lower_confidence_bound(int(k), n, ALPHA) for k in runs.votes]
            early, late = radii(runs.p_lower, SIGMA), radii(whole, SIGMA)
            for one, other in ((early >= r, late >= r) for r in grid):
                share = np.mean(other)
                differ += int(np.sum(one != other))
                ties += int(np.sum(one != other)) if 0.01 <= share <= 0.99 else 0
                total += repeats
        mean = float(np.mean(samples))
        lines.append(
            f"| {goal.describe()} | {mean:.0f} | {n / mean:.1f} | {100 * differ / total:.3f}% | "
            f"{ties} of {differ} |"
        )
        click.echo(lines[-1])
    out.write_text("\n".join(lines) + "\n")


def _load(path: Path | None) -> dict[tuple[int, int], Votes]:
    if path is None or not path.exists():
        return {}
    with np.load(path) as archive:
        return {
            tuple(map(int, key.split("-"))): Votes(a, 10, 0, 0.0, np.zeros(len(a), np.float32))
            for key, a in archive.items()
        }


def _save(path: Path, drawn: dict[tuple[int, int], Votes]) -> None:
    kept = {f"{image}-{stage}": votes.predictions for (image, stage), votes in drawn.items()}
    np.savez_compressed(path, **kept)


if __name__ == "__main__":
    main()
