"""Alarms that may be watched for ever: false ones, delays, and digits from end to end.

    python benchmarks/watch.py simulate --out build/watch    # two thousand streams of 20000 losses
    python benchmarks/watch.py digits --out build/watch      # 20000 clean digits, then shifted ones
    python benchmarks/watch.py tell --out build/watch        # benchmarks/results/watch.md

Streams of the simulation are independent; references are drawn anew for each. Digits are drawn with
replacement from the 360 test images, with fresh noise for every draw, so that reference and stream
are independent draws of one law. Each part goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from deqcert.certifiers.bounds import beta_quantiles, confidence_interval
from deqcert.cli import main
from deqcert.data import load_dataset
from deqcert.watch import Evidence, delay, tolerated_rank
from deqcert.watch.betting import remaining

Losses = NDArray[np.float64]
STREAMS, STEPS, DELTA = 2000, 20000, 0.01
GIVEN_UP = 20000
REFERENCE = 400
ABSTAIN = 0.05
SHIFTS = {"noise": "Gaussian noise of 0.3", "inverted": "inverted", "moved": "moved by 2 pixels"}
CERTIFY = (
    "--sigma 0.25 --n0 5 --n 30 --alpha 0.01 --tol 0 --depth 2 --batch 35 --agreement 0 --quiet"
)


def main_() -> None:
    """Run a part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=["simulate", "digits", "tell"])
    parser.add_argument("--out", type=Path, default=Path("build/watch"))
    parser.add_argument("--count", type=int, default=20000, help="clean digits to watch")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if given.part == "simulate":
        simulate(given.out / "simulate.json")
    elif given.part == "digits":
        digits(given.out, given.count)
    else:
        tell(given.out)


# False alarms and delays ---------------------------------------------------------------------


def add(bet: Evidence, loss: Losses, delta: float) -> NDArray[np.bool_]:
    """Our rule."""
    bet.add(loss)
    return bet.reached(delta)


def detect(bet: Evidence, loss: Losses, delta: float) -> NDArray[np.bool_]:
    """Planted: the detector that forgets, read as if it kept the promise over all time."""
    bet.add(loss)
    return bet.recent >= 1.0 / delta


def peek(bet: Evidence, loss: Losses, delta: float) -> NDArray[np.bool_]:
    """Planted: stakes that are chosen when the loss is known."""
    before = bet.staked.copy()
    bet.add(loss)
    share = remaining(bet.count) - remaining(bet.count + 1)
    bet.staked = np.maximum(bet.staked, before + share)
    return bet.reached(delta)


class Repeat:
    """Planted: the exact binomial test for a number of losses fixed before, after each of them."""

    def __init__(self) -> None:
        self.total: Any = 0.0

    def __call__(self, bet: Evidence, loss: Losses, delta: float) -> NDArray[np.bool_]:
        """Test once more; every tenth time, which raises fewer false alarms, not more."""
        bet.count += 1
        self.total = self.total + loss
        if bet.count % 10:
            return np.zeros(loss.shape, dtype=bool)
        found: NDArray[np.bool_]
        found = scipy.stats.binom.sf(self.total - 1, bet.count, bet.tolerated) <= delta
        return found


def ever(
    rule: Callable[[Evidence, Losses, float], NDArray[np.bool_]],
    tolerated: Losses,
    draw: Callable[[], Losses],
    delta: float,
    steps: int = STEPS,
) -> int:
    """Count the streams in which a rule ever raises an alarm."""
    bet, raised = Evidence(tolerated), np.zeros(tolerated.shape, dtype=bool)
    for _ in range(steps):
        raised |= rule(bet, draw(), delta)
    return int(raised.sum())


def simulate(file: Path) -> None:
    """Simulate false alarms and delays."""
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}

    def once(key: str, work: Callable[[], Any]) -> None:
        if key not in found:
            began = time.perf_counter()
            found[key] = work()
            file.write_text(json.dumps(found, indent=1))
            print(f"{key}: {found[key]} ({time.perf_counter() - began:.0f} s)", flush=True)

    def rates(rule: Any, finite: bool) -> int:
        draw = np.random.default_rng(1)
        counts = draw.binomial(REFERENCE, ABSTAIN, STREAMS)
        bound = 1.0 - beta_quantiles(DELTA / 2, REFERENCE - counts, counts + 1)
        plain = np.maximum(counts, 1) / REFERENCE
        return ever(
            rule,
            bound if finite else plain,
            lambda: (draw.random(STREAMS) < ABSTAIN).astype(float),
            DELTA / 2,
        )

    def known(rule: Any) -> int:
        draw = np.random.default_rng(2)
        tolerated = np.full(STREAMS, ABSTAIN)
        return ever(rule, tolerated, lambda: (draw.random(STREAMS) < ABSTAIN).astype(float), DELTA)

    def ranks(finite: bool) -> int:
        draw, rows = np.random.default_rng(3), 100
        reference = np.sort(draw.random((STREAMS, rows)), axis=1)
        offset = np.arange(STREAMS) * 2.0
        flat = (reference + offset[:, None]).ravel()

        def rank() -> Losses:
            place = np.searchsorted(flat, draw.random(STREAMS) + offset)
            return np.asarray((place - np.arange(STREAMS) * rows) / rows)

        bound = tolerated_rank(rows, DELTA / 2) if finite else 0.5
        return ever(add, np.full(STREAMS, bound), rank, DELTA / 2)

    once("rate known", lambda: known(add))
    once("rate of a reference", lambda: rates(add, True))
    once("ranks in a reference", lambda: ranks(True))
    once("planted: fixed-n test, every tenth answer", lambda: known(Repeat()))
    once("planted: stakes that peek", lambda: known(peek))
    once("planted: detector without memory", lambda: known(detect))
    once("planted: plain rate of the reference", lambda: rates(add, False))
    once("planted: ranks with mean 1/2", lambda: ranks(False))
    once("delays", delays)


