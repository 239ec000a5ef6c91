"""The section on cost."""

from __future__ import annotations

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
    rows = [
        [
            name,
            f"{part['nfe']['mean']:.1f}",
            str(part["nfe"]["largest"]),
            f"{1000 * part['seconds']:.3g}",
            f"{1000 * part['single']:.3g}",
            DASH if part["memory"] is None else f"{part['memory'] / 2**20:.1f}",
            f"{part['weights']['count']:,}",
            DASH if part["energy"] is None else f"{1000 * part['energy']:.3g}",
            f"{certifying[name]:.3g}" if name in certifying else DASH,
        ]
        for name, part in found.items()
    ]
    head = [
        "model",
        "evaluations",
        "at most",
        "ms an image, batch",
        "ms, one alone",
        "memory of a batch (MiB)",
        "weights",
        "energy an image (mJ)",
        "s a certificate",
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
    table = TableBlock("Cost of an answer without noise", head, rows)
    return Section("cost", "Cost", says, (), [table], notes, missing)
