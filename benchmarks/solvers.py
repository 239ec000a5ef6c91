"""Time the solvers against torchdeq's, plain torch and the copy bandwidth; keep what was found.

python benchmarks/solvers.py            the grid of docs/speed.md (about ten minutes)
python benchmarks/solvers.py --quick    one size of each
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from deqcert.bench.pictures import draw_solver_bench
from deqcert.bench.solvers import BATCHES, SIZES, SolverBench, bench_solvers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one size and batch")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    sizes, batches = ((14336,), (100,)) if options.quick else (SIZES, BATCHES)

    def tell(timing) -> None:
        print(SolverBench((timing,)).text().splitlines()[1], flush=True)

    common = {"rounds": options.rounds, "device": options.device, "tell": tell}
    grid = bench_solvers(sizes=sizes, batches=batches, **common)
    # Cost against the window, and against threads, at one size.
    benches = [grid]
    for window in (2, 4, 10, 16):
        benches.append(bench_solvers(("anderson",), (14336,), (16,), window=window, **common))
    threads = torch.get_num_threads()
    for count in {1, 2, 4, 8} - {threads} if options.device == "cpu" else ():
        if count <= (torch.get_num_threads() if count < threads else _cores()):
            torch.set_num_threads(count)
            benches.append(bench_solvers(sizes=(14336,), batches=(16,), **common))
    torch.set_num_threads(threads)

    whole = replace(grid, timings=tuple(t for bench in benches for t in bench.timings))
    options.out.mkdir(exist_ok=True)
    name = f"solvers-{options.device.partition(':')[0]}" + ("-quick" if options.quick else "")
    (options.out / f"{name}.json").write_text(whole.json() + "\n")
    (options.out / f"{name}.md").write_text(f"```\n{whole.text()}\n```\n")
    draw_solver_bench(benches, options.out / f"{name}.png")
    print(whole.text())


def _cores() -> int:
    import os

    return len(os.sched_getaffinity(0))


if __name__ == "__main__":
    main()