def delays() -> list[dict[str, float]]:
    """Measure delays by size and time of the change, beside the prediction and the plain bet."""
    streams, b, rows = 500, 0.1, []
    draw = np.random.default_rng(4)
    bet, field = Evidence(np.full(streams, b)), Plain(b, streams)
    for before in range(10001):
        if before in (0, 1000, 10000):
            for mean in (0.12, 0.15, 0.2, 0.3, 0.5, 1.0):
                ours, theirs = copy.deepcopy(bet), copy.deepcopy(field)
                took = np.full((2, streams), np.inf)
                for step in range(1, GIVEN_UP + 1):
                    loss = (draw.random(streams) < mean).astype(float)
                    ours.add(loss)
                    theirs.add(loss)
                    for one, hit in ((0, ours.reached(DELTA)), (1, theirs.log >= -np.log(DELTA))):
                        took[one, np.isinf(took[one]) & hit] = step
                    if np.isfinite(took).all():
                        break
                # Streams that were raised before the change count as 1: nothing is left out.
                rows.append(
                    {
                        "before": before,
                        "mean": mean,
                        "predicted": delay(b, mean, DELTA, before),
                        "average": float(np.minimum(took[0], GIVEN_UP).mean()),
                        "median": float(np.median(np.minimum(took[0], GIVEN_UP))),
                        "plain": float(np.median(np.minimum(took[1], GIVEN_UP))),
                    }
                )
        loss = (draw.random(streams) < b).astype(float)
        bet.add(loss)
        field.add(loss)
    return rows


class Plain:
    """The plain bet of the field: one stake that follows the mean of all losses so far."""

    def __init__(self, b: float, streams: int) -> None:
        self.b, self.t = b, 0
        self.total, self.log = np.zeros(streams), np.zeros(streams)

    def add(self, loss: Losses) -> None:
        """Take one more loss per stream."""
        self.t += 1
        p = (self.total + 0.5) / self.t
        stake = np.clip((p - self.b) / (self.b * (1 - self.b)), 0.0, 0.9 / self.b)
        self.log += np.log1p(stake * (loss - self.b))
        self.total += loss


# Digits from end to end ----------------------------------------------------------------------


