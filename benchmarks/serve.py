"""What a service costs beside its engine: requests, latency and processor time, on the loopback.

    python benchmarks/serve.py --seconds 12 --out benchmarks/results/serve.md
    python benchmarks/serve.py --seconds 12 --golden ../shared/golden --out FILE   # MDEQ-SMALL, too

Makes a service in a process of its own, asks it with a bounded number of clients for a bounded time
in each mode (benchmarks/load.py, a process of its own), and has the engine do the same work in this
process, in turns with the service, four times each. Both have one thread for the model, the same
declared shape of an evaluation, the same images and the same rows at once: as many as there are
clients, and never more than the batch, then one stream that keeps the batch full. Processor time is
counted of the service (the whole process, user and system), of the engine and of who asks; it says
what a request costs where wall time says what was left by other programs.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from serving import Process

from deqcert.api import SmoothedClassifier
from deqcert.certifiers.independent import Independent
from deqcert.data import load_dataset
from deqcert.smoothing import Input
from deqcert.smoothing.seed import draw_seed
from deqcert.smoothing.stream import solve_stream

SIGMA, TURNS = 0.25, 4
TICKS = os.sysconf("SC_CLK_TCK")
HEADER = [
    "| mode | clients | requests/s | p50 ms | p99 ms | engine alone/s | service of engine | "
    "ms of processor: engine | service | of it engine | who asks |",
    "|---|---|---|---|---|---|---|---|---|---|---|",
]


@dataclass
class Measured:
    """Answers of the service and of the engine, with what they took."""

    answers: int = 0
    seconds: float = 0.0
    cpu: float = 0.0
    asking: float = 0.0
    latencies: list[float] = field(default_factory=list)


class Beside:
    """The engine by itself, doing what the service does."""

    def __init__(self, model: str, batch: int, images: NDArray[np.uint8]) -> None:
        smooth = SmoothedClassifier(model, sigma=SIGMA, batch=batch, levels=255)
        self.engine, self.predictor = smooth.engine, smooth.predictor
        self.inputs = [Input((x / 255).astype(np.float32), i) for i, x in enumerate(images)]

    def certify(self, n: int) -> int:
        """Certify an image."""
        self.engine.seed = draw_seed()
        made = Independent(self.predictor, n0=100, n=n, alpha=0.001)
        made.certify(self.engine, self.inputs[0])
        return 1

    def predict(self, together: int) -> int:
        """Solve a stream of images as they are; as many at once as there are clients."""
        engine, predictor = self.engine, self.predictor
        together = min(together, engine.batch)
        total = together if together < engine.batch else 4 * engine.batch

        def blocks() -> Iterator[tuple[NDArray[np.int64], torch.Tensor]]:
            for first in range(0, total, together):
                places = np.arange(first, first + together)
                inputs = [self.inputs[place % len(self.inputs)] for place in places]
                pixels = torch.stack([engine.prepare(input.x) for input in inputs])
                yield places, engine.model.inject(pixels.to(engine.dtype))

        with torch.no_grad():
            for rows in solve_stream(engine.model, predictor, blocks(), engine.batch):
                engine.read(rows, predictor.stop)
        return total


def directly(work: Callable[[], int], seconds: float, found: Measured) -> None:
    """Have the engine work for so many seconds, and add it up."""
    began, cpu = time.perf_counter(), time.process_time()
    while time.perf_counter() - began < seconds:
        found.answers += work()
    found.seconds += time.perf_counter() - began
    found.cpu += time.process_time() - cpu


def asked(
    service: Process, path: str, clients: int, seconds: float, bodies: Path, found: Measured
) -> None:
    """Have the clients ask for so many seconds, and add it up."""
    before = processor(service.process.pid)
    script = [sys.executable, str(Path(__file__).parent / "load.py"), service.address + path]
    options = ["--bodies", str(bodies), "--clients", str(clients), "--seconds", str(seconds)]
    made = subprocess.run([*script, *options], stdout=subprocess.PIPE, text=True, check=True)
    told = json.loads(made.stdout)
    found.cpu += processor(service.process.pid) - before
    found.answers += told["requests"]
    found.seconds += told["seconds"]
    found.asking += told["cpu"]
    found.latencies += told["latencies"]


def processor(pid: int) -> float:
    """Return the seconds of processor that a process has had, user and system."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / TICKS


def compare(
    model: str,
    images: NDArray[np.uint8],
    batch: int,
    modes: list[tuple[str, int, int]],
    seconds: float,
) -> Iterator[str]:
    """Yield a row of the table for each mode: its name, n and clients."""
    beside = Beside(model, batch, images)
    with tempfile.TemporaryDirectory() as folder:
        bodies = Path(folder) / "bodies"
        bodies.mkdir()
        for number, image in enumerate(images):
            (bodies / f"{number:03d}.png").write_bytes(png(image))
        options = ("--sigma", str(SIGMA), "--batch", str(batch), "--queue", "512")
        with Process(Path(folder), *options, model=model) as service:
            asked(service, "/v1/predict", 2, 1.0, bodies, Measured())
            for mode, n, clients in modes:
                work: Callable[[], int]
                if mode == "predict":
                    path, name = "/v1/predict", mode
                    work = lambda clients=clients: beside.predict(clients)  # noqa: E731
                else:
                    path, name = f"/v1/certify?n={n}", f"certify n={n}"
                    work = lambda n=n: beside.certify(n)  # noqa: E731
                work()
                engine, served = Measured(), Measured()
                for _ in range(TURNS):
                    directly(work, seconds / TURNS, engine)
                    asked(service, path, clients, seconds / TURNS, bodies, served)
                yield row(name, clients, engine, served)
            service.stop()


