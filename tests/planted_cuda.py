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
SUMS_ARE_THERE = f"{BARRIER}  // all sums are there before one warp adds them up\n"
TELL = "  if (!fault) fault = run_blocks(launch, a.rows, WARP, 0, spread_tell<T>, a);\n"
TAKE = "    fault = run_blocks(launch, all, THREADS, 0, spread_take<T>, a, blocks);\n"
DECIDE = "    if (!fault) fault = run_blocks(launch, a.rows, WARP, 0, spread_decide<T>, a);\n"

FAULTS = [
    ("a barrier before sums are read is gone", "anderson", "anderson.cu", f"  {BARRIER}\n", ""),
    *(
        ("sums are added up before all are there", method, f"{method}.cu", SUMS_ARE_THERE, "")
        for method in ("residual", "picard", "broyden")
    ),
    (
        "a factor does not wait for its sums",
        "broyden",
        "broyden.cu",
        f"    {BARRIER}  // and the sums that the next factor needs\n",
        "",
    ),
    (
        "a number changes while others read it",
        "broyden",
        "broyden.cu",
        f"  {BARRIER}  // everybody has read the row's numbers before they change\n",
        "",
    ),
    (
        "a verdict that nobody waits for",
        "picard",
        "picard.cu",
        f"    {BARRIER}  // the verdict is there before anybody acts on it\n",
        "",
    ),
    (
        "a barrier that one thread alone reaches",
        "picard",
        "picard.cu",
        f"    {BARRIER}  // the verdict",
        f"    if (threadIdx.x == 0) {BARRIER}  // the verdict",
    ),
    (
        "blocks that share a row decide before it is summed",
        "picard",
        "picard.cu",
        TAKE + DECIDE,
        DECIDE + TAKE,
    ),
    (
        "a block adds up what others sum in the same launch",
        "residual",
        "residual.cu",
        "  take(a, share_of(blocks));\n",
        "  take(a, share_of(blocks));\n  __syncthreads();\n"
        "  if (share_of(blocks).warp == 0) tell(a, share_of(blocks).row);\n",
        TELL,
        "",
    ),
    (
        "a factor takes the sums that it makes",
        "broyden",
        "broyden.cu",
        "return dots + j % 2 * pieces;",
        "return dots + 0 * j * pieces;",
    ),
    (
        "warps of different blocks have the same pieces",
        "residual",
        "spread.h",
        "% blocks * each + ",
        "% blocks * (each - 1) + ",
    ),
    (
        "a warp does not wait for its lanes",
        "anderson",
        "anderson.cu",
        "  __syncwarp();  // the sums are there before other lanes read them\n",
        "",
    ),
    (
        "a pivot that is read while it is written",
        "anderson",
        "small_system.h",
        "    __syncwarp();  // the next pivot, and the factors may be written again\n",
        "",
    ),
    (
        "factors of other lanes are not waited for",
        "anderson",
        "small_system.h",
        "    __syncwarp();  // a column needs the factors of all rows above its own\n",
        "",
    ),
    (
        "an unknown that is not waited for",
        "anderson",
        "small_system.h",
        "    __syncwarp();  // the next unknown\n",
        "",
    ),
    (
        "the elimination ends one row too early",
        "anderson",
        "small_system.h",
        "i <= j; ++i) a[",
        "i < j; ++i) a[",
    ),
    (
        "columns begin one too late",
        "anderson",
        "small_system.h",
        "int j = k + 1 + lane; j < k_end; j += WARP) {",
        "int j = k + 2 + lane; j < k_end; j += WARP) {",
    ),
    (
        "an element of the small system that nobody wrote",
        "anderson",
        "small_system.h",
        "    a[j * m + j] = 1.0 + ridge;\n",
        "",
    ),
    (
        "a small system that does not fit its memory",
        "anderson",
        "small_system.h",
        "m) * m + 4 * m;",
        "m) * m + 2 * m;",
    ),
    (
        "a shuffle that does not name one of its lanes",
        "anderson",
        "small_system.h",
        "there = __shfl_xor_sync(0xFFFFFFFFu",
        "there = __shfl_xor_sync(0xFFFFFFFEu",
    ),
    (
        "a shuffle without one of its lanes",
        "anderson",
        "sums.h",
        "value += __shfl",
        "if (threadIdx.x != 5) value += __shfl",
    ),
    (
        "a sum too many",
        "anderson",
        "anderson.cu",
        "w < WARPS; ++w) total",
        "w <= WARPS; ++w) total",
    ),
    (
        "shared memory out of bounds",
        "anderson",
        "anderson.cu",
        "sums[j][threadIdx.x / WARP] = sum",
        "sums[j][threadIdx.x / WARP + WARPS] = sum",
    ),
    ("one element too many", "anderson", "anderson.cu", "if (i < a.size) {", "if (i <= a.size) {"),
    ("the next element instead", "picard", "picard.cu", "= fz[i];", "= fz[i + 1];"),
    (
        "a lane that is left out of a sum",
        "residual",
        "sums.h",
        "step = WARP / 2",
        "step = WARP / 4",
    ),
]
"""What is wrong, the method that shows it, the file in csrc/cuda, words and what replaces them."""


def linked_with(fault: tuple[str, ...], sanitized: Path, folder: Path) -> None:
    """Make folder/deqcert a copy of the package around kernels with the fault."""
    _, method, name, *changes = fault
    shutil.copytree(sanitized / "deqcert", folder / "deqcert")
    shutil.copytree(ROOT / "csrc", folder / "csrc")
    path = folder / "csrc" / "cuda" / name
    text = path.read_text(encoding="utf-8")
    for words, instead in zip(changes[::2], changes[1::2], strict=True):
        assert words in text, (name, words)
        text = text.replace(words, instead, 1)
    path.write_text(text, encoding="utf-8")
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
    tests += ["tests/test_kernels_emulated.py"]
    pick = f"(cuda or emulated) and {method} and not torch and not without"
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
