"""The compiled module: whether it is there, which devices it serves, and how it is called.

Nothing else imports :mod:`deqcert._native`. ``DEQCERT_KERNELS=torch`` in the environment forces the
torch references, ``DEQCERT_KERNELS=native`` refuses to fall back to them.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Concatenate, ParamSpec, Protocol, TypeVar, cast

import torch  # before the extension, so that both share the OpenMP runtime that torch brings

from deqcert.errors import KernelError

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


def _load() -> tuple[ModuleType | None, str]:
    """The compiled module, or None and why."""
    try:
        from deqcert import _native
    except ImportError as error:
        return None, (
            f"the compiled extension cannot be imported ({error}); "
            "docs/building.md says what its build needs"
        )
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
    threads: int
    simd: str
    """Instruction set chosen at run time, empty without the extension."""
    compiler: str


def _forced() -> str:
    value = os.environ.get("DEQCERT_KERNELS", "")
    if value not in ("", "torch", "native"):
        raise KernelError(f"DEQCERT_KERNELS={value!r} is not known: use 'torch', 'native' or unset")
    return value


def uses_native(device: torch.device) -> bool:
    """Whether the extension handles tensors on ``device``.

    Raises:
        KernelError: ``DEQCERT_KERNELS`` holds an unknown value or one that cannot be met.
    """
    forced = _forced()
    if forced == "torch":
        return False
    if extension is not None and (
        device.type == "cpu" or (device.type == "cuda" and extension.cuda_built)
    ):
        return True
    if forced == "native":
        raise KernelError(
            f"DEQCERT_KERNELS=native, but the extension does not serve {device.type} tensors here: "
            "rebuild it (see docs/building.md) or unset DEQCERT_KERNELS"
        )
    return False


def status() -> KernelStatus:
    """Say which path is live and why.

    Raises:
        KernelError: ``DEQCERT_KERNELS`` holds an unknown value or one that cannot be met.
    """
    native = uses_native(torch.device("cpu"))
    if native:
        reason = "the compiled extension is installed"
    else:
        reason = _MISSING or "DEQCERT_KERNELS=torch"
    return KernelStatus(
        path="native" if native else "torch",
        reason=reason,
        cuda_built=extension is not None and extension.cuda_built,
        cuda_visible=torch.cuda.is_available(),
        threads=torch.get_num_threads(),
        simd="" if extension is None else extension.simd(),
        compiler="" if extension is None else extension.compiler,
    )


def run(name: str, *arguments: object, device: torch.device, **options: object) -> None:
    """Call a function of the extension on torch's current stream.

    Raises:
        KernelError: The extension refuses an argument, which it names.
    """
    stream = 0
    if device.type == "cuda":
        stream = int(torch.cuda.current_stream(device).cuda_stream)
    threads = torch.get_num_threads()
    try:
        getattr(extension, name)(*arguments, **options, threads=threads, stream=stream)
    except ValueError as error:
        raise KernelError(str(error)) from None


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
