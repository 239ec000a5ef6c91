"""The section on cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from deqcert.report.page import Section, TableBlock
from deqcert.report.sections.base import DASH, Found, the


def cost_section(found: Found, runs: Found) -> Section:
    """What an answer costs."""
    name = min(found, key=lambda name: found[name]["seconds"])
    part = found[name]
    says = (
        f"One answer of {the(found, name)} takes {part['nfe']['mean']:.1f} evaluations and "
        f"{1000 * part['seconds']:.3g} ms in a batch of {part['batch']}"
    )
    certifying = {
        name: run["seconds"] / run["images"]
        for name, part in runs.items()
        for run in part["runs"][:1]
        if run["seconds"]
    }
    says += f"; a certificate takes {certifying[name]:.3g} s." if name in certifying else "."
    measures: dict[str, Callable[[str, Mapping[str, Any]], str]] = {
        "evaluations, mean": lambda name, one: f"{one['nfe']['mean']:.1f}",
        "evaluations, at most": lambda name, one: str(one["nfe"]["largest"]),
        "ms an image in a batch": lambda name, one: f"{1000 * one['seconds']:.3g}",
        "ms an image alone": lambda name, one: _over(one["single"], 1e-3),
        "memory of a batch (MiB)": lambda name, one: _over(one["memory"], 2**20),
        "weights": lambda name, one: f"{one['weights']['count']:,}",
        "energy an image (mJ)": lambda name, one: _over(one["energy"], 1e-3),
        "seconds a certificate": lambda name, one: _over(certifying.get(name), 1.0),
    }
    rows = [
        [measure, *(write(name, one) for name, one in found.items())]
        for measure, write in measures.items()
    ]
    notes = [
        "Batches of "
        + ", ".join(
            f"{part['batch']} on {part['device']} ({part['form']})" for part in found.values()
        )
        + "; times are medians, memory is what a batch adds at most. They depend on the machine."
    ]
    missing = [
        f"{name}: no energy, because {part['no_energy']}."
        for name, part in found.items()
        if part["no_energy"]
    ]
    table = TableBlock("Cost of an answer without noise", ["", *found], rows)
    return Section("cost", "Cost", says, (), [table], notes, missing)


def _over(value: float | None, unit: float) -> str:
    return DASH if value is None else f"{value / unit:.3g}"
