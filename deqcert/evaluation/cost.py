"""The part "cost": evaluations, time, memory, and energy where the machine counts it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from deqcert.evaluation.subject import Subject
from deqcert.memory import peak_memory

ROUNDS = 5
"""Times that a measurement is taken; the median counts."""

COUNTERS = Path("/sys/class/powercap")
"""Where Linux counts the energy of processors, in millionths of a joule."""


def cost(subject: Subject) -> dict[str, Any]:
    """Measure what an answer without noise costs.

    Returns:
        nfe (mean, largest), batch (rows of a batch), seconds (per image in a full batch), single
        (of one image alone; None for a form that takes full batches only), memory (bytes that a
        batch adds at most; None where the system does not tell), weights (number and bytes),
        energy (joules per image, or None) and why there is none.
    """
    smooth = subject.classifier
    rows = subject.rows
    images = subject.dataset.batch(subject.images[:rows])
    full = np.resize(images, (rows, *images.shape[1:]))
    nfe = subject.solved.nfe

    def batch() -> object:
        return subject.solve(full)

    any_rows = smooth.loaded.form in ("eager", "folded")
    if any_rows:
        subject.solve(images[:1], rows=1)
    batch()  # what is compiled and cached at first
    memory = peak_memory(batch, smooth.device)
    joules, why = _energy(batch)
    count, size = _weights(smooth.loaded.plain)
    return {
        "nfe": {"mean": float(nfe.mean()), "largest": int(nfe.max())},
        "batch": rows,
        "device": smooth.device,
        "form": smooth.loaded.form,
        "seconds": _median(batch) / rows,
        "single": _median(lambda: subject.solve(images[:1], rows=1)) if any_rows else None,
        "memory": None if math.isnan(memory) else memory,
        "weights": {"count": count, "bytes": size},
        "energy": None if joules is None else joules / rows,
        "no_energy": why,
    }


def _median(run: Callable[[], object]) -> float:
    found = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        run()
        found.append(time.perf_counter() - began)
    return float(np.median(found))


def _weights(model: Any) -> tuple[int, int]:
    found = list(getattr(model, "parameters", list)())
    return sum(p.numel() for p in found), sum(p.numel() * p.element_size() for p in found)


def _energy(run: Callable[[], object]) -> tuple[float | None, str | None]:
    """Return the joules that processors take while something runs, or None and why not."""
    before = _counters()
    if not before:
        return None, f"{COUNTERS} holds no counter that may be read here"
    for _ in range(ROUNDS):
        run()
    after = _counters()
    if set(after) != set(before) or any(after[key] < before[key] for key in before):
        return None, "a counter of energy began anew meanwhile"
    return sum(after[key] - before[key] for key in before) / 1e6 / ROUNDS, None


def _counters() -> dict[str, int]:
    found = {}
    for path in COUNTERS.glob("intel-rapl:[0-9]*/energy_uj"):
        if path.parent.name.count(":") != 1:  # a part of a package, which counts it already
            continue
        try:
            found[path.parent.name] = int(path.read_text())
        except (OSError, ValueError):
            continue
    return found
