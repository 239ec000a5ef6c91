"""Check every CUDA kernel and time the solvers on this machine's GPU, in under ten minutes.

    python benchmarks/gpu.py

Steps are compared with the float64 reference on the CPU on fresh random inputs; then the solvers
are timed against torchdeq's on the same card, as multiples of the bytes that they must move at the
measured copy bandwidth. The results are kept in benchmarks/results/.
"""

from __future__ import annotations

import json
import math
import secrets
import sys
from pathlib import Path

import torch

from deqcert import kernels
from deqcert.bench.solvers import SolverBench, bench_solvers
from deqcert.kernels.step import ROWS, SIZE, WINDOW
from deqcert.solvers import get_solver

SHAPES = [(1, 1, 1), (3, 17, 2), (7, 9000, 6), (100, 14336, 6), (2, 65536, 10)]
OPTIONS = {"picard": {"damping": 0.7}, "anderson": {"ridge": 1e-3, "growth": 4.0}}
"""Where a solver's own would leave something out, or make weights too sensitive to compare."""
STEPS = 8

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.1}
"""Largest errors of a step, relative to the largest value of the state: ten times, or more, what
the CPU's kernels have on these problems."""


def main() -> None:
    if not torch.cuda.is_available():
        sys.exit("torch sees no GPU here; run this on a machine with one.")
    if not kernels.status().cuda_built:
        sys.exit("the extension has no CUDA kernels; build it where nvcc is found.")
    seed = secrets.randbits(31)
    print(f"{torch.cuda.get_device_name()}, seed {seed}")
    errors = {
        f"{name} {str(dtype).removeprefix('torch.')}": (check(name, dtype, seed), limit)
        for name in kernels.STEPS
        for dtype, limit in TOLERANCE.items()
    }
    errors["residual_norms"] = (check_norms(seed), 1e-12)
    errors["philox_normal"] = (check_noise(seed), 1e-300)
    for name, (error, limit) in errors.items():
        print(f"{name}: largest error {error:.2e}, allowed {limit:.0e}")
    bad = [name for name, (error, limit) in errors.items() if not error < limit]
    bench = bench_solvers(device="cuda", rounds=3, tell=tell)
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    found = {
        "gpu": torch.cuda.get_device_name(),
        "seed": seed,
        "errors": {name: error for name, (error, _) in errors.items()},
    }
    found |= json.loads(bench.json())
    (folder / "gpu.json").write_text(json.dumps(found, indent=1) + "\n")
    print(bench.text())
    print("share of the copy bandwidth is 1 / (x floor)")
    if bad:
        sys.exit(f"these kernels are wrong on this GPU: {', '.join(bad)}.")


def tell(timing) -> None:
    share = 100 * timing.floor / timing.ours
    print(SolverBench((timing,)).text().splitlines()[1], f" {share:.0f}% of copy bandwidth")


def memory(name: str, rows: int, size: int, window: int, device: str, dtype: torch.dtype):
    extents = {ROWS: rows, WINDOW: window, SIZE: size}
    return [
        torch.zeros([extents[extent] for extent in shape], dtype=own or dtype, device=device)
        for shape, own in kernels.STEPS[name].keeps.values()
    ]


def check(name: str, dtype: torch.dtype, seed: int, device: str = "cuda", shapes=SHAPES) -> float:
    """The largest error of a step against the float64 of its own inputs, relative to the state."""
    generator = torch.Generator().manual_seed(seed)
    solver, step = get_solver(name), f"{name}_step"
    options = {constant: getattr(solver, constant) for constant in kernels.STEPS[name].constants}
    options |= OPTIONS.get(name, {})
    worst = 0.0
    for rows, size, window in shapes:
        there = memory(name, rows, size, window, device, dtype)
        here = memory(name, rows, size, window, "cpu", torch.float64)
        slope = torch.randn(1, size, generator=generator).double().clamp(-0.95, 0.95)
        noise = torch.randn(rows, size, generator=generator).double()
        z = torch.zeros(rows, size, dtype=dtype)
        for _ in range(STEPS):
            fz = (slope * z.double() + noise + 0.1 * torch.sin(z.double())).to(dtype)
            out = torch.empty(rows, size, dtype=dtype, device=device)
            want = torch.empty(rows, size, dtype=torch.float64)
            moved = (z.to(device), fz.to(device))
            getattr(kernels, step)(*moved, *there, out, **options)
            getattr(kernels, step).reference(z.double(), fz.double(), *here, want, **options)
            error = (out.cpu().double() - want).abs().amax() / want.abs().amax().clamp_min(1)
            worst = max(worst, error.item() if math.isfinite(error) else math.inf)
            for mine, theirs in zip(there, here, strict=True):
                theirs.copy_(mine.cpu())  # so that rounding does not add up
            z = out.cpu()
    return worst


def check_norms(seed: int) -> float:
    generator = torch.Generator().manual_seed(seed + 1)
    z, fz = (torch.randn(50, 14336, generator=generator) for _ in range(2))
    got = kernels.residual_norms(z.cuda(), fz.cuda())
    want = kernels.residual_norms.reference(z, fz)
    return max(((a.cpu() - b) / b).abs().max().item() for a, b in zip(got, want, strict=True))


def check_noise(seed: int) -> float:
    want, got = torch.empty(64, 3075), torch.empty(64, 3075, device="cuda")
    for out, function in ((want, kernels.philox_normal.reference), (got, kernels.philox_normal)):
        function(out, seed=seed, index=1, stage=2, first=3)
    return 0.0 if torch.equal(want.view(torch.int32), got.cpu().view(torch.int32)) else 1.0


if __name__ == "__main__":
    main()
