"""A real service and a real watch: twenty thousand clean digits, then shifted ones.

    python benchmarks/watch_service.py --out build/watch-service

Makes a service of ``digits``, asks it for certificates over the loopback, makes a reference of the
first ones, watches it with ``deqcert watch`` after every thousand clean ones, as a cron job would,
and then of every twenty shifted ones. Digits are drawn with replacement from the 360 test images,
so that reference and stream are independent draws of one law, and the noise of every answer is the
service's own. Writes benchmarks/results/watch_service.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from load import load
from serve import png
from serving import Process
from watch import DELTA, SHIFTS, call, drawn, shifted

from deqcert.serve.records import RecordReader
from deqcert.watch import delay

ASK = "/v1/certify"
SERVE = "--sigma 0.25 --n0 5 --n 30 --alpha 0.01 --tol 0 --depth 2 --batch 100"
ALARMS = "abstention,radius,disagreement,energy,mahalanobis"
REFERENCE, CHUNK, SHIFTED, STEP, CLIENTS = 1000, 1000, 600, 20, 16


def pictures(x: np.ndarray, parts: int) -> Iterator[list[bytes]]:
    """Yield PNG files of images with pixels in [0, 1], so many at a time."""
    pixels = np.rint(255 * np.clip(x, 0, 1)).astype(np.uint8)
    for first in range(0, len(pixels), parts):
        yield [png(image) for image in pixels[first : first + parts]]


def ask(service: Process, bodies: list[bytes]) -> float:
    """Ask for a certificate of each, and return the seconds that it took."""
    found = load(service.address + ASK, bodies, CLIENTS, seconds=1e9, most=len(bodies))
    assert found["requests"] == len(bodies)
    return float(str(found["seconds"]))


def watch(out: Path, service: Process) -> dict[str, Any]:
    """Watch what came since the last time."""
    options = f"--reference {out}/reference.json --state {out}/state --delta {DELTA}"
    code, told = call(f"watch {service.folder} {options} --alarms {ALARMS} --json --quiet")
    assert code in (0, 1), told
    found: dict[str, Any] = json.loads(told)
    return found


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="a folder that is not there yet")
    parser.add_argument("--count", type=int, default=20000, help="clean digits to watch")
    parser.add_argument("--shift", choices=sorted(SHIFTS), default="noise")
    given = parser.parse_args()
    given.out.mkdir(parents=True)
    began, asking = time.perf_counter(), 0.0
    clean, _ = drawn(11, REFERENCE + given.count)
    with (
        tempfile.TemporaryDirectory() as folder,
        Process(Path(folder), *SERVE.split()) as service,
    ):
        for bodies in pictures(clean[:REFERENCE], REFERENCE):
            ask(service, bodies)
        call(f"watch-reference {service.folder} --radius 0.2 --out {given.out}/reference.json")
        raised, looks = set[str](), 0
        for bodies in pictures(clean[REFERENCE:], CHUNK):
            asking += ask(service, bodies)
            before = watch(given.out, service)
            looks += 1
            raised |= {row["alarm"] for row in before["alarms"] if row["raised"] is not None}
            print(f"{before['answers']} clean ones: {sorted(raised) or 'no alarm'}", flush=True)
        other = shifted(given.shift, drawn(12, SHIFTED)[0], 13)
        for bodies in pictures(other, STEP):
            ask(service, bodies)
            after = watch(given.out, service)
        reader = RecordReader(service.folder)
        answers = sum(1 for _ in reader.since(0))
        whole = reader.check() is None
        service.stop()
    minutes = (time.perf_counter() - began) / 60
    text = HEAD.format(count=given.count, looks=looks, reference=REFERENCE, delta=DELTA)
    text += f"{before['answers']} clean answers: {', '.join(sorted(raised)) or 'no alarm'}. "
    text += f"Then {SHIFTED} digits with {SHIFTS[given.shift]}:\n\n" + TABLE
    rows = {row["alarm"]: row for row in before["alarms"]}
    for row in after["alarms"]:
        text += line(rows[row["alarm"]], row)
    text += (
        f"\n{answers} answers on record, every digest as it was written: {'yes' if whole else 'NO'}"
        f". {given.count / asking:.0f} certificates a second from {CLIENTS} clients on two cores "
        f"that others used;\n{minutes:.0f} minutes in all.\n"
    )
    (Path(__file__).parent / "results" / "watch_service.md").write_text(text, encoding="utf-8")


def line(before: dict[str, Any], after: dict[str, Any]) -> str:
    """Return a row of the table: an alarm before and after the shift."""
    n, b = before["answers"], after["tolerated"]
    mean = (after["mean"] * after["answers"] - before["mean"] * n) / (after["answers"] - n)
    predicted = delay(b, min(mean, 1.0), 1.0 / after["threshold"], n)
    at = after["raised"]
    told = "none" if at is None else str(at - n) if at > n else f"FALSE, {n - at} before"
    said = "never" if np.isinf(predicted) else f"{predicted:.0f}"
    highest = f"{before['highest']:.1f} of {before['threshold']:.0f}"
    return (
        f"| {after['alarm']} | {before['mean']:.3f} | {b:.3f} | {highest} | {mean:.3f} | {told} | "
        f"{said} |\n"
    )


HEAD = """# A watched service, from end to end

`python benchmarks/watch_service.py --out build/watch-service`: `deqcert serve digits` (sigma 0.25,
n = 30, alpha = 0.01, two evaluations a solve) answers {count} requests for certificates of clean
digits over the loopback, and `deqcert watch` looks at its record {looks} times, against a reference
of {reference} answers before, at delta = {delta:g}. Digits are drawn with replacement from the 360
test images. *Delay* counts from the first shifted answer, and *predicted* is what it is at most on
average with the mean that the shifted ones had.

"""
TABLE = (
    "| alarm | mean, clean | tolerated | most evidence, clean | mean, shifted | delay | predicted, "
    "at most |\n| --- | --- | --- | --- | --- | --- | --- |\n"
)


if __name__ == "__main__":
    main()
