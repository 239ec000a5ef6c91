"""Put faults into the CUDA kernels and see the emulated GPU find each of them.

    make planted

The objects of ``make sanitize`` are linked again around one file that holds a fault, and the
kernels' tests have to fail on it. Prints a line for each fault; ends with 1 if one was missed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BARRIER = "__syncthreads();"
TOTALS = "  __syncthreads();\n  for (int k = 0; k < N; ++k) {\n    double total"

FAULTS = [
    ("a barrier before sums are read is gone", "anderson", "anderson.cu", f"  {BARRIER}\n", ""),
    ("the barrier in sums of a block is gone", "broyden", "launch.h", TOTALS, TOTALS[19:]),
    (
        "sums are written before the last are read",
        "broyden",
        "launch.h",
        f"  {BARRIER}  // the last totals have been read\n",
        "",
    ),
    (
        "a number changes while others read it",
        "broyden",
        "broyden.cu",
        f"  {BARRIER}  // everybody has read the row's numbers before one thread changes them\n",
        "",
    ),
    ("a warp does not wait for its lanes", "anderson", "anderson.cu", "  __syncwarp();\n", ""),
    (
        "a barrier that one thread alone reaches",
        "picard",
        "picard.cu",
        f"  {BARRIER}\n  const Verdict",
        f"  if (threadIdx.x == 0) {BARRIER}\n  const Verdict",
    ),
    (
        "a shuffle without one of its lanes",
        "anderson",
        "launch.h",
        "value += __shfl",
        "if (threadIdx.x != 5) value += __shfl",
    ),
    (
        "shared memory that nobody wrote",
        "residual",
        "launch.h",
        "w < warps; ++w) total",
        "w <= warps; ++w) total",
    ),
    (
        "shared memory out of bounds",
        "broyden",
        "launch.h",
        "shared[k][warp] = sum",
        "shared[k][warp + 32] = sum",
    ),
    ("one element too many", "anderson", "anderson.cu", "if (i < a.size) {", "if (i <= a.size) {"),
    ("the next element instead", "picard", "picard.cu", "= fz[i];", "= fz[i + 1];"),
    ("a lane that is left out of a sum", "residual", "launch.h", "int step = 16", "int step = 8"),
]
"""What is wrong, the method that shows it, the file in csrc/cuda, and the words changed."""


def linked_with(fault: tuple[str, str, str, str, str], sanitized: Path, folder: Path) -> None:
    """Make folder/deqcert a copy of the package around kernels with the fault."""
    _, method, name, words, instead = fault
    shutil.copytree(sanitized / "deqcert", folder / "deqcert")
    shutil.copytree(ROOT / "csrc", folder / "csrc")
    path = folder / "csrc" / "cuda" / name
    text = path.read_text(encoding="utf-8")
    assert words in text, (name, words)
    path.write_text(text.replace(words, instead, 1), encoding="utf-8")
    flags = [*os.environ["SANITIZERS"].split(), "-std=c++17", "-O1", "-fPIC", "-w"]
    flags += ["-ffp-contract=off", "-fvisibility=hidden", "-DDEQCERT_EMULATED", "-DDEQCERT_X86"]
    flags += [f"-I{folder / 'csrc' / 'emulated'}"]
    made = folder / "fault.o"
    kernel = folder / "csrc" / "cuda" / f"{method}.cu"
    compiler = [os.environ.get("CXX", "g++"), *flags, "-x", "c++", "-c", str(kernel), "-o"]
    plain = {**os.environ, "LD_PRELOAD": ""}
    subprocess.run([*compiler, str(made)], check=True, env=plain)
    objects = [
        made if path.name == f"{method}_cuda.o" else path
        for path in sorted((sanitized / "build").rglob("*.o"))
    ]
    native = next((folder / "deqcert").glob("_native*.so"))
    native.unlink()
    link = [
        compiler[0],
        *os.environ["SANITIZERS"].split(),
        "-shared",
        "-fopenmp",
        "-o",
        str(native),
    ]
    subprocess.run([*link, *map(str, objects)], check=True, env=plain)


def found(method: str, folder: Path) -> str:
    """What the kernels' tests say on the package in a folder; empty if they pass."""
    tests = [f"tests/test_kernels_{method}.py"] if method in ("anderson", "broyden") else []
    tests += ["tests/test_kernels_residual.py"] if method == "residual" else []
    tests += ["tests/test_kernels_watch.py"] if method != "residual" else []
    pick = "cuda" if method == "residual" else f"cuda and {method}"
    pick += " and not torch and not without"
    command = [sys.executable, "-P", "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, *tests, "-k", pick],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
    )
    if done.returncode == 0:
        return ""
    said = re.findall(
        r"^(?:E  .*|.*ERROR: AddressSanitizer.*|.*runtime error:.*)$",
        done.stdout + done.stderr,
        re.M,
    )
    return " ".join(said[0].split()[:16]) if said else f"exit code {done.returncode}"


def main(sanitized: Path) -> int:
    missed = 0
    for fault in FAULTS:
        with tempfile.TemporaryDirectory() as name:
            linked_with(fault, sanitized, Path(name))
            said = found(fault[1], Path(name))
        missed += not said
        print(f"{fault[0]} ({fault[1]}): {said or 'MISSED'}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]).resolve()))
