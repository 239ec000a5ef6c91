"""What a solver costs beside the cell, against torchdeq's, plain torch and the memory's speed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from deqcert import kernels
from deqcert.devices import open_device
from deqcert.errors import ConfigError
from deqcert.memory import keep_freed_memory, peak_memory
from deqcert.report.aligned import columns
from deqcert.solvers import SOLVERS, StopRule, bind, get_solver

SIZES = (1024, 14336, 65536)
BATCHES = (1, 16, 100, 400)
COPIED = 1 << 24
"""Elements of the copy that measures the memory's bandwidth: more than caches hold."""

LARGEST = 3 << 30
"""Cells of the grid whose torchdeq solve would need more bytes than this are left out."""

DTYPES = {name: getattr(torch, name) for name in ("float32", "float64", "bfloat16")}

SMALLEST_PEAK = 1 << 20
"""Bytes of a batch of states from which its peak memory stands out of the process's other needs."""


@dataclass(frozen=True, slots=True)
class Timing:
    """One solver at one size, in milliseconds per iteration beyond the cell.

    Attributes:
        solver: Name of the method.
        rows: States solved together.
        size: Elements of a state.
        window: Window of the method; 1 for Picard.
        threads: Threads of torch.
        ours: Our solver: a whole solve less what was spent in the cell, over its iterations.
        torchdeq: The same method of torchdeq; NaN where it was not run.
        plain: The torch reference of our kernel; NaN where it was not run.
        floor: States read and written by our algorithm, at the bandwidth of copies that took turns
            with the solves.
        states: How many states that is, per row.
        bandwidth: That of those copies, bytes read and written a second.
        peak: Largest memory of our solve beyond the start states and what the cell returns, in
            batches of states; NaN where it cannot be measured or is too small to be.
        peak_torchdeq: The same of torchdeq's.
    """

    solver: str
    rows: int
    size: int
    window: int
    threads: int
    ours: float
    torchdeq: float
    plain: float
    floor: float
    states: float
    bandwidth: float
    peak: float = float("nan")
    peak_torchdeq: float = float("nan")


@dataclass(frozen=True)
class SolverBench:
    """Timings and what they were taken on."""

    timings: tuple[Timing, ...]
    facts: dict[str, Any] = field(default_factory=dict)

    def text(self) -> str:
        """A table for people: milliseconds per iteration, and ratios."""
        head = ("solver", "B", "D", "window", "ours ms", "floor ms", "x floor")
        rows = [(*head, "torchdeq ms", "faster x", "plain ms", "faster x", "states", "torchdeq's")]
        for t in self.timings:
            rows.append(
                (
                    t.solver,
                    str(t.rows),
                    str(t.size),
                    str(t.window),
                    f"{t.ours:.3f}",
                    f"{t.floor:.3f}",
                    f"{t.ours / t.floor:.2f}",
                    f"{t.torchdeq:.3f}",
                    f"{t.torchdeq / t.ours:.1f}",
                    f"{t.plain:.3f}",
                    f"{t.plain / t.ours:.1f}",
                    f"{t.peak:.1f}",
                    f"{t.peak_torchdeq:.1f}",
                )
            )
        facts = ", ".join(f"{name} {value}" for name, value in self.facts.items())
        return "\n".join([*columns(rows), facts])

    def json(self) -> str:
        """The same for machines."""
        return json.dumps(
            {"facts": self.facts, "timings": [asdict(timing) for timing in self.timings]}, indent=1
        )


def floor_states(solver: str, window: int, iterations: int) -> float:
    """States that our algorithm must read and write an iteration, per row.

    Picard reads z and f(z) and writes one state. Anderson (undamped) reads z, f(z), the other
    window - 1 residuals and values, and writes the new residual, the new value and the next state.
    Broyden reads z, f(z) and each direction held, and writes the new one and the next state.
    Counted is the mean over the iterations of a solve, whose window fills up. The copy of a best
    state that is about to be lost is not counted. Of a solver that is not built in nothing is
    known.

    Args:
        solver: Its name.
        window: Its window.
        iterations: Evaluations of the solve.

    Returns:
        States per iteration; NaN for a solver that is not built in.
    """
    if solver == "picard":
        return 3.0
    if solver == "anderson":
        held = [min(k, window - 1) for k in range(iterations)]
        return 5.0 + 2.0 * sum(held) / iterations
    if solver == "broyden":
        held = [k % window for k in range(iterations)]
        return 4.0 + sum(held) / iterations
    return float("nan")