def row(name: str, clients: int, engine: Measured, served: Measured) -> str:
    """Return a row of the table."""
    alone, rate = engine.answers / engine.seconds, served.answers / served.seconds
    low, high = np.percentile(served.latencies, [50, 99]) * 1000
    cost, whole = engine.cpu / engine.answers, served.cpu / served.answers
    asking = served.asking / served.answers
    return (
        f"| {name} | {clients} | {rate:.3g} | {low:.0f} | {high:.0f} | {alone:.3g} | "
        f"{100 * rate / alone:.0f}% | {1e3 * cost:.3g} | {1e3 * whole:.3g} | "
        f"{100 * cost / whole:.0f}% | {1e3 * asking:.2g} |"
    )


def png(image: NDArray[np.uint8]) -> bytes:
    """Return an image of shape (C, H, W) as a PNG file."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(file, "PNG")
    return file.getvalue()


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--golden", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    digits = load_dataset("digits")
    images = np.stack([np.round(255 * digits.image(i)) for i in range(100)]).astype(np.uint8)
    predictions = [("predict", 1, clients) for clients in (1, 16, 64, 256)]
    certificates = [("certify", 1000, 1), ("certify", 1000, 16), ("certify", 10000, 1)]
    parts = [
        (
            "`digits`, batch 100",
            compare("digits", images, 100, predictions + certificates, given.seconds),
        )
    ]
    if given.golden is not None:
        checkpoint = given.golden / "mdeq_small_noise25.pth.tar"
        with np.load(given.golden / "mdeq_small_noise25.npz") as archive:
            real = archive["x"]
        modes = [("predict", 1, 1), ("predict", 1, 16), ("predict", 1, 64), ("certify", 200, 1)]
        found = compare(str(checkpoint.resolve()), real, 16, modes, 4 * given.seconds)
        parts.append(("MDEQ-SMALL of CIFAR-10's size (14336 numbers a state), batch 16", found))
    lines = [HEAD.format(seconds=f"{given.seconds:g}", cores=len(os.sched_getaffinity(0)))]
    for title, rows in parts:
        lines += [f"## {title}", "", *HEADER]
        print("\n".join(lines[-4:]), flush=True)
        for line in rows:
            lines.append(line)
            print(line, flush=True)
        lines.append("")
    load = os.getloadavg()[2]
    lines.append(f"Load average of 15 minutes at the end: {load:.1f}, all programs together.")
    lines += ["", TRIED.rstrip()]
    if given.out is not None:
        given.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


HEAD = """# A service beside its engine

`python benchmarks/serve.py --seconds {seconds} --golden ../shared/golden --out
benchmarks/results/serve.md` on {cores} cores that other programs used, too: `deqcert serve` at
sigma 0.25, one thread for the model, asked over the loopback by clients that each wait for their
answer. "Engine alone" is the same work without a service, in turns with it: the same images, rows
at once and declared shape. Milliseconds of processor are for one answer, of all threads: they do
not depend on what else runs, as requests a second do.
"""

TRIED = """## What was tried

Milliseconds of processor for a `predict`, service alone, before and after in one sitting (other
programs ran, too; differences below a tenth are noise). `digits` with 256 clients:

| change | before | after | kept |
|---|---|---|---|
| no thread waits for a request: rows and records go on in groups | 1.6 to 1.9 | 1.5 to 1.6 | yes |
| no task for headers, predictions past the framework's layers | 1.5 to 1.6 | 0.7 to 0.9 | yes |
| httptools in place of h11 | 0.71, 0.80 | 0.63, 0.79 | no: uvicorn takes it where it is |
| uvloop in place of asyncio | 0.71, 0.80 | 0.73, 0.93 | no |
| threads switched after 0.5 ms in place of 5 | 1.64, 1.81 | 1.97, 2.42 | no |

A faster writer of JSON was not tried: all of that was 1.4% of the event loop's samples. MDEQ-SMALL,
batch 16:

| change | clients | before | after | kept |
|---|---|---|---|---|
| rows join those that are being solved | 16 | 16.9 | 12.1 | yes |
| the same | 64 | 8.8 | 9.2 | yes |

What is left of a `predict` of digits: 0.4 to 0.5 ms in the thread that speaks HTTP, a third of it
the PNG, 0.06 in the thread that writes records (group commit was there before), the rest in the
engine's thread, whose batches are not full because requests do not come fast enough.
"""


if __name__ == "__main__":
    main()
