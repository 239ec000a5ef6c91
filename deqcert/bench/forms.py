"""How fast a model is in each of its forms on this machine, and how far the forms agree."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deqcert.bench.as_json import as_json
from deqcert.devices import open_device
from deqcert.errors import ConfigError
from deqcert.models import FORMS, ImplicitModel, form_names, in_form
from deqcert.report.aligned import columns

PARTS = ("inject", "cell", "readout")
NOISE = 0.03
"""Times that differ by less than this share are the same."""

HOPELESS = 4.0
"""What took this many times as long as eager in the first round is not run again."""


@dataclass(frozen=True, slots=True)
class FormTiming:
    """One form, in milliseconds per row.

    Attributes:
        form: Name of the form.
        inject: The injection.
        cell: One evaluation of the cell.
        readout: The readout.
        vote: Injection, as many cells as were asked for, and readout.
        speed: Vote of "eager" over vote of this form; above 1 is faster.
        difference: Largest difference of a logit from "eager", after as many evaluations of the
            form's own cell as were asked for.
        seconds: What making the form took: folding, compiling.
        failure: Why the form cannot be used here, else empty.
    """

    form: str
    inject: float
    cell: float
    readout: float
    vote: float
    speed: float
    difference: float
    seconds: float
    failure: str = ""


@dataclass(frozen=True)
class FormBench:
    """Timings of all forms, and what they have in common.

    Args:
        timings: One per form; "eager" is the first.
        facts: Rows, threads and the like.
    """

    timings: tuple[FormTiming, ...]
    facts: dict[str, Any]

    @property
    def choice(self) -> str:
        """The fastest form in float32; "eager" where no other is faster by more than noise."""
        best = min(
            (t for t in self.timings if not t.failure and not FORMS.get(t.form).rounds),
            key=lambda timing: timing.vote,
        )
        return best.form if best.speed > 1.0 + NOISE else "eager"

    def text(self) -> str:
        """A table for people."""
        head = ("form", "inject", "cell", "readout", "vote", "faster x", "logits", "made in s")
        rows: list[tuple[str, ...]] = [head]
        for t in self.timings:
            if t.failure:
                continue
            rows.append(
                (
                    t.form,
                    *(f"{value:.3f}" for value in (t.inject, t.cell, t.readout, t.vote)),
                    f"{t.speed:.2f}",
                    f"{t.difference:.1e}",
                    f"{t.seconds:.1f}",
                )
            )
        lines = columns(rows)
        lines += [f"{t.form}: {t.failure}" for t in self.timings if t.failure]
        lines.append(", ".join(f"{name} {value}" for name, value in self.facts.items()))
        lines.append(
            f"ms per row; vote: inject, {self.facts['evaluations']} cells, readout; "
            "logits: largest difference from eager"
        )
        return "\n".join(lines)

    def json(self) -> str:
        """The same for machines; NaN becomes null."""
        return as_json({**self.facts, "choice": self.choice}, "forms", self.timings)


def bench_forms(
    model: ImplicitModel,
    images: Tensor,
    forms: Sequence[str] | None = None,
    *,
    rounds: int = 7,
    evaluations: int = 6,
    device: str = "cpu",
    tell: Callable[[str], None] | None = None,
) -> FormBench:
    """Measure the forms of a model side by side.

    Every round runs every form after the other; of each part the fastest round counts, so that
    what else the machine does matters less.

    Args:
        model: Any model of the protocol.
        images: Rows of one evaluation, shape (B, C, H, W), in [0, 1].
        forms: Which to measure besides "eager"; all that the model has if not given.
        rounds: How often everything is run, from 1.
        evaluations: Cell evaluations per vote, from 1.
        device: As torch names it.
        tell: Called with what is about to be made.

    Returns:
        FormBench: one timing a form.

    Raises:
        ConfigError: If a number is out of range, the device is not there, or the model has no such
            form.
    """
    if rounds < 1 or evaluations < 1:
        raise ConfigError("rounds and evaluations must be whole numbers from 1.")
    images = images.to(open_device(device))
    made, seconds, failures = make_forms(model, forms, len(images), device=device, tell=tell)
    if isinstance(model, torch.nn.Module):
        model.eval().to(device)
    with torch.no_grad():
        logits = {form: _vote(made[form], images, evaluations) for form in made}
        best = _times(made, images, rounds)
    timings = []
    for form in seconds:
        if form in failures:
            nothing = (float("nan"),) * 6
            timings.append(FormTiming(form, *nothing, seconds[form], failures[form]))
            continue
        inject, cell, readout = (1000.0 * best[form, part] / len(images) for part in PARTS)
        vote = inject + evaluations * cell + readout
        timings.append(
            FormTiming(
                form=form,
                inject=inject,
                cell=cell,
                readout=readout,
                vote=vote,
                speed=(timings[0].vote if timings else vote) / vote,
                difference=float((logits[form] - logits["eager"]).abs().max()),
                seconds=seconds[form],
            )
        )
    facts = {
        "rows": len(images),
        "evaluations": evaluations,
        "rounds": rounds,
        "threads": torch.get_num_threads(),
        "device": device,
        "torch": str(torch.__version__),
    }
    return FormBench(tuple(timings), facts)


def make_forms(
    model: ImplicitModel,
    forms: Sequence[str] | None,
    rows: int,
    *,
    device: str = "cpu",
    tell: Callable[[str], None] | None = None,
) -> tuple[dict[str, ImplicitModel], dict[str, float], dict[str, str]]:
    """Make a model's forms, "eager" first.

    Args:
        model: Any model of the protocol.
        forms: Which besides "eager"; all that the model has if not given.
        rows: Rows of every evaluation.
        device: As torch names it.
        tell: Called with what is about to be made.

    Returns:
        By form: the models, the seconds that each form took, and why those that are not among the
        models cannot be made here.

    Raises:
        ConfigError: If the model has no such form.
    """
    made: dict[str, ImplicitModel] = {}
    seconds: dict[str, float] = {}
    failures: dict[str, str] = {}
    asked = dict.fromkeys(["eager", *(form_names(model) if forms is None else forms)])
    for form in asked:
        FORMS.get(form)  # a wrong name is known before anything is made
    for form in asked:
        if tell is not None:
            tell(form)
        began = time.perf_counter()
        try:
            made[form] = in_form(model, form, rows=rows, device=device)
        except ConfigError as error:
            if form not in form_names(model):
                raise
            failures[form] = str(error)
        seconds[form] = time.perf_counter() - began
    return made, seconds, failures


def _vote(model: ImplicitModel, images: Tensor, evaluations: int) -> Tensor:
    injection = model.inject(images)
    z = model.initial_state(injection)
    for _ in range(evaluations):
        z = model.cell(z, injection)
    return model.readout(z)


def _times(
    models: dict[str, ImplicitModel], images: Tensor, rounds: int
) -> dict[tuple[str, str], float]:
    """Return the seconds of the fastest round, for each form and part; all have run before."""
    inputs: dict[str, tuple[Tensor, ...]] = {"inject": (images,)}
    eager = models["eager"]
    injection = eager.inject(images)
    z = eager.cell(eager.initial_state(injection), injection)
    inputs |= {"cell": (z, injection), "readout": (z,)}
    best: dict[tuple[str, str], float] = {}
    for number in range(rounds):
        for part in PARTS:
            for form, model in models.items():
                if number and best[form, part] > HOPELESS * best["eager", part]:
                    continue
                _wait(images)
                began = time.perf_counter()
                getattr(model, part)(*inputs[part])
                _wait(images)
                spent = time.perf_counter() - began
                best[form, part] = min(spent, best.get((form, part), spent))
    return best


def _wait(images: Tensor) -> None:
    if images.is_cuda:
        torch.cuda.synchronize(images.device)
