"""Which rule says best when a row may end, and what would make it more faithful?

    python benchmarks/faithful_rules.py --model CKPT --start FILE --data cifar10:DIR --name golden

Rules are fitted to noisy training images, one noise each, as `deqcert train-start` does it, and
held against noisy test images that nothing was fitted to and that faithful.py does not certify.
Then ideas are tried: fitting to images that the model was not trained on, the start's own logits as
a second opinion, choosing by the net bias of an image's share instead of the share of votes that
differ, and a rule for each image by its first votes. The last two replay the images that
faithful.py followed, which comes first. Everything is printed as Markdown, as are rules that
faithful.py takes with --also. What was followed is kept in --work.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from faithful import ALPHA, N0, NEAR, Arrays, Cast, modes, read, spread, voted
from numpy.typing import NDArray

from deqcert.certifiers.bounds import certified_radius, lower_confidence_bound
from deqcert.data import load_dataset
from deqcert.memory import keep_freed_memory
from deqcert.models import form_names, in_form, load_model
from deqcert.smoothing import CheckedStop, Predictor
from deqcert.solvers import StopRule
from deqcert.starts.file import StartFile, load_start
from deqcert.training.starts.checks import Checks, outcome, tried_checks
from deqcert.training.starts.depth import Depth, Trajectories, choose_depth, follow

SHARES = (0.05, 0.02, 0.01, 0.005, 0.003, 0.0015)
"""Shares of changed votes that rules are fitted to."""

NAMED = (0.01, 0.005, 0.002)
"""Those whose rules are printed for faithful.py."""


def followed(
    path: Path, file: StartFile, model: str, data: str, split: str, sigma: float, images: int
) -> Trajectories:
    """Follow noisy images, certified ones left out, or read what was followed."""
    if path.exists():
        return Trajectories(**read(path))
    dataset = load_dataset(data, split)
    plain = load_model(model)
    formed = in_form(plain, "folded" if "folded" in form_names(plain) else "eager", rows=100)
    found = follow(formed, file.net, dataset, sigma=sigma, images=images, steps=12)
    if split == "test":
        rows = np.unique(np.linspace(0, len(dataset) - 1, images).round().astype(int))
        other = ~np.isin(rows, spread(60, len(dataset)))
        found = Trajectories(*(getattr(found, f.name)[other] for f in dataclasses.fields(found)))
    np.savez(path, **dataclasses.asdict(found))
    return found


def line(name: str, *cells: str) -> None:
    """Print a row of a table."""
    print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def head(*names: str) -> None:
    """Print the head of a table."""
    print()
    line(*names)
    line("---", *["---:"] * (len(names) - 1))


def known(trajectories: Trajectories) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return gaps and whether the class is wrong, of rows whose cold solve converged."""
    rows = trajectories.truth >= 0
    return trajectories.gaps[rows], trajectories.wrong[rows]


def cheapest(rules: Sequence[Checks], share: float) -> Checks:
    """Return the cheapest rule that changes at most a share of the votes."""
    return min((r for r in rules if r.disagreement <= share), key=lambda rule: rule.nfe)


def found(
    rule: Checks, gap: NDArray[Any], wrong: NDArray[Any], readout: float
) -> tuple[float, float]:
    """Return evaluations and disagreement of checks on other rows."""
    return outcome(gap, wrong, rule.depths, rule.gaps, rule.steps, readout)


def played(depth: Depth, rows: Trajectories, readout: float) -> tuple[float, float]:
    """Return evaluations and disagreement of a rule of another kind on other rows."""
    keep = rows.truth >= 0
    settled = np.zeros((int(keep.sum()), depth.steps), dtype=bool)
    if depth.early is not None:
        settled = rows.residuals[keep, : depth.steps] <= depth.early
    elif depth.margin is not None:
        gap, drift = rows.gaps[keep, 1 : depth.steps + 1], rows.drifts[keep, : depth.steps]
        settled = gap > depth.margin * drift
    last = np.where(settled.any(axis=1), settled.argmax(axis=1), depth.steps - 1)
    each = 1.0 + (readout if depth.margin is not None else 0.0)
    missed = rows.wrong[keep][np.arange(len(last)), last + 1].mean()
    return float((last + 1).mean()) * each, float(missed)


def families(train: Trajectories, test: Trajectories, file: StartFile) -> list[Checks]:
    """Print evaluations and disagreement of every kind of rule; return all checks."""
    head("rule", *(f"{100 * share:g}%" for share in SHARES))
    for name, kind in (("fixed depth", "fixed"), ("residual", "early"), ("margin", "margin")):
        chosen = [choose_depth(train, s, readout=file.readout, kinds=(kind,)) for s in SHARES]
        line(name, *(both(file, played(depth, test, file.readout)) for depth in chosen))
    every = list(tried_checks(*known(train), file.readout))
    for name, rules, readout in (
        ("**checks**", [rule for rule in every if rule.depths[0] > 0], file.readout),
        ("checks, the start read out, too", [r for r in every if not r.depths[0]], file.readout),
        ("checks, if readouts were free", list(tried_checks(*known(train), 0.0)), 0.0),
    ):
        best = [cheapest(rules, share) for share in SHARES]
        line(name, *(both(file, found(rule, *known(test), readout)) for rule in best))
    for share in NAMED:
        print(f"\n--also '{as_option(cheapest(every, share), f'checks {100 * share:g}%')}'")
    return every


