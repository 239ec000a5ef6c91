"""What a cell and a readout cost beside their multiplications at this machine's own speed."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from deqcert.bench.as_json import as_json
from deqcert.bench.forms import HOPELESS, make_forms
from deqcert.errors import ConfigError
from deqcert.models import FORMS, ImplicitModel
from deqcert.report.aligned import columns
from deqcert.runs import machine

PARTS = ("cell", "readout")
SIDES = (256, 512, 1024)
"""Sides of the square matrices that are multiplied to measure the machine."""

WIDE = (4, 128, 34, 34)
"""Maps of a wide 3x3 convolution without padding, by torch's other library."""

UNITS = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")
"""What torch calls the instructions that multiply bfloat16 numbers."""


@dataclass(frozen=True, slots=True)
class CellTiming:
    """Cell or readout in one form; times in milliseconds per row.

    Attributes:
        form: Name of the form.
        part: "cell" or "readout".
        flops: Operations per row in millions: two for each multiplication with its addition.
        dtype: Type of the numbers that are multiplied.
        ms: What it takes.
        floor: What its operations take at the machine's own rate; NaN if they are not counted.
        multiple: ms over floor; 1 is the least.
        products_ms: What its convolutions and matrix products take alone, without what is
            between them; NaN where the form does not let them be seen.
        products_multiple: The same over the floor.
        failure: Why the form cannot be used here, else empty.
    """

    form: str
    part: str
    flops: float
    dtype: str
    ms: float
    floor: float
    multiple: float
    products_ms: float
    products_multiple: float
    failure: str = ""


@dataclass(frozen=True)
class CellBench:
    """Timings of cell and readout in each form, the machine's rates, and facts.

    Args:
        timings: Two per form; those of "eager" are the first.
        rates: Of each type, the rate in GFLOP/s of "matmul" and of "convolution"; the larger is
            what floors are computed with.
        facts: Rows, threads and the like.
    """

    timings: tuple[CellTiming, ...]
    rates: dict[str, dict[str, float]]
    facts: dict[str, Any]

    def text(self) -> str:
        """A table for people."""
        head = ("form", "part", "MFLOP", "type", "ms", "floor", "x floor", "products", "x floor")
        rows: list[tuple[str, ...]] = [head]
        for t in self.timings:
            if t.failure:
                continue
            rows.append(
                (
                    t.form,
                    t.part,
                    f"{t.flops:.2f}",
                    t.dtype,
                    *(f"{value:.4f}" for value in (t.ms, t.floor)),
                    f"{t.multiple:.2f}",
                    f"{t.products_ms:.4f}",
                    f"{t.products_multiple:.2f}",
                )
            )
        lines = columns(rows)
        lines += list(dict.fromkeys(f"{t.form}: {t.failure}" for t in self.timings if t.failure))
        rates = ", ".join(
            f"{name} {kinds['matmul']:.0f} GFLOP/s by matmul and {kinds['convolution']:.0f} by "
            "convolution"
            for name, kinds in self.rates.items()
        )
        lines.append(f"matrix product: {rates}; {self.facts['rate']}")
        lines.append(", ".join(f"{k} {v}" for k, v in self.facts.items() if k != "rate"))
        lines.append(
            "MFLOP (two per multiplication) and ms per row; products: convolutions and matrix "
            "products alone; nan: cannot be counted or seen"
        )
        return "\n".join(lines)

    def json(self) -> str:
        """The same for machines; NaN becomes null."""
        return as_json({**self.facts, "gflops": self.rates}, "timings", self.timings)


