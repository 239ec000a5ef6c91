"""The compiled module: whether it is there, which devices it serves, and how it is called.

Nothing else imports :mod:`deqcert._native`. ``DEQCERT_KERNELS=torch`` in the environment forces the
torch references, ``DEQCERT_KERNELS=native`` refuses to fall back to them.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import ModuleType
from typing import Concatenate, ParamSpec, Protocol, TypeVar, cast

import torch  # before the extension, so that both share the OpenMP runtime that torch brings

from deqcert.errors import KernelError

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


INTERFACE = 5
"""Of what the extension offers, so that this package calls no binary of other sources; raised with
every change of it, here and in csrc/bindings.cpp."""


def why_missing(package: Path, error: ImportError) -> str:
    """Say why there is no compiled extension.

    Args:
        package: The folder that it would be in; a build that failed has left its reason there.
        error: What its import raised.
    """
    needs = "docs/building.md says what its build needs"
    binaries = sorted(path.name for path in package.glob("_native.*") if path.suffix != ".pyi")
    if not binaries:
        try:
            why = (package / "_native_missing.txt").read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            why = "nothing says why"
        return f"the compiled extension was not built when deqcert was installed ({why}); {needs}"
    if not any(f"_native{suffix}" in binaries for suffix in EXTENSION_SUFFIXES):
        return f"the compiled extension is for another Python ({binaries[0]}); install again"
    return f"the compiled extension cannot be imported ({error}); {needs}"


def _load() -> tuple[ModuleType | None, str]:
    """The compiled module, or None and why."""
    try:
        from deqcert import _native
    except ImportError as error:
        return None, why_missing(Path(__file__).resolve().parent.parent, error)
    if getattr(_native, "interface", None) != INTERFACE:
        return None, "the compiled extension is that of another version of deqcert; install again"
    return _native, ""


extension, _MISSING = _load()
"""The compiled module, None where it is not installed."""


@dataclass(frozen=True)
class KernelStatus:
    """Which path the kernels take and why; what ``deqcert doctor`` prints."""

    path: str
    """``"native"`` or ``"torch"``, for tensors on the CPU."""
    reason: str
    cuda_built: bool
    """Whether the extension holds CUDA kernels."""
    cuda_visible: bool
    """Whether torch sees a CUDA device."""
    cuda_reason: str
    """Why tensors on the GPUs take the torch references; empty where none is seen or none does."""
    threads: int
    isa: str
    """Instruction set chosen at run time, empty without the extension."""
    compiler: str


def _forced() -> str:
    value = os.environ.get("DEQCERT_KERNELS", "")
    if value not in ("", "torch", "native"):
        raise KernelError(f"DEQCERT_KERNELS={value!r} is not known: use 'torch', 'native' or unset")
    return value


def why_not_built_for(capability: tuple[int, int], built: Sequence[int]) -> str:
    """Say why a GPU cannot run CUDA kernels; empty where it can.

    Machine code for an architecture runs on GPUs of the same major number that are not older. The
    last architecture is also there as PTX, which the driver compiles for every later GPU.

    Args:
        capability: Compute capability of the GPU, such as ``(8, 6)``.
        built: Architectures of the extension in ascending order, such as ``[75, 80, 90]``; empty
            where it was built without CUDA.
    """
    if not built:
        return "the extension was built without CUDA kernels"
    gpu = 10 * capability[0] + capability[1]
    if gpu >= built[-1] or any(gpu // 10 == code // 10 and gpu >= code for code in built):
        return ""
    names = ", ".join(f"{code // 10}.{code % 10}" for code in built)
    return (
        f"it has compute capability {capability[0]}.{capability[1]}, "
        f"but the CUDA kernels were built for {names} and later"
    )


@functools.cache
def _cuda_reason(index: int) -> str:
    """Why the extension does not serve a GPU; empty where it does."""
    if extension is None:
        return _MISSING
    capability = torch.cuda.get_device_capability(index)
    reason = why_not_built_for(capability, extension.cuda_architectures)
    return reason or str(extension.cuda_fault(index))


def _why_reference(device: torch.device) -> str:
    """Why tensors on ``device`` take the torch references; empty where they do not."""
    if _forced() == "torch":
        return "DEQCERT_KERNELS=torch"
    if extension is None:
        return _MISSING
    if device.type == "cuda":
        return _cuda_reason(torch.cuda.current_device() if device.index is None else device.index)
    return "" if device.type == "cpu" else f"there are no kernels for {device.type} tensors"


def uses_native(device: torch.device) -> bool:
    """Whether the extension handles tensors on ``device``.

    Raises:
        KernelError: If ``DEQCERT_KERNELS`` holds an unknown value or one that cannot be met.
    """
    reason = _why_reference(device)
    if reason and _forced() == "native":
        raise KernelError(
            f"DEQCERT_KERNELS=native, but the extension does not serve {device.type} tensors here "
            f"({reason}): rebuild it (see docs/building.md) or unset DEQCERT_KERNELS"
        )
    return not reason


def status() -> KernelStatus:
    """Say which path is live and why.

    Raises:
        KernelError: If ``DEQCERT_KERNELS`` holds an unknown value or one that cannot be met.
    """
    native = uses_native(torch.device("cpu"))
    reason = _why_reference(torch.device("cpu")) or "the compiled extension is installed"
    gpus = [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    reasons = {str(gpu): _why_reference(gpu) for gpu in gpus}
    return KernelStatus(
        path="native" if native else "torch",
        reason=reason,
        cuda_built=extension is not None and bool(extension.cuda_architectures),
        cuda_visible=torch.cuda.is_available(),
        cuda_reason="; ".join(f"{gpu}: {why}" for gpu, why in reasons.items() if why),
        threads=torch.get_num_threads(),
        isa="" if extension is None else extension.isa(),
        compiler="" if extension is None else extension.compiler,
    )


def run(name: str, *arguments: object, device: torch.device, **options: object) -> None:
    """Call a function of the extension on torch's current stream.

    Raises:
        KernelError: If the extension refuses an argument, which it names.
    """
    stream = 0
    if device.type == "cuda":
        stream = int(torch.cuda.current_stream(device).cuda_stream)
    threads = torch.get_num_threads()
    try:
        getattr(extension, name)(*arguments, **options, threads=threads, stream=stream)
    except ValueError as error:
        raise KernelError(str(error)) from None


def scratch(name: str, z: torch.Tensor, window: int = 1) -> torch.Tensor:
    """Allocate what a kernel needs for these states: (B, k) float64, k = 0 for the references."""
    each = 0
    if uses_native(z.device) and extension is not None:
        each = extension.workspace(name, window, z.shape[1], z.device.type == "cuda")
    return torch.empty((len(z), each), dtype=torch.float64, device=z.device)


class Kernel(Protocol[P, R_co]):
    """A function of this package: checks its arguments, then takes the path that is live."""

    @property
    def reference(self) -> Callable[P, R_co]:
        """The definition in torch, without checks, on any device."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Run the compiled kernel where it serves the device, else the reference."""


def kernel(
    checked: Callable[Concatenate[Callable[P, R], P], R],
) -> Callable[[Callable[P, R]], Kernel[P, R]]:
    """Make of a definition in torch the function that callers see.

    Args:
        checked: Takes the definition and then its arguments, checks them, and runs the extension or
            the definition.

    Returns:
        A decorator; what it returns has the definition's name, help and signature, keeps it as
        ``reference``, and records no history for gradients.
    """

    def decorate(reference: Callable[P, R]) -> Kernel[P, R]:
        @functools.wraps(reference)
        @torch.no_grad()
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            return checked(reference, *args, **kwargs)

        call.reference = reference  # type: ignore[attr-defined]
        return cast(Kernel[P, R], call)

    return decorate