def drawn(seed: int, count: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Draw test digits with replacement; pixels in [0, 1], shape (count, 1, 8, 8)."""
    data = load_dataset("digits", "test")
    chosen = np.random.default_rng(seed).integers(0, len(data), count)
    return data.batch(chosen).astype(np.float64), data.labels()[chosen]


def shifted(name: str, x: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """Shift digits."""
    if name == "noise":
        return x + 0.3 * np.random.default_rng(seed).standard_normal(x.shape)
    return 1.0 - x if name == "inverted" else np.roll(x, 2, axis=-1)


def save(file: Path, x: NDArray[np.float64], y: NDArray[np.int64]) -> None:
    """Write images as 8-bit pixels."""
    if not file.exists():
        np.savez_compressed(file, x=np.rint(255 * np.clip(x, 0, 1)).astype(np.uint8), y=y)


def call(line: str) -> tuple[int, str]:
    """Run a command; return its exit code and what it prints."""
    print(f"deqcert {line}", flush=True)
    told = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    with contextlib.redirect_stdout(told):
        code = main(line.split())
    told.seek(0)
    return code, told.read()


def digits(out: Path, count: int) -> None:
    """Certify a clean reference, clean digits, and clean digits followed by shifted ones."""
    save(out / "reference.npz", *drawn(1, 1000))
    for name in SHIFTS:
        x, y = drawn(2, 600)
        x[300:] = shifted(name, x[300:], 3)
        save(out / f"{name}.npz", x, y)
    save(out / "clean.npz", *drawn(4, count))
    call(f"certify {CERTIFY} --data npz:{out}/reference.npz --seed 1 --out {out}/reference")
    call(f"watch-reference {out}/reference --radius 0.2 --out {out}/reference.json")
    for seed, name in enumerate(SHIFTS, start=2):
        for place, part in (("clean", "0:300"), ("shifted", "300:600")):
            run = f"{out}/{name}/{place}"  # a folder to which runs are added
            (out / name).mkdir(exist_ok=True)
            data = f"--data npz:{out}/{name}.npz --images {part}"
            call(f"certify {CERTIFY} {data} --seed {seed} --out {run}")
            watch(out, f"{name}/clean" if place == "clean" else name, f"{name}-{place}.json")
    call(f"certify {CERTIFY} --data npz:{out}/clean.npz --seed 9 --out {out}/clean")
    watch(out, "clean", "clean.json")


def watch(out: Path, name: str, file: str) -> None:
    """Watch what there is, unless that was done, and keep what it says."""
    if not (out / file).exists():
        options = f"--reference {out}/reference.json --json --quiet --delta {DELTA}"
        code, told = call(f"watch {out}/{name} {options}")
        (out / file).write_text(json.dumps({**json.loads(told), "code": code}, indent=1))


# What is told --------------------------------------------------------------------------------


FALSE = f"""# Alarms that may be watched for ever

`python benchmarks/watch.py simulate`, then `digits`, then `tell`. What is promised, and why:
[alarms](../../docs/watch.md).

## False alarms: {STREAMS} streams of {STEPS} answers, delta = {DELTA:g}

Nothing changes in any stream. Rates are {ABSTAIN:g}. Where a reference is used, one is drawn for
each stream ({REFERENCE} answers for rates, 100 for ranks), and half of delta is for it.

| rule | streams with a false alarm | share | 95% interval |
| --- | --- | --- | --- |
"""

DELAYS = f"""
## Delay by size and time of the change

Tolerated 0.1, delta = {DELTA:g}, 500 streams. *Plain bet*: one stake that follows the mean of all
losses so far; medians. {GIVEN_UP} answers after the change is where a stream was given up.

| answers before | mean after | predicted, at most | average | median | plain bet |
| --- | --- | --- | --- | --- | --- |
"""

DIGITS = """
## Digits, end to end

The shipped model, sigma 0.25, n = 30, alpha = 0.01, two evaluations a solve; 1000 clean digits are
the reference, r0 = 0.2. Digits are drawn with replacement from the 360 test images. Shifted streams
are 300 clean digits and then 300 shifted ones; *delay* counts from there, and *predicted* is what
it is at most on average with the mean that the shifted ones had.

| stream | alarm | mean before | mean after | tolerated | delay | predicted, at most |
| --- | --- | --- | --- | --- | --- | --- |
"""


def tell(out: Path) -> None:
    """Write benchmarks/results/watch.md."""
    found = json.loads((out / "simulate.json").read_text())
    text = FALSE
    for name, hits in found.items():
        if name != "delays":
            low, high = confidence_interval(hits, STREAMS, 0.05)
            text += f"| {name} | {hits} | {hits / STREAMS:.4f} | {low:.4f} to {high:.4f} |\n"
    text += DELAYS
    for row in found["delays"]:
        cells = [f"{row[key]:.0f}" for key in ("predicted", "average", "median", "plain")]
        text += f"| {row['before']} | {row['mean']:g} | {' | '.join(cells)} |\n"
    text += DIGITS
    for name, about in SHIFTS.items():
        text += "".join(f"{line}\n" for line in _shift(out, name, about))
    clean = json.loads((out / "clean.json").read_text())
    most = max(clean["alarms"], key=lambda row: float(row["highest"]))
    raised = [row["alarm"] for row in clean["alarms"] if row["raised"] is not None]
    text += (
        f"\n{clean['answers']} clean digits: {', '.join(raised) or 'no alarm'}. The most evidence "
        f"that any alarm ever had\nis {most['highest']:.1f} of {most['threshold']:.0f} "
        f"({most['alarm']}).\n"
    )
    (Path(__file__).parent / "results" / "watch.md").write_text(text)


def _shift(out: Path, name: str, about: str) -> list[str]:
    first, second = (
        {
            row["alarm"]: row
            for row in json.loads((out / f"{name}-{part}.json").read_text())["alarms"]
        }
        for part in ("clean", "shifted")
    )
    lines = []
    for alarm, row in second.items():
        before, n = first[alarm]["mean"], first[alarm]["answers"]
        after = (row["mean"] * row["answers"] - before * n) / (row["answers"] - n)
        b, at = row["tolerated"], row["raised"]
        told = "none" if at is None else str(at - n) if at > n else f"false, {n - at} before"
        predicted = delay(b, min(after, 1.0), 1.0 / row["threshold"], n)
        said = "never" if np.isinf(predicted) else f"{predicted:.0f}"
        lines.append(
            f"| {about} | {alarm} | {before:.3f} | {after:.3f} | {b:.3f} | {told} | {said} |"
        )
    return lines


if __name__ == "__main__":
    main_()