class Products(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's is untyped
    """Keep the calls of convolutions and matrix products that are made while it is on.

    Attributes:
        calls: Functions and what they were given; the tensors are kept alive.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's is untyped
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Note a call and make it."""
        if func.overloadpacket in flop_registry:
            self.calls.append((func, args, kwargs or {}))
        return func(*args, **(kwargs or {}))

    @property
    def dtype(self) -> torch.dtype:
        """Type of what the first call multiplies; float32 where there was none."""
        tensors = (a for _, args, _ in self.calls for a in args if isinstance(a, Tensor))
        return next((tensor.dtype for tensor in tensors), torch.float32)

    def again(self) -> None:
        """Make all calls once more."""
        for func, args, kwargs in self.calls:
            func(*args, **kwargs)


def count_flops(run: Callable[[], object]) -> int:
    """Count the operations of what runs: two for each multiplication with its addition.

    Counted are convolutions and matrix products. Products with the zeros of a padding count, those
    of elementwise operations and Fourier transforms do not.
    """
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def has_bfloat16_units() -> bool:
    """Return whether this processor multiplies bfloat16 numbers itself, as far as torch tells."""
    able: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.10 or later
    return any(able.get(name, False) for name in UNITS)


def bench_cell(
    model: ImplicitModel,
    images: Tensor,
    forms: Sequence[str] | None = None,
    *,
    rounds: int = 15,
    tell: Callable[[str], None] | None = None,
) -> CellBench:
    """Measure cell and readout on the CPU against the rate of the machine's matrix product.

    That is measured in both of torch's libraries, by square matrices and by a wide convolution,
    because one may know the processor better; floors take the larger.

    Every round runs these products and every form one after the other; of each the median
    counts. On one thread the processor's time is taken, which other load disturbs least; on more
    the clock's. A form that multiplies in bfloat16 is measured against the rate of bfloat16 where
    the processor has units for it, and against that of float32 elsewhere.

    Args:
        model: Any model of the protocol.
        images: Rows of one evaluation, shape (B, C, H, W), in [0, 1].
        forms: Which to measure besides "eager"; all that the model has if not given.
        rounds: How often everything is run, from 1.
        tell: Called with what is about to be made.

    Returns:
        CellBench: two timings a form.

    Raises:
        ConfigError: If a number is out of range or the model has no such form.
    """
    if rounds < 1:
        raise ConfigError("rounds must be a whole number from 1.")
    made, seconds, failures = make_forms(model, forms, len(images), tell=tell)
    if isinstance(model, torch.nn.Module):
        model.eval()
    units = has_bfloat16_units()
    single = torch.get_num_threads() == 1
    runs: dict[tuple[str, ...], Callable[[], object]] = {}
    with torch.no_grad():
        injection = model.inject(images)
        state = model.cell(model.initial_state(injection), injection)
        flops = {
            "cell": count_flops(lambda: model.cell(state, injection)) / len(images),
            "readout": count_flops(lambda: model.readout(state)) / len(images),
        }
        dtypes: dict[tuple[str, str], torch.dtype] = {}
        for form, formed in made.items():
            inputs = {"cell": (state, injection), "readout": (state,)}
            for part in PARTS:
                call, given = getattr(formed, part), inputs[part]
                runs[form, part] = partial(call, *given)
                products = Products()
                if not FORMS.get(form).hides:
                    with products:
                        call(*given)
                dtypes[form, part] = products.dtype
                if products.calls:
                    runs[form, part, "products"] = products.again
        types = {_rated(dtype, units) for dtype in dtypes.values()} | {torch.float32}
        if units:
            types.add(torch.bfloat16)
        for dtype in sorted(types, key=str, reverse=True):
            for side in SIDES:
                a, b = torch.rand(2, side, side).to(dtype)
                runs[str(dtype), "matmul", str(side)] = partial(torch.matmul, a, b)
            kernel = torch.rand(WIDE[1], WIDE[1], 3, 3).to(dtype)
            maps = torch.rand(WIDE).to(dtype)
            runs[str(dtype), "convolution"] = partial(F.conv2d, maps, kernel)
        spent = _medians(runs, rounds, time.process_time if single else time.perf_counter)
    rows, channels, height, width = WIDE
    wide = 2e-9 * rows * (height - 2) * (width - 2) * channels * channels * 9
    rates = {
        _name(dtype): {
            "matmul": max(2e-9 * n**3 / spent[str(dtype), "matmul", str(n)] for n in SIDES),
            "convolution": wide / spent[str(dtype), "convolution"],
        }
        for dtype in sorted(types, key=str, reverse=True)
    }
    timings = []
    for form in seconds:
        for part in PARTS:
            mega = 1e-6 * flops[part]
            if form in failures:
                nothing = (math.nan,) * 5
                timings.append(CellTiming(form, part, mega, "", *nothing, failures[form]))
                continue
            dtype = dtypes[form, part]
            ms = 1e3 * spent[form, part] / len(images)
            alone = 1e3 * spent.get((form, part, "products"), math.nan) / len(images)
            floor = mega / max(rates[_name(_rated(dtype, units))].values()) if mega else math.nan
            timings.append(
                CellTiming(
                    form=form,
                    part=part,
                    flops=mega,
                    dtype=_name(dtype),
                    ms=ms,
                    floor=floor,
                    multiple=ms / floor,
                    products_ms=alone,
                    products_multiple=alone / floor,
                )
            )
    facts = {
        "rows": len(images),
        "rounds": rounds,
        "threads": torch.get_num_threads(),
        "time": "processor" if single else "clock",
        "bfloat16_units": units,
        "cpu": machine()["cpu"],
        "torch": str(torch.__version__),
        "rate": f"medians; the fastest of sides {', '.join(map(str, SIDES))}, or a 3x3 convolution "
        "of 128 channels; floors take the larger",
    }
    return CellBench(tuple(timings), rates, facts)


def _rated(dtype: torch.dtype, units: bool) -> torch.dtype:
    return torch.float32 if dtype == torch.bfloat16 and not units else dtype


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _medians(
    runs: dict[tuple[str, ...], Callable[[], object]], rounds: int, clock: Callable[[], float]
) -> dict[tuple[str, ...], float]:
    """Return the seconds of the median round of each, after one that does not count."""
    spent: dict[tuple[str, ...], list[float]] = {key: [] for key in runs}
    for number in range(rounds + 1):
        for key, run in runs.items():
            eager = spent.get(("eager", key[1]))
            if spent[key] and eager and spent[key][0] > HOPELESS * eager[0]:
                continue
            began = clock()
            run()
            if number:
                spent[key].append(clock() - began)
    return {key: statistics.median(times) for key, times in spent.items()}