def bench_solvers(
    solvers: Sequence[str] = ("picard", "anderson", "broyden"),
    sizes: Sequence[int] = SIZES,
    batches: Sequence[int] = BATCHES,
    *,
    window: int = 6,
    iterations: int = 30,
    rounds: int = 5,
    device: str = "cpu",
    dtype: str = "float32",
    tell: Callable[[Timing], None] | None = None,
) -> SolverBench:
    """Measure what solvers cost beside the cell, on a cell of one elementwise operation.

    Every round runs a copy, our solver, torchdeq's and the plain torch reference one after the
    other, at a fixed depth; of each the fastest round counts, so that what else the machine does
    matters less. On a CPU the cell is timed where it is called, because a solver decides what the
    cell finds in the caches; on a GPU, where that would need a synchronisation, it is timed alone
    and taken off. Times include each solver's allocations, from memory that the process keeps
    (:func:`deqcert.memory.keep_freed_memory`), as it does in every command.

    Args:
        solvers: Names of solvers. One that is not built in is measured with its own options, and
            with nothing beside it.
        sizes: Elements of a state.
        batches: States solved together.
        window: Of Anderson's method; Broyden's holds every iteration, as torchdeq's does.
        iterations: Evaluations per solve, at least 4.
        rounds: How often everything is run.
        device: As torch names it.
        dtype: Of the states: float32, float64, or bfloat16, in which torchdeq is not run because
            torch solves no linear systems in it.
        tell: Called with each timing as it is made.

    Returns:
        SolverBench: one timing for each solver, size and batch.

    Raises:
        ConfigError: If a name or a number cannot be measured.
    """
    for name in solvers:
        SOLVERS.get(name)
    if dtype not in DTYPES:
        raise ConfigError(f"dtype is {dtype!r}, but what can be measured is {', '.join(DTYPES)}")
    if iterations < 4 or rounds < 1 or min(*sizes, *batches, window) < 1:
        raise ConfigError("iterations must be at least 4, everything else at least 1")
    open_device(device)
    keep_freed_memory()
    timings = []
    for size in sizes:
        for rows in batches:
            for name in solvers:
                timing = _measure(
                    name, rows, size, window, iterations, rounds, device, DTYPES[dtype]
                )
                timings.append(timing)
                if tell is not None:
                    tell(timing)
    speeds = [timing.bandwidth / 1e9 for timing in timings]
    facts = {
        "copy GB/s": f"{min(speeds):.1f} to {max(speeds):.1f}" if speeds else "",
        "iterations": iterations,
        "rounds": rounds,
        "threads": torch.get_num_threads(),
        "device": device,
        "dtype": dtype,
        "torch": str(torch.__version__),
    }
    return SolverBench(tuple(timings), facts)


