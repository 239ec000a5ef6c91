"""The speed of the solvers under pytest-benchmark.

    python -m pytest benchmarks                      checks the harness at tiny sizes
    python -m pytest benchmarks --benchmark-only     times the solvers

No time and no ratio is asserted here; `benchmarks/solvers.py` measures ratios side by side.
"""

from __future__ import annotations

import json
import math

import gpu
import pytest
import torch

from deqcert.bench.pictures import draw_solver_bench
from deqcert.bench.solvers import bench_solvers, floor_states
from deqcert.errors import ConfigError
from deqcert.solvers import SOLVERS, StopRule, get_solver

ITERATIONS = 12


@pytest.mark.parametrize("size", [1024, 14336])
@pytest.mark.parametrize("name", SOLVERS.names())
def test_a_solve(benchmark, name, size):
    context, slope = torch.randn(8, size), torch.linspace(-0.9, 0.9, size)
    image = torch.empty_like(context)
    start, stop = torch.zeros_like(context), StopRule(tol=0, max_nfe=ITERATIONS)
    solver = get_solver(name)
    result = benchmark(
        solver.solve, lambda z: torch.addcmul(context, slope, z, out=image), start, stop
    )
    assert (result.nfe == ITERATIONS).all()


def test_the_harness_measures_every_solver_and_draws(tmp_path):
    told = []
    bench = bench_solvers(
        sizes=(16, 33), batches=(1, 3), window=3, iterations=5, rounds=1, tell=told.append
    )
    assert len(told) == len(bench.timings) == 12
    for timing in bench.timings:
        assert timing.floor > 0
        assert timing.bandwidth > 0
    assert len(json.loads(bench.json())["timings"]) == 12
    halves = bench_solvers(("anderson",), (16,), (2,), iterations=5, rounds=1, dtype="bfloat16")
    assert math.isnan(halves.timings[0].torchdeq)
    assert len(bench.text().splitlines()) == 14
    assert draw_solver_bench([bench], tmp_path / "x.png").stat().st_size > 1000


def test_floors_count_the_states_that_move():
    assert floor_states("picard", 1, 30) == 3
    # A full window of 6: z, f(z), 5 residuals and 5 values read; three states written.
    assert floor_states("anderson", 6, 10**6) == pytest.approx(15, abs=1e-3)
    # 30 directions in 30 iterations: 14.5 of them on average.
    assert floor_states("broyden", 30, 30) == 18.5


@pytest.mark.parametrize("dtype", gpu.TOLERANCE, ids=str)
@pytest.mark.parametrize("name", SOLVERS.names())
def test_the_check_of_gpu_kernels_passes_on_the_cpu_and_finds_a_wrong_one(name, dtype, monkeypatch):
    small = {"seed": 3, "device": "cpu", "shapes": [(1, 1, 1), (3, 17, 2), (7, 900, 6)]}
    assert gpu.check(name, dtype, **small) < gpu.TOLERANCE[dtype] / 5
    step = getattr(gpu.kernels, f"{name}_step")

    def wrong(*arrays, **options):
        step(*arrays, **options)
        arrays[-1][-1, -1] += 1.0  # the last element of the last row

    wrong.reference = step.reference
    monkeypatch.setattr(gpu.kernels, f"{name}_step", wrong)
    assert gpu.check(name, dtype, **small) > gpu.TOLERANCE[dtype]


def test_what_cannot_be_measured_is_refused_in_one_sentence():
    wrong = {"solvers": ("newton",), "rounds": 0, "window": 0, "iterations": 1, "dtype": "half"}
    for name, value in wrong.items():
        options = {name: value}
        with pytest.raises(ConfigError):
            bench_solvers(**options)
