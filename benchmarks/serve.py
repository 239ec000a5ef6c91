"""What a service costs beside its engine: requests a second and latency, on the loopback alone.

    python benchmarks/serve.py --seconds 3 --out benchmarks/results/serve.md

Makes a service of ``digits`` in a process of its own, asks it with a bounded number of clients for
a bounded time in each mode, and casts the same votes by calling the engine directly in the same
run, before and after, in this process. Both have one thread for the model.
"""

from __future__ import annotations

import argparse
import http.client
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from serving import Process

from deqcert.api import SmoothedClassifier
from deqcert.certifiers.independent import Independent
from deqcert.data import load_dataset
from deqcert.smoothing import Copies, Input, Stage
from deqcert.smoothing.seed import draw_seed

SIGMA, BATCH = 0.25, 100


def bytes_of(index: int) -> bytes:
    import io

    from PIL import Image

    file = io.BytesIO()
    pixels = np.round(255 * load_dataset("digits").image(index)[0]).astype(np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def load(
    address: str, path: str, clients: int, seconds: float, bodies: list[bytes]
) -> tuple[float, list[float]]:
    """Ask from so many clients, each one request at a time; return requests a second, latencies."""
    taken: list[float] = []
    place = urlsplit(address)
    ready = threading.Barrier(clients + 1)

    def one(number: int) -> None:
        client = http.client.HTTPConnection(str(place.hostname), place.port, timeout=300)
        client.connect()
        ready.wait()
        ends = time.perf_counter() + seconds
        for turn in range(1_000_000):
            began = time.perf_counter()
            if began >= ends:
                break
            body = bodies[(number + turn * clients) % len(bodies)]
            client.request("POST", path, body, {"content-type": "image/png"})
            answer = client.getresponse()
            assert answer.status == 200, answer.read()
            answer.read()
            taken.append(time.perf_counter() - began)
        client.close()

    threads = [threading.Thread(target=one, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    ready.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    return len(taken) / (time.perf_counter() - began), taken


def directly(work: Callable[[], int], seconds: float) -> float:
    """Return how many answers a second the engine gives when it is called directly."""
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        done += work()
    return done / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seconds", type=float, default=10.0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    smooth = SmoothedClassifier("digits", sigma=SIGMA, batch=BATCH, levels=255)
    engine, predictor = smooth.engine, smooth.predictor
    pixels = [np.round(255 * load_dataset("digits").image(i)) / 255 for i in range(100)]
    inputs = [Input(x.astype(np.float32), i) for i, x in enumerate(pixels)]

    def certify(n: int) -> int:
        engine.seed = draw_seed()
        Independent(predictor, n0=100, n=n, alpha=0.001).certify(engine, inputs[0])
        return 1

    def predict(together: int) -> int:
        Copies(engine, predictor).answers(inputs[:together], int(Stage.PREDICT), 1)
        return together

    rows: list[tuple[str, str, int, Callable[[], int]]] = [
        ("predict", "/v1/predict", 1, lambda: predict(1)),
        ("predict", "/v1/predict", 16, lambda: predict(16)),
        ("predict", "/v1/predict", 64, lambda: predict(64)),
        ("certify n=1000", "/v1/certify?n=1000", 1, lambda: certify(1000)),
        ("certify n=1000", "/v1/certify?n=1000", 16, lambda: certify(1000)),
        ("certify n=10000", "/v1/certify?n=10000", 1, lambda: certify(10000)),
    ]
    bodies = [bytes_of(index) for index in range(100)]
    lines = [
        "| mode | clients | requests/s | p50 ms | p99 ms | engine alone/s | service of engine |",
        "|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        options = ("--sigma", str(SIGMA), "--batch", str(BATCH))
        with Process(Path(folder), *options) as service:
            load(service.address, "/v1/predict", 2, 1.0, bodies)
            for name, path, clients, work in rows:
                work()
                before = directly(work, given.seconds / 2)
                rate, taken = load(service.address, path, clients, given.seconds, bodies)
                after = directly(work, given.seconds / 2)
                alone = statistics.mean([before, after])
                low, high = np.percentile(taken, [50, 99]) * 1000
                lines.append(
                    f"| {name} | {clients} | {rate:.3g} | {low:.0f} | {high:.0f} | "
                    f"{alone:.3g} | {100 * rate / alone:.0f}% |"
                )
                print(lines[-1], flush=True)
            service.stop()
    text = "\n".join(lines) + "\n"
    if given.out is not None:
        given.out.write_text(HEAD + text, encoding="utf-8")


HEAD = """# A service beside its engine

`python benchmarks/serve.py --seconds 3 --out benchmarks/results/serve.md` on two shared cores:
`deqcert serve digits` at sigma 0.25 and batch 100, one thread for the model, asked over the
loopback by clients that each wait for their answer. "Engine alone" is the same work by calling
the engine directly, in the same run, before and after (mean); for `predict` as many images in
one call as there are clients. Clients and service share the two cores, on which other programs
ran: read the last column, which swings by tens of percent from run to run.

"""


if __name__ == "__main__":
    main()
