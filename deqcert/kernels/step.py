"""What the steps of all solvers share: their arguments, the checks of them, the call."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, Concatenate, NamedTuple, ParamSpec, cast

import torch
from torch import Tensor

from deqcert.errors import KernelError
from deqcert.kernels.arrays import capsule, check_array, check_states
from deqcert.kernels.native import Kernel, kernel, run, scratch, uses_native
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


class Method:
    """What the step of a solver keeps and is told, and how it is called.

    Attributes:
        name: Of the method.
        keeps: The arrays that it keeps from step to step, in the order of the step's arguments.
        constants: What it is told, and what that may be.
        max_window: The longest window.
    """

    def __init__(
        self,
        name: str,
        keeps: Mapping[str, Kept],
        constants: Mapping[str, Bound],
        max_window: int,
    ) -> None:
        self.name = name
        self.keeps = keeps
        self.constants = constants
        self.max_window = max_window
        states = Kept((ROWS, SIZE))
        self._arrays = {"fz": states, **keeps, "out": states}
        self._windowed = next((name for name, kept in keeps.items() if WINDOW in kept.shape), None)
        # A solve steps the same shapes again and again.
        self._expected = functools.lru_cache(maxsize=64)(self._expect)

    def check(self, given: Mapping[str, Any]) -> int:
        """Refuse the first argument that a step cannot take; return the window."""
        z = check_states("z", given["z"])
        dtype, device = z.dtype, z.device
        rows, size = z.shape
        window = 1
        if self._windowed is not None:
            window = self._window(given[self._windowed], rows, size)
        for name, shape, own, written in self._expected(rows, size, window):
            check_array(name, given[name], shape, own or dtype, device, written=written)
        for name, (words, holds) in self.constants.items():
            if not holds(given[name]):
                raise KernelError(f"{name}: expected {words}, got {given[name]}")
        check_watch(given["watch"], z)
        return window

    def _expect(
        self, rows: int, size: int, window: int
    ) -> list[tuple[str, tuple[int, ...], torch.dtype | None, bool]]:
        """Return name, shape, own dtype and whether it is written, per array."""
        extents = {ROWS: rows, SIZE: size, WINDOW: window}
        return [
            (name, tuple([extents[extent] for extent in shape]), own, name != "fz")
            for name, (shape, own) in self._arrays.items()
        ]

    def _window(self, tensor: object, rows: int, size: int) -> int:
        name, extents = self._windowed, {ROWS: rows, SIZE: size}
        assert name is not None
        shape = self._arrays[name].shape
        if not isinstance(tensor, Tensor) or tensor.dim() != len(shape):
            words = ", ".join("m" if e == WINDOW else str(extents[e]) for e in shape)
            raise KernelError(f"{name}: expected a tensor of shape ({words})")
        window = tensor.shape[shape.index(WINDOW)]
        if not 1 <= window <= self.max_window:
            raise KernelError(
                f"{name}: expected a window of 1 to {self.max_window} states, got {window}"
            )
        return window

    def run(self, given: Mapping[str, Any], window: int) -> None:
        """Call the extension with what has been checked."""
        z, watch, brought = given["z"], given["watch"], given["workspace"]
        if brought is None:
            brought = scratch(self.name, z, window)
        elif brought.shape[1:] == (0,):
            raise KernelError(
                "workspace: was made for the torch reference, make one for the extension"
            )
        else:  # the extension checks its length
            shape = (z.shape[0], *brought.shape[1:])
            check_array("workspace", brought, shape, torch.float64, z.device, written=True)
        arrays = {name: capsule(given[name]) for name in self._arrays}
        arrays["z"], arrays["workspace"] = capsule(z), capsule(brought)
        rule = None
        if watch is not None:
            arrays["progress"], arrays["best"] = capsule(watch.progress), capsule(watch.best)
            rule = watch.rule
        constants = {name: given[name] for name in self.constants}
        run("step", self.name, arrays, constants, rule, device=z.device)


STEPS: dict[str, Method] = {}
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
        step = Method(definition.__name__.removesuffix("_step"), keeps, constants, max_window)
        positional = ("z", "fz", *keeps, "out")
        allowed = frozenset(signature.parameters)
        required = allowed - {"watch", "workspace"}

        def checked(reference: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
            given: dict[str, Any] = {"watch": None, "workspace": None}
            given |= zip(positional, args, strict=False)
            given |= kwargs
            if (
                len(args) > len(positional)
                or not required <= given.keys() <= allowed
                or not kwargs.keys().isdisjoint(positional[: len(args)])
            ):
                signature.bind(*args, **kwargs)  # says what is wrong
            window = step.check(given)
            z = given["z"]
            if not z.shape[0]:
                return
            if uses_native(z.device):
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
        KernelError: If the method has no kernel, or ``z`` is no state.
    """
    if method not in STEPS:
        raise KernelError(f"method: expected one of {', '.join(sorted(STEPS))}, got {method!r}")
    check_states("z", z)
    return scratch(method, z, window)