def both(file: StartFile, outcome: tuple[float, float]) -> str:
    """Format evaluations, the start's included, and the share of changed votes."""
    return f"{file.cost + outcome[0]:.2f} ({100 * outcome[1]:.1f}%)"


def as_option(rule: Checks, name: str) -> str:
    """Write checks as faithful.py takes them."""
    checks = ",".join(f"{depth}:{gap:g}" for depth, gap in zip(rule.depths, rule.gaps, strict=True))
    return f"{name}={checks},{rule.steps}"


def ideas(
    every: Sequence[Checks], train: Trajectories, test: Trajectories, file: StartFile
) -> None:
    """Fit to half of the test images; let the start's own logits have a say."""
    halves = [test.part(slice(0, None, 2)), test.part(slice(1, None, 2))]
    own = [list(tried_checks(*known(half), file.readout)) for half in halves]
    front = pareto([rule for rule in every if rule.depths[0] == 1])
    second = [agreed(rule, train, file.readout) for rule in front]
    head("checks", *(f"{100 * share:g}%" for share in SHARES))
    line(
        "fitted to training images",
        *(both(file, found(cheapest(every, s), *known(test), file.readout)) for s in SHARES),
    )
    cells = []
    for share in SHARES:
        held = [
            found(cheapest(rules, share), *known(half), file.readout)
            for rules, half in zip(own, halves[::-1], strict=True)
        ]
        nfe, missed = np.mean(held, axis=0)
        cells.append(both(file, (nfe, missed)))
    line("fitted to one half of the test images, found on the other", *cells)
    cells = []
    for share in SHARES:
        fine = [i for i, (_, missed) in enumerate(second) if missed <= share]
        rule = front[min(fine, key=lambda i: second[i][0])] if fine else front[-1]
        cells.append(both(file, agreed(rule, test, file.readout)))
    line("the first check asks the start's own class, too", *cells)


def agreed(rule: Checks, rows: Trajectories, readout: float) -> tuple[float, float]:
    """Play checks of which the first keeps rows that the start had another class for."""
    keep = rows.truth >= 0
    gap, first = rows.gaps[keep].copy(), rows.logits[keep, :2].argmax(axis=2)
    gap[first[:, 0] != first[:, 1], 1] = -1.0
    nfe, missed = found(rule, gap, rows.wrong[keep], readout)
    return nfe + readout, missed


def pareto(rules: Sequence[Checks]) -> list[Checks]:
    """Return the rules of which no other is both cheaper and more faithful."""
    front, least = [], np.inf
    for rule in sorted(rules, key=lambda rule: (rule.nfe, rule.disagreement)):
        if rule.disagreement < least:
            front.append(rule)
            least = rule.disagreement
    return front


@dataclasses.dataclass(frozen=True)
class Played:
    """What a rule did, image by image.

    Attributes:
        nfe: Evaluations per vote.
        near: Whether the radius is within 2% of the cold one.
        later: The same at n = 10000, were the shares of the votes what they are now.
        bias: How much larger the share of the converged model's class is.
    """

    nfe: NDArray[np.float64]
    near: NDArray[np.float64]
    later: NDArray[np.float64]
    bias: NDArray[np.float64]

    def where(self, chosen: NDArray[np.bool_], other: Played) -> Played:
        """Return this rule for some of the images, and another for the rest."""
        return Played(
            *(
                np.where(chosen, getattr(self, f.name), getattr(other, f.name))
                for f in dataclasses.fields(self)
            )
        )


def play(
    images: Sequence[Arrays], ways: dict[str, Predictor], rule: Checks, n: int, sigma: float
) -> Played:
    """Apply checks to the followed rows of images."""
    stop, early = StopRule(tol=0.0, max_nfe=rule.steps), ways["faithful"].early
    assert early is not None
    checks = CheckedStop(rule.depths, rule.gaps, early.readout)
    predictor = dataclasses.replace(ways["faithful"], stop=stop, early=checks)
    columns = []
    for kept in images:
        mine, cold = (voted(kept, m, p, n) for m, p in (("", predictor), ("cold", ways["cold"])))
        assert mine is not None and cold is not None
        top = int(np.bincount(cold.estimate[cold.estimate >= 0]).argmax())
        bias = float((mine.estimate == top).mean() - (cold.estimate == top).mean())
        near = []
        for size in (n, 10000):
            r, t = (radius(one, size, sigma) for one in (mine, cold))
            near.append(float(abs(r - t) <= NEAR * t if t else r == 0))
        columns.append((mine.nfe / (N0 + n), *near, bias))
    return Played(*np.array(columns).T)