def _measure(
    name: str,
    rows: int,
    size: int,
    window: int,
    iterations: int,
    rounds: int,
    device: str,
    dtype: torch.dtype,
) -> Timing:
    windows = {"picard": 1, "anderson": window, "broyden": iterations}
    built_in = name in windows
    options = {"window": windows[name]} if built_in and name != "picard" else {}
    solver = get_solver(name, **options)
    held = windows[name] if built_in else int(getattr(solver, "window", 1))
    generator = torch.Generator().manual_seed(1)
    cell = _Cell(rows, size, device, dtype, generator)
    start = torch.zeros(rows, size, device=device, dtype=dtype)
    batch = rows * size * start.element_size()
    stop = StopRule(tol=0.0, max_nfe=iterations)
    source = torch.empty(COPIED, device=device).normal_()
    target = torch.empty_like(source)
    runs: dict[str, Callable[[], object]] = {
        "copy": lambda: target.copy_(source),
        "ours": lambda: solver.solve(bind(cell, cell.context), start, stop),
    }
    if built_in and batch * (2 * held + 8) <= LARGEST and dtype != torch.bfloat16:
        runs["torchdeq"] = _torchdeq(name, held, iterations, cell, start)
    if built_in and rows * size <= 1 << 21:
        runs["plain"] = lambda: _plain(solver, cell, start, iterations)
    best = dict.fromkeys(runs, float("inf"))
    for number in range(rounds + 1):  # the first round warms up and may be the fastest
        for key, run in runs.items():
            if key == "plain" and number > 1:
                continue  # slow, and far from everything else
            cell.seconds, cell.calls = 0.0, 0
            _wait(device)
            began = time.perf_counter()
            run()
            _wait(device)
            best[key] = min(best[key], time.perf_counter() - began - cell.seconds_in_all())
    peaks = {
        key: peak_memory(runs[key], device) / batch
        if key in runs and batch >= SMALLEST_PEAK
        else float("nan")
        for key in ("ours", "torchdeq")
    }
    bandwidth = 2 * source.numel() * source.element_size() / best["copy"]
    states = floor_states(name, held, iterations)

    def beside(key: str) -> float:
        return 1000 * best[key] / iterations if key in best else float("nan")

    return Timing(
        solver=name,
        rows=rows,
        size=size,
        window=held,
        threads=torch.get_num_threads(),
        ours=beside("ours"),
        torchdeq=beside("torchdeq"),
        plain=beside("plain"),
        floor=1000 * states * batch / bandwidth,
        states=states,
        bandwidth=bandwidth,
        peak=peaks["ours"],
        peak_torchdeq=peaks["torchdeq"],
    )


class _Cell:
    """One elementwise operation, z -> c + slope z, that knows what was spent in it."""

    def __init__(
        self, rows: int, size: int, device: str, dtype: torch.dtype, generator: torch.Generator
    ) -> None:
        self.context = torch.randn(rows, size, generator=generator).to(device, dtype)
        # Slopes of every size and sign, so that no method is done within its iterations.
        self.slope = torch.linspace(-0.97, 0.97, size, device=device).to(dtype).expand(1, size)
        self.image = torch.empty_like(self.context)
        self.seconds, self.calls = 0.0, 0
        self.alone = 0.0
        if device.startswith("cuda"):
            self.alone = self._time_alone(device)

    def __call__(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        began = time.perf_counter()
        torch.addcmul(self.context if context is None else context, self.slope, z, out=self.image)
        self.seconds += time.perf_counter() - began
        self.calls += 1
        return self.image

    def seconds_in_all(self) -> float:
        """Seconds spent in the cell since the counters were set to 0."""
        return self.alone * self.calls if self.alone else self.seconds

    def _time_alone(self, device: str, calls: int = 20) -> float:
        fastest = float("inf")
        for _ in range(5):
            _wait(device)
            began = time.perf_counter()
            for _ in range(calls):
                self(self.image)
            _wait(device)
            fastest = min(fastest, (time.perf_counter() - began) / calls)
        return fastest


def _torchdeq(
    name: str, window: int, iterations: int, f: Callable[[Tensor], Tensor], start: Tensor
) -> Callable[[], object]:
    from torchdeq.solver import get_solver as torchdeq_solver

    solve = torchdeq_solver({"picard": "fixed_point_iter"}.get(name, name))
    options: dict[str, Any] = {"m": window} if name == "anderson" else {}
    if name == "broyden":
        options = {"LBFGS_thres": window}

    def run() -> object:
        with torch.no_grad():
            return solve(f, start, max_iter=iterations, tol=0.0, **options)

    return run


def _plain(solver: Any, f: Callable[[Tensor], Tensor], start: Tensor, iterations: int) -> Tensor:
    """The torch reference of a step, in the plainest loop."""
    with torch.no_grad():
        z, out, state = start.clone(), torch.empty_like(start), solver.init(start)
        method, step = kernels.STEPS[solver.name], getattr(kernels, f"{solver.name}_step")
        kept = [getattr(state, name) for name in method.keeps]
        constants = {name: getattr(solver, name) for name in method.constants}
        for _ in range(iterations):
            fz = f(z)
            step.reference(z, fz, *kept, out, **constants)
            z, out = out, z
        return z


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
