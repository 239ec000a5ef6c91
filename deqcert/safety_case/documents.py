"""The documents of a case: JSON for machines, Markdown and one page of HTML for people."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from deqcert.safety_case import case as cases
from deqcert.safety_case import checksums, materials
from deqcert.safety_case.case import Case
from deqcert.safety_case.claims import Claim, Figure
from deqcert.safety_case.curves import curves
from deqcert.safety_case.kinds.certified import sound_results
from deqcert.safety_case.kinds.sets import FOUND, PROMISED
from deqcert.safety_case.kinds.watched import RAISED
from deqcert.safety_case.measures import SOURCE

TEMPLATES = ("safety_case.md", "model_card.md", "index.html")

LEADING = {("MEASURE 2.3", True), ("MEASURE 2.13", True)}
"""Items whose claims lead the page with their first figure."""


def documents(case: Case) -> dict[str, bytes]:
    """Write every document that follows from a case, by its name."""
    made = {cases.NAME: json.dumps(case.content(), indent=2) + "\n"}
    drawn = curves(case.runs)
    for name in TEMPLATES:
        made[name] = _rendered(name, case=case, front=front_matter(case), curves=drawn)
    return {name: text.encode("utf-8", "replace") for name, text in made.items()}


def limits_text(limits: list[tuple[str, str]]) -> bytes:
    """Write the document of what is not claimed, which the case's claims name by its hash."""
    return _rendered("not_claimed.md", limits=limits).encode("utf-8", "replace")


def front_matter(case: Case) -> str:
    """Return the head of the model card, as the Hugging Face hub reads it, in YAML."""
    norms: set[str] = set()
    results = []
    for run, found in sound_results(case.runs):
        was = run.parameters
        shown = next(c for c in case.claims if c.run == run.name and c.item == "MEASURE 2.7")
        metrics = [
            {
                "type": "certified_accuracy" if "accuracy" in figure.name else "acr",
                "name": figure.name,
                "value": figure.value,
                "verified": False,  # what the hub means by it: its own evaluation service
            }
            for figure in shown.figures
        ]
        norms.add(found.norm)
        results.append(
            {
                "task": {"type": "image-classification"},
                "dataset": {
                    "name": f"{was.get('data')} ({len(run.manifest.images)} images)",
                    "type": str(was.get("data")),
                    "split": str(was.get("split")),
                },
                "metrics": metrics,
            }
        )
    head: dict[str, Any] = {
        "license": case.facts.licence,
        "library_name": "deqcert",
        "pipeline_tag": "image-classification",
        "tags": ["deqcert", "deep-equilibrium-model", "certified-robustness", *sorted(norms)],
        "datasets": sorted({name for name, _, _ in materials.data_sets(case.runs)}),
        "metrics": ["certified_accuracy", "acr"],
        "model-index": [{"name": case.model, "results": results}],
    }
    return str(yaml.safe_dump(head, sort_keys=False, allow_unicode=True))


def _rendered(template: str, **values: Any) -> str:
    page = Environment(
        loader=PackageLoader("deqcert.safety_case"),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    page.filters |= {"md": _markdown, "code": _code, "day": _day, "headline": _headline}
    shared = {"source": SOURCE, "sums": checksums.NAME, "bill": materials.NAME}
    return page.get_template(template).render(**shared, limits_name=cases.LIMITS, **values)


def _markdown(text: object) -> str:
    """Write plain text into Markdown, on one line and inside a table's cell."""
    flat = " ".join(str(text).split())
    return re.sub(r"([\\`*_\[\]|#])", r"\\\1", flat).replace("<", "&lt;").replace(">", "&gt;")


def _code(text: object) -> str:
    """Write a command or name as code of Markdown, inside a table's cell."""
    flat = " ".join(str(text).split()).replace("|", "\\|")
    longest = max((len(run) for run in re.findall(r"`+", flat)), default=0)
    mark = "`" * (longest + 1)
    return f"{mark} {flat} {mark}" if longest else f"{mark}{flat}{mark}"


def _day(epoch: int) -> str:
    return datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _headline(claims: Sequence[Claim]) -> list[tuple[Figure, str]]:
    """Return the figures that lead the page and their runs: proven, found, broken and raised."""
    found = []
    for claim in claims:
        for figure in claim.figures:
            first = (claim.item, figure is claim.figures[0]) in LEADING
            last = claim.ground == "guarantee" and figure.name.startswith("ACR")
            last = last and claim.item == "MEASURE 2.7"
            covered = claim.item in ("MEASURE 2.3", "MEASURE 2.6") and figure.name.startswith(FOUND)
            if covered or last or figure.name == RAISED or (first and figure.name != PROMISED):
                found.append((figure, claim.run or ""))
    return found