def radius(cast: Cast, size: int, sigma: float) -> float:
    """Return the radius that so many votes of these shares would give."""
    guess = int(np.bincount(cast.select[cast.select >= 0]).argmax())
    count = round(float((cast.estimate == guess).mean()) * size)
    return certified_radius(lower_confidence_bound(count, size, ALPHA), sigma)


def by_images(
    every: Sequence[Checks],
    images: Sequence[Arrays],
    ways: dict[str, Predictor],
    n: int,
    sigma: float,
) -> None:
    """Choose rules by what they do to whole images, on one half of them, and look at the other."""
    front = pareto([rule for rule in every if rule.nfe > 1.5])
    front = [front[i] for i in np.unique(np.linspace(0, len(front) - 1, 40).round().astype(int))]
    what = [play(images, ways, rule, n, sigma) for rule in front]
    # Where first votes are split, a radius hangs by few votes: a rule of its own for such images.
    first = [voted(kept, "", ways["one cell"], n) for kept in images]
    split = np.array([0.3 < np.bincount(c.select).max() / N0 < 0.9 for c in first if c])
    pairs = [a.where(split, b) for a in what[::3] for b in what[::3]]
    print(f"\n{len(images)} images, n = {n}; chosen on each half, shown for the other:")
    head("the cheapest with", "evaluations", "within 2%", "at n = 10000", "net bias: mean, largest")
    halves = (np.arange(0, len(images), 2), np.arange(1, len(images), 2))

    def show(name: str, rules: Sequence[Played], good: Callable[[Played, Any], bool]) -> None:
        shown = []
        for fit, held in (halves, halves[::-1]):
            fine = [rule for rule in rules if good(rule, fit)] or [what[-1]]
            best = min(fine, key=lambda rule: float(rule.nfe[fit].mean()))
            bias = np.abs(best.bias[held])
            shown.append(
                [column[held].mean() for column in (best.nfe, best.near, best.later)]
                + [bias.mean(), bias.max()]
            )
        nfe, near, later, mean, most = np.mean(shown, axis=0)
        line(
            name,
            f"{nfe:.2f}",
            f"{100 * near:.0f}%",
            f"{100 * later:.0f}%",
            f"{mean:.4f}, {most:.3f}",
        )

    for share in (0.8, 0.9, 0.95):
        show(f"{100 * share:g}% within 2%", what, lambda p, f, s=share: p.near[f].mean() >= s)
    for least in (0.004, 0.002, 0.001):
        show(
            f"a mean net bias of at most {100 * least:g}%",
            what,
            lambda p, f, b=least: np.abs(p.bias[f]).mean() <= b,
        )
    for share in (0.8, 0.9, 0.95):
        show(
            f"{100 * share:g}% within 2%, images of split votes by a rule of their own",
            pairs,
            lambda p, f, s=share: p.near[f].mean() >= s,
        )


@click.command()
@click.option("--model", required=True, help="Checkpoint.")
@click.option("--start", required=True, help="What `deqcert train-start` wrote for it.")
@click.option("--data", required=True, help="As `deqcert certify --data` takes it.")
@click.option("--sigma", default=0.25, show_default=True)
@click.option("--train", default=4000, show_default=True, help="Training images.")
@click.option("--test", default=1500, show_default=True, help="Test images.")
@click.option("--n", default=1000, show_default=True, help="Votes of the images replayed.")
@click.option("--name", default="golden", show_default=True)
@click.option("--work", type=click.Path(path_type=Path), default=Path("runs/faithful"))
def main(
    model: str,
    start: str,
    data: str,
    sigma: float,
    train: int,
    test: int,
    n: int,
    name: str,
    work: Path,
) -> None:
    """Fit the rules, try the ideas, and print what came of them."""
    torch.set_num_threads(1)
    keep_freed_memory()
    file, folder = load_start(start, model), work / name
    folder.mkdir(parents=True, exist_ok=True)
    seen = followed(folder / "train.npz", file, model, data, "train", sigma, train)
    other = followed(folder / "test.npz", file, model, data, "test", sigma, test)
    every = families(seen, other, file)
    ideas(every, seen, other, file)
    ways = modes(start, model, 1.86, ())
    kept = [read(path) for path in sorted(folder.glob("[0-9]*.npz"))]
    enough = [
        one for one in kept if min(len(one.get(f"{w}_1_nfe", ())) for w in ("cold", "trace")) >= n
    ]
    if len(enough) > 3:
        by_images(every, enough, ways, n, sigma)


if __name__ == "__main__":
    main()
