"""Coverage and size of prediction sets on real images, beside RSCP+ on the same solves.

    python benchmarks/sets.py MODEL DATA --sigma S [--calibrate ::20] [--test 5::10]

Every image is solved under the same noisy copies for all methods: one-draw takes the first of them,
binarised and RSCP+ take all. The attack aims at the true class and knows no noise of the sets. What
was solved is kept in --keep, and taken from there when the command is given again.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from scipy import special

from deqcert.api import SmoothedClassifier
from deqcert.conformal import Binarised, Evidence, OneDraw, SetMethod, scores_of
from deqcert.conformal.answering import Answering
from deqcert.conformal.attacked import SetAttack
from deqcert.conformal.base import members
from deqcert.conformal.binarised import parted
from deqcert.conformal.scores import SCORES
from deqcert.conformal.split import covering_rank
from deqcert.smoothing import Input, Stage
from deqcert.smoothing.grid import grid_law
from deqcert.smoothing.many import Answers

BETA = 0.001  # of RSCP+, as in its paper
CHUNK = 50


@dataclass(frozen=True)
class Stored:
    """Answers that are there already, as a source of evidence."""

    logits: np.ndarray
    predictions: np.ndarray
    nfe: np.ndarray

    def at(self, rows: list[int]) -> Stored:
        """Those of some images."""
        return Stored(self.logits[rows], self.predictions[rows], self.nfe[rows])

    def answers(self, inputs, stage, n):
        return Answers(
            self.logits[:, :n].astype(np.float64), self.predictions[:, :n], self.nfe[:, :1].sum(1)
        )

    def mean_scores(self, score: str) -> np.ndarray:
        """How little an input conforms, on average over its copies: unsolved ones not at all."""
        solved = (self.predictions >= 0)[:, :, None]
        each = 1.0 - scores_of(score, np.where(solved, self.logits.astype(np.float64), 0.0))
        return np.where(solved, each, 1.0).mean(axis=1)


def rscp_plus(
    calibrated: np.ndarray,
    labels: np.ndarray,
    tested: np.ndarray,
    alpha: float,
    steps: float,
    n: int,
) -> np.ndarray:
    """Return which classes are in the sets, shape (B, K).

    RSCP with Hoeffding's bound for the means of n scores in [0, 1]: Yan, Romano, Weng, "Provably
    Robust Conformal Prediction with Improved Efficiency" (ICLR 2024). Mean scores are exchangeable
    as they are; the test image's is off by b before and after it is moved, each at BETA.
    """
    own = np.sort(calibrated[np.arange(len(labels)), labels])
    k = covering_rank(alpha - 2 * BETA, len(own))
    worst = own[len(own) - k] if k else 1.0  # the k-th largest
    b = np.sqrt(-np.log(BETA) / (2 * n))
    bar = special.ndtri(min(worst + b, 1.0)) + steps
    return special.ndtri(np.clip(tested - b, 0.0, 1.0)) <= bar


def solve(smooth: SmoothedClassifier, data, images: range, stage: int, n: int, attack=None):
    """Return logits, predictions and evaluations of all images, and how far they were moved."""
    answering = Answering(smooth, OneDraw())
    parts, norms = [], []
    for first in range(0, len(images), CHUNK):
        some = [Input(data.image(i), i) for i in images[first : first + CHUNK]]
        if attack is not None:
            labels = [data.label(one.index) for one in some]
            moved = []
            for at in range(0, len(some), attack.together):
                points, reached = attack.points(
                    attack.attacks[0],
                    some[at : at + attack.together],
                    labels[at : at + attack.together],
                )
                moved += points
                norms += reached
            some = moved
        found = answering.source.answers(some, stage, n)
        parts.append((found.logits.astype(np.float32), found.predictions, found.nfe[:, None]))
        print(f"{first + len(some)} of {len(images)}", flush=True)
    logits, predictions, nfe = (np.concatenate(part) for part in zip(*parts, strict=True))
    return {"logits": logits, "predictions": predictions, "nfe": nfe, "norms": np.array(norms)}


def kept(path: Path, make) -> Stored:
    """Take what was solved from a file, or solve and keep it."""
    if not path.exists():
        began = time.perf_counter()
        made = make()
        np.savez(path, seconds=time.perf_counter() - began, **made)
    found = np.load(path)
    if len(found["norms"]):
        print(
            f"{path.stem}: moved by {found['norms'].mean():.3f}, at most {found['norms'].max():.6f}"
        )
    print(
        f"{path.stem}: {found['seconds']:.0f} s, {found['predictions'].size} solves, "
        f"{(found['predictions'] < 0).sum()} of them without an end, "
        f"{found['nfe'].sum() / found['predictions'].size:.1f} evaluations each"
    )
    return Stored(found["logits"], found["predictions"], found["nfe"])


def masks(found: list[Evidence], bar: float, classes: int) -> np.ndarray:
    """Return which classes are in the sets, shape (B, K)."""
    made = np.zeros((len(found), classes), dtype=bool)
    for row, one in enumerate(found):
        made[row, list(members(one, bar))] = True
    return made


def line(name: str, n: int, clean: np.ndarray, attacked: np.ndarray, labels: np.ndarray) -> str:
    def coverage(held: np.ndarray) -> float:
        own = labels[:: len(labels) // len(held)][: len(held)]
        return 100 * float(held[np.arange(len(own)), own].mean())

    return (
        f"| {name} | {n} | {coverage(clean):.1f} | {coverage(attacked):.1f} "
        f"| {clean.sum(1).mean():.2f} | {attacked.sum(1).mean():.2f} "
        f"| {100 * (clean.sum(1) == 1).mean():.0f} |"
    )


@click.command(help=__doc__.split("\n", 1)[0])
@click.argument("model")
@click.argument("data")
@click.option("--sigma", type=float, required=True)
@click.option("--radius", type=float, default=0.25)
@click.option("--alpha", type=float, default=0.1)
@click.option("--calibrate", default="::20")
@click.option("--test", default="5::10")
@click.option("--copies", default=64)
@click.option("--attack-every", default=1, help="Attack one test image of so many.")
@click.option("--attack-steps", default=10)
@click.option("--draws", default=4)
@click.option("--tol", type=float, default=1e-3)
@click.option("--depth", type=int, default=30)
@click.option("--batch", type=int, default=100)
@click.option("--keep", type=click.Path(path_type=Path), required=True)
def main(
    model,
    data,
    sigma,
    radius,
    alpha,
    calibrate,
    test,
    copies,
    attack_every,
    attack_steps,
    draws,
    tol,
    depth,
    batch,
    keep,
) -> None:
    smooth = SmoothedClassifier(model, sigma=sigma, tol=tol, depth=depth, batch=batch, threads=1)
    dataset, held = smooth.dataset(data, images=calibrate)
    _, tested = smooth.dataset(dataset, images=test)
    smooth = smooth.on_grid(dataset.levels)
    keep.mkdir(parents=True, exist_ok=True)
    answering = Answering(smooth, OneDraw())
    from deqcert.attacks import get_attack

    chosen = get_attack("smoothadv-pgd", steps=attack_steps, draws=draws)
    attack = SetAttack.of_noise(answering.source, smooth.loaded.plain, (chosen,), radius)
    one = kept(
        keep / "calibrate.npz", lambda: solve(smooth, dataset, held, Stage.CALIBRATE, copies)
    )
    clean = kept(keep / "clean.npz", lambda: solve(smooth, dataset, tested, Stage.SETS, copies))
    aimed = tested[: len(tested) // attack_every * attack_every : attack_every]
    moved = kept(
        keep / "attacked.npz", lambda: solve(smooth, dataset, aimed, Stage.SETS, copies, attack)
    )
    labels = np.array([dataset.label(i) for i in held])
    truth = np.array([dataset.label(i) for i in tested])
    classes, pixels = one.logits.shape[2], int(np.prod(dataset.shape))
    law = None if dataset.levels is None else grid_law(dataset.levels, sigma)

    print(
        f"\n{len(held)} images calibrated on, {len(tested)} tested, sigma {sigma:g}, r {radius:g}, "
        f"alpha {alpha:g}; {chosen.describe()}\n"
    )
    print(
        "| sets | solves an image | coverage, clean % | attacked % | size, clean | attacked | "
        "one class % |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    nothing = [Input(np.zeros(1), 0)] * 1
    for score in SCORES:
        methods: list[tuple[str, SetMethod, float, list[int]]] = [
            (f"one-draw, {score}", OneDraw(score=score), radius, list(range(len(labels))))
        ]
        many = Binarised(score=score, n=copies)
        chosen = rest = list(range(len(labels)))
        if not many.of_votes and copies > 1:
            tune, kept_back = (list(part) for part in parted(rest))
            many = many.tuned(one.at(tune), nothing * len(tune), labels[tune].tolist(), 0)
            chosen = kept_back
        if copies > 1:
            methods.append((f"binarised, {score}", many, radius, chosen))
        unpaid = (f"one-draw, {score}, promised for r 0 only", OneDraw(score=score), 0.0, rest)
        for name, method, reach, places in (*methods, unpaid):
            stored = one.at(places)
            found = method.evidence(stored, nothing * len(places), stage=0, radius=0.0)
            values = [e.low[y] for e, y in zip(found, labels[places], strict=True)]
            charge = 0.0 if law is None else law.charge(method.draws(len(values)), pixels)
            bar = method.bar(values, alpha=alpha, radius=reach, sigma=sigma, charge=charge)
            both = [
                masks(method.evidence(s, nothing * len(s.nfe), stage=0, radius=reach), bar, classes)
                for s in (clean, moved)
            ]
            print(line(name, method.copies, *both, truth), flush=True)
        if score != "margin" and copies > 1:  # the bound of RSCP+ is for scores in [0, 1]
            means = [s.mean_scores(score) for s in (one, clean, moved)]
            both = [
                rscp_plus(means[0], labels, mean, alpha, radius / sigma, copies)
                for mean in means[1:]
            ]
            print(line(f"RSCP+, {score}", copies, *both, truth), flush=True)


if __name__ == "__main__":
    main()
