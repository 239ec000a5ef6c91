"""Build of the compiled extension; everything else about the package is in pyproject.toml.

The sources are found by rule: ``csrc/*.cpp`` once, ``csrc/cpu/*.cpp`` once for each instruction
set, ``csrc/cuda/*.cu`` where nvcc is found (or, for tests, by the C++ compiler, on an emulated
GPU). Nothing here fails the installation: without a C++ compiler the package runs on its torch
references, without nvcc the extension is for the CPU.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
# Products and sums stay apart (no contraction), so that the noise and the sums have the same bits
# on every machine; nobody reads errno or traps floating-point exceptions, so loops vectorise.
CXX_FLAGS = [
    "-std=c++17",
    "-O3",
    "-g0",
    "-fvisibility=hidden",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fno-strict-aliasing",
    "-Wall",
    "-Wextra",
]
# Instrumentation for `make sanitize`.
SANITIZE = os.environ.get("DEQCERT_SANITIZE", "").split()
WHY = "_native_missing.txt"
"""Why there is no extension, beside the package, for ``deqcert doctor``."""
# Instead of nvcc: the CUDA kernels as one more instruction set of the processor (`make sanitize`).
EMULATED = os.environ.get("DEQCERT_CUDA") == "emulated"
# Name, doubles in a register, flags; csrc/dispatch.cpp chooses among them at run time.
PORTABLE = [("portable", 2, [])]
X86 = [
    ("avx2", 4, ["-mavx2", "-mfma"]),
    ("avx512", 8, ["-mavx512f", "-mavx512dq", "-mavx512vl", "-mprefer-vector-width=512"]),
]
NVCC_FLAGS = [
    "-std=c++17",
    "-O3",
    "-fmad=false",
    "-cudart=static",
    "-Xcompiler=-fPIC,-fvisibility=hidden",
]


# Machine code for one of these runs on every GPU of the same first digit that is not older. The
# last that nvcc knows is there as PTX too, which the driver compiles for whatever comes later.
ARCHITECTURES = [75, 80, 90]


def say(message: str) -> None:
    """Tell the person who installs."""
    print(f"deqcert: {message}", file=sys.stderr, flush=True)


def find_nvcc() -> str | None:
    """The CUDA compiler, whether or not a GPU is visible; None where DEQCERT_CUDA=0."""
    wanted = os.environ.get("DEQCERT_CUDA")
    if wanted in ("0", "emulated"):
        say(f"DEQCERT_CUDA={wanted}, building without nvcc")
        return None
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    places = [str(Path(home) / "bin") for home in homes if home]
    places += [os.environ.get("PATH", os.defpath), "/usr/local/cuda/bin"]
    found = shutil.which("nvcc", path=os.pathsep.join(places))
    if found is None:
        say("no nvcc on PATH or under CUDA_HOME, building without the CUDA kernels")
    return found


def cuda_library(nvcc: str) -> str | None:
    """The folder of the static CUDA runtime of the toolkit that nvcc says it belongs to."""
    dry = subprocess.run([nvcc, "-dryrun", "x.cu"], capture_output=True, text=True)
    tops = [line.partition("TOP=")[2] for line in dry.stderr.splitlines() if " TOP=" in line]
    for top in [*tops, str(Path(nvcc).resolve().parent.parent)]:
        for pattern in ("lib64", "lib", "targets/*/lib"):
            for folder in sorted(Path(top).glob(pattern)):
                if (folder / "libcudart_static.a").exists():
                    return str(folder.resolve())
    return None


def architectures(nvcc: str) -> list[int]:
    """Those of ARCHITECTURES that nvcc can still, or already, compile for."""
    done = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True)
    known = done.stdout.split()
    return [built for built in ARCHITECTURES if f"compute_{built}" in known] or ARCHITECTURES


class FreshBuildPy(build_py):
    """Copies the package into an empty folder.

    A build folder that an earlier build left behind may hold a binary, or modules, that this build
    does not make; they would go into the wheel.
    """

    def run(self) -> None:
        """Copy, after removing what an earlier build has left."""
        if not self.editable_mode:
            shutil.rmtree(Path(self.build_lib) / "deqcert", ignore_errors=True)
        super().run()


class BuildNative(build_ext):
    """Compiles csrc/ with the flags that each file needs."""

    def build_extension(self, ext: Extension) -> None:
        """Compile and link ``deqcert._native``; errors make setuptools go on without it."""
        reason = Path(self.get_ext_fullpath(ext.name)).with_name(WHY)
        reason.unlink(missing_ok=True)
        try:
            self.compile_and_link(ext)
        except Exception as error:
            words = self.fault(error)
            say(f"{words}, going on without the kernels")
            reason.parent.mkdir(parents=True, exist_ok=True)
            reason.write_text(words + "\n", encoding="utf-8")
            raise

    def compile_and_link(self, ext: Extension) -> None:
        """Make the binary of ``deqcert._native``."""
        import nanobind

        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        home = Path(nanobind.__file__).parent
        include = [nanobind.include_dir(), str(home / "ext" / "robin_map" / "include")]
        folder = Path(self.build_temp) / "csrc"
        folder.mkdir(parents=True, exist_ok=True)
        openmp = ["-fopenmp"] if self.accepts("-fopenmp", "#include <omp.h>") else []
        if not openmp:
            say("the C++ compiler has no OpenMP, the CPU kernels will use one thread")
        x86 = platform.machine() in ("x86_64", "AMD64") and all(
            self.accepts(flag) for _, _, flags in X86 for flag in flags
        )
        macros: list[tuple[str, str]] = [("DEQCERT_X86", "1")] if x86 else []

        def compiled(
            source: Path, name: str, flags: list[str], defined: list[tuple[str, str]]
        ) -> list[str]:
            return self.compiler.compile(
                [os.path.relpath(source)],
                output_dir=str(folder / name),
                macros=[*macros, *defined],
                include_dirs=[*include, *self.compiler.include_dirs],
                extra_postargs=[*CXX_FLAGS, *flags, *SANITIZE],
            )

        cuda, libraries, built = self.cuda_objects(folder)
        if cuda:
            macros.append(("DEQCERT_CUDA", ",".join(map(str, built))))
        jobs: list[Callable[[], list[str]]] = []
        if EMULATED:
            macros.append(("DEQCERT_EMULATED", "1"))
            sources = [ROOT / "csrc" / "emulated" / "emulator.cpp"]
            for kernel in sorted((ROOT / "csrc" / "cuda").glob("*.cu")):
                sources.append(folder / (kernel.stem + "_cuda.cpp"))  # a name that g++ takes
                sources[-1].write_text(f'#include "{kernel}"\n')
            flags = [f"-I{ROOT / 'csrc' / 'emulated'}", "-Wno-unknown-pragmas"]
            jobs += [lambda p=path: compiled(p, "emulated", flags, []) for path in sources]
        for isa, width, more in PORTABLE + (X86 if x86 else []):
            defined = [("DEQCERT_ISA", isa), ("DEQCERT_WIDTH", str(width))]
            for path in sorted((ROOT / "csrc" / "cpu").glob("*.cpp")):
                jobs.append(lambda p=path, i=isa, f=more, d=defined: compiled(p, i, f + openmp, d))
        compiler = [("DEQCERT_COMPILER", '"' + self.compiler_version() + '"')]
        for path in sorted((ROOT / "csrc").glob("*.cpp")):
            jobs.append(lambda p=path: compiled(p, "common", [], compiler))
        small = [("NDEBUG", "1"), ("NB_COMPACT_ASSERTIONS", "1")]
        combined = home / "src" / "nb_combined.cpp"
        jobs.append(lambda: compiled(combined, "nanobind", ["-w"], small))
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            objects = [o for made in pool.map(lambda job: job(), jobs) for o in made]

        self.compiler.link_shared_object(
            objects + cuda,
            str(target),
            extra_postargs=[*openmp, *libraries, *SANITIZE],
            target_lang="c++",
        )

    def cuda_objects(self, folder: Path) -> tuple[list[str], list[str], list[int]]:
        """Compiled CUDA kernels, what to link with them, what for; empty where that cannot be."""
        nvcc = find_nvcc()
        if nvcc is None:
            return [], [], []
        library = cuda_library(nvcc)
        if library is None:
            say(f"no libcudart_static.a beside {nvcc}, building without the CUDA kernels")
            return [], [], []
        built = architectures(nvcc)
        codes = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in built]
        codes.append(f"-gencode=arch=compute_{built[-1]},code=compute_{built[-1]}")
        codes.append("-DDEQCERT_CUDA")  # kernels.h then declares them
        (folder / "cuda").mkdir(exist_ok=True)

        def compiled(source: Path) -> str:
            made = folder / "cuda" / (source.stem + ".o")
            command = [nvcc, *NVCC_FLAGS, *codes, "-c", str(source), "-o", str(made)]
            subprocess.run(command, check=True)
            return str(made)

        sources = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
        try:
            with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
                objects = list(pool.map(compiled, sources))
        except (OSError, subprocess.CalledProcessError) as error:
            say(f"the CUDA kernels do not compile ({error}), building without them")
            return [], [], []
        say(f"CUDA kernels compiled by {nvcc}")
        linked = [f"-L{library}", "-lcudart_static", "-ldl", "-lrt", "-lpthread"]
        return objects, linked, built

    def copy_extensions_to_source(self) -> None:
        """Put the binary beside the package; where there is none, remove that of older sources."""
        for ext in self.extensions:
            beside = ROOT / self.get_ext_filename(ext.name)
            beside.unlink(missing_ok=True)
            beside.with_name(WHY).unlink(missing_ok=True)
            if (reason := Path(self.build_lib, "deqcert", WHY)).exists():
                shutil.copyfile(reason, beside.with_name(WHY))
        super().copy_extensions_to_source()

    def accepts(self, flag: str, source: str = "") -> bool:
        """Whether the C++ compiler takes a flag for compiling and linking."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "try.cpp"
            path.write_text(source + "\nint main() { return 0; }\n")
            command = [*self.cxx(), flag, str(path), "-o", str(Path(folder) / "try")]
            try:
                return subprocess.run(command, capture_output=True).returncode == 0
            except OSError:
                return False

    def fault(self, error: Exception) -> str:
        """Say in a few words what an error of the build comes from."""
        name = self.cxx()[0]
        if shutil.which(name) is None:
            return f"there is no C++ compiler {name!r}"
        if not self.accepts("-std=c++17"):
            return f"the C++ compiler {name!r} compiles no C++17 program"
        said = " ".join(str(error).split())
        return f"the C++ compiler {name!r} does not compile the kernels: ...{said[-200:]}"

    def cxx(self) -> list[str]:
        """The C++ compiler's command, without the flags that Python was built with."""
        words = getattr(self.compiler, "compiler_cxx", None) or ["c++"]
        return [words[0]]

    def compiler_version(self) -> str:
        """The first line of ``--version``, for ``deqcert doctor``."""
        try:
            text = subprocess.run([*self.cxx(), "--version"], capture_output=True, text=True).stdout
        except OSError:
            return "unknown"
        return text.splitlines()[0].replace('"', "").replace("\\", "") if text else "unknown"


setup(
    ext_modules=[Extension("deqcert._native", ["csrc/bindings.cpp"], optional=True)],
    cmdclass={"build_ext": BuildNative, "build_py": FreshBuildPy},
)
