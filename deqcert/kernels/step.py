"""What the steps of all solvers share: their arguments, the checks of them, the call."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Concatenate, NamedTuple, ParamSpec, cast

import torch
from torch import Tensor

from deqcert.errors import KernelError
from deqcert.kernels.arrays import capsule, check_array, check_states
from deqcert.kernels.native import Kernel, extension, kernel, run, uses_native
from deqcert.kernels.watch import check_watch

P = ParamSpec("P")

ROWS, WINDOW, SIZE = "rows", "window", "size"
"""Extents of the arrays of a method: its rows, the states that it remembers, their elements."""


class Kept(NamedTuple):
    """An array that a method keeps from step to step: its shape, and its dtype if not z's."""

    shape: tuple[str, ...]
    dtype: torch.dtype | None = None


class Bound(NamedTuple):
    """What a constant of a method may be: in words, and as a test."""

    words: str
    holds: Callable[[Any], bool]


FINITE = Bound("a finite number", math.isfinite)
POSITIVE = Bound("a finite number > 0", lambda value: math.isfinite(value) and value > 0)
NOT_NEGATIVE = Bound("a finite number >= 0", lambda value: math.isfinite(value) and value >= 0)
AT_LEAST_ONE = Bound("a number >= 1 (or infinity)", lambda value: value >= 1)
FLAG = Bound("True or False", lambda value: isinstance(value, bool))


@dataclass(frozen=True)
class StepOf:
    """What :func:`step_kernel` knows of a method."""

    name: str
    keeps: Mapping[str, Kept]
    constants: Mapping[str, Bound]
    max_window: int

    def check(self, given: Mapping[str, Any]) -> int:
        """Refuse the first argument that a step cannot take; return the window."""
        z = check_states("z", given["z"])
        check_array("fz", given["fz"], tuple(z.shape), z.dtype, z.device)
        extents = {ROWS: z.shape[0], SIZE: z.shape[1]}
        for name, kept in self.keeps.items():
            if WINDOW in kept.shape and WINDOW not in extents:
                extents[WINDOW] = self._window(name, given[name], kept.shape, extents)
            shape = tuple(extents[extent] for extent in kept.shape)
            check_array(name, given[name], shape, kept.dtype or z.dtype, z.device, written=True)
        check_array("out", given["out"], tuple(z.shape), z.dtype, z.device, written=True)
        for name, bound in self.constants.items():
            if not bound.holds(given[name]):
                raise KernelError(f"{name}: expected {bound.words}, got {given[name]}")
        check_watch(given["watch"], z)
        return extents.get(WINDOW, 1)

    def _window(
        self, name: str, tensor: object, shape: tuple[str, ...], extents: Mapping[str, int]
    ) -> int:
        if not isinstance(tensor, Tensor) or tensor.dim() != len(shape):
            words = ", ".join(str(extents.get(extent, "m")) for extent in shape)
            raise KernelError(f"{name}: expected a tensor of shape ({words})")
        window = tensor.shape[shape.index(WINDOW)]
        if not 1 <= window <= self.max_window:
            raise KernelError(
                f"{name}: expected a window of 1 to {self.max_window} states, got {window}"
            )
        return window

    def run(self, given: Mapping[str, Any], window: int) -> None:
        """Call the extension with what has been checked."""
        z, watch = given["z"], given["watch"]
        scratch = given["workspace"]
        if scratch is None:
            scratch = workspace(self.name, z, window)
        elif scratch.shape[1:] == (0,):
            raise KernelError(
                "workspace: was made for the torch reference, make one for the extension"
            )
        else:  # the extension checks its length
            check_array("workspace", scratch, (len(z), *scratch.shape[1:]), torch.float64, z.device)
        arrays = {name: given[name] for name in ("z", "fz", *self.keeps, "out")}
        arrays["workspace"] = scratch
        if watch is not None:
            arrays |= {"progress": watch.progress, "best": watch.best}
        run(
            "step",
            self.name,
            {name: capsule(array) for name, array in arrays.items()},
            {name: given[name] for name in self.constants},
            None if watch is None else watch.rule,
            device=z.device,
        )


STEPS: dict[str, StepOf] = {}
"""Every solver's step, by the name of its method."""


def step_kernel(
    *, keeps: Mapping[str, Kept], constants: Mapping[str, Bound], max_window: int = 1
) -> Callable[[Callable[P, None]], Kernel[P, None]]:
    """Make of a solver's step in torch the function that callers see.

    The definition is called ``<method>_step``, has a file ``csrc/<method>.h`` that names the same
    arrays and constants, and takes ``z``, ``fz``, the arrays kept and ``out``, then by keyword the
    constants, ``watch`` and ``workspace``. Arguments are checked before the definition sees them.

    Args:
        keeps: The arrays that the method keeps from step to step, in the order of its arguments.
        constants: Its constants and what each may be.
        max_window: The longest window.

    Returns:
        A decorator.
    """

    def decorate(definition: Callable[P, None]) -> Kernel[P, None]:
        signature = inspect.signature(definition)
        step = StepOf(definition.__name__.removesuffix("_step"), keeps, constants, max_window)
        positional = ("z", "fz", *keeps, "out")
        allowed = frozenset(signature.parameters)
        required = allowed - {"watch", "workspace"}

        def checked(reference: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
            given: dict[str, Any] = {"watch": None, "workspace": None}
            given |= zip(positional, args, strict=False)
            given |= kwargs
            if len(args) > len(positional) or not required <= given.keys() <= allowed:
                signature.bind(*args, **kwargs)  # says what is wrong
            window = step.check(given)
            if not len(given["z"]):
                return
            if uses_native(given["z"].device):
                step.run(given, window)
            else:
                reference(*args, **kwargs)

        STEPS[step.name] = step
        return kernel(cast(Callable[Concatenate[Callable[P, None], P], None], checked))(definition)

    return decorate


def workspace(method: str, z: Tensor, window: int = 1) -> Tensor:
    """Allocate what the step of a method needs, to be passed to it again and again.

    Args:
        method: ``"picard"``, ``"anderson"`` or ``"broyden"``.
        z: (B, D) the states that will be stepped.
        window: The window that the method will have.

    Returns:
        (B, k) float64 of no meaning; k is 0 where the reference runs.

    Raises:
        KernelError: The method has no kernel, or ``z`` is no state.
    """
    if method not in STEPS:
        raise KernelError(f"method: expected one of {', '.join(sorted(STEPS))}, got {method!r}")
    check_states("z", z)
    each = 0
    if uses_native(z.device) and extension is not None:
        each = extension.workspace(method, window, z.shape[1], z.device.type == "cuda")
    return torch.empty((len(z), each), dtype=torch.float64, device=z.device)
