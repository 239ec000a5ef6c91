"""Read certificates: our own run folders, or any file in the column layout of the field.

The layout is that of Cohen, Rosenfeld and Kolter's published result files: tab-separated
``idx label predict radius correct time``, one line per image, ``predict`` -1 for an abstention.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deqcert.certifiers.agreement import Agreement
from deqcert.certifiers.certificate import LARGEST_RADIUS, NORMS
from deqcert.certifiers.named import classifier_name
from deqcert.certifiers.registry import CERTIFIERS
from deqcert.errors import ConfigError, RunError
from deqcert.files import read_regular
from deqcert.options import parse_number
from deqcert.report.agreement import read_agreement
from deqcert.report.columns import parse_seconds, parse_whole, read_text, shown

FIELD_COLUMNS = ("idx", "label", "predict", "radius", "correct", "time")
"""The first six columns of every certificate file, in order."""

_ADVICE = "give a run folder or a tab-separated certificate file"
_TRUE, _FALSE = {"1", "1.0", "true"}, {"0", "0.0", "false"}


@dataclass(frozen=True)
class Results:
    """The certificates of one run; arrays have one entry per image, in the order of the file.

    Args:
        name: What to call the run in a table.
        idx: Index of the image in its data set, int64.
        label: True class, int64.
        predict: Certified class, int64; -1 where the certifier abstained.
        radius: Certified radius in pixel units of [0,1], float64, 0 for an abstention.
        correct: Whether the certified class is the true one, bool.
        seconds: Time spent on the image, float64; NaN where the file does not say.
        norm: Norm of the radii, "l2" or "linf"; l2 unless the run says otherwise.
        facts: What the file or its manifest says about the whole run (method, sigma, n, alpha...).
        parameters: What must be equal for two runs to be parts of one: the manifest's parameters,
            or without a manifest the facts, but for the number of samples drawn.
        sound: Whether the radii have a theorem behind them; True unless the run says otherwise.
        pending: Images that the manifest asks for and that are not there yet.
        about: What the certified classifier is, in a few words; None where the run does not say.
        compared: Name of the converged model, where that is another classifier.
        agreement: How often the two agree, where that was measured.
    """

    name: str
    idx: NDArray[np.int64]
    label: NDArray[np.int64]
    predict: NDArray[np.int64]
    radius: NDArray[np.float64]
    correct: NDArray[np.bool_]
    seconds: NDArray[np.float64]
    norm: str = "l2"
    facts: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)
    sound: bool = True
    pending: int = 0
    about: str | None = None
    compared: str | None = None
    agreement: Agreement | None = None

    def __len__(self) -> int:
        return len(self.idx)

    @property
    def title(self) -> str:
        """Name, method, norm if not l2, sigma, n and classifier in a line; UNSOUND if it is."""
        known = [f"{key}={self.facts[key]}" for key in ("sigma", "n") if key in self.facts]
        if "n_mean" in self.facts:  # samples stopped early, at another number for each image
            known[-1] = f"n={self.facts['n_mean']} on average"
        if self.norm != "l2":
            known.insert(0, self.norm)
        words = " ".join([word for word in (self.facts.get("method"),) if word] + known)
        text = f"{self.name} ({words})" if words else self.name
        text += "" if self.about is None else f": {self.about}"
        return text if self.sound else f"{text} UNSOUND"

    def warning(self) -> str | None:
        """Return a sentence where the certificates are hardly about the converged model."""
        if self.agreement is None or self.about is None or self.compared is None:
            return None
        return self.agreement.warning(self.about, self.compared)


def read_results(path: str | Path, name: str | None = None) -> Results:
    """Read one run.

    Args:
        path: A run folder, its ``certificates.tsv``, or anybody's tab-separated file with at
            least the first five of ``idx label predict radius correct time``, header optional.
        name: What to call the run; default: the name of the folder or file.

    Returns:
        One entry per finished image. A torn last line (a run that is being written, or
        was killed) is left out.

    Raises:
        RunError: If the file is missing, empty or damaged; the message names the line.
    """
    given = Path(path)
    file = given / "certificates.tsv" if given.is_dir() else given
    inside_run = file.name == "certificates.tsv" and (file.parent / "manifest.json").is_file()
    if given.is_dir() and not file.exists():
        raise RunError(f"no certificates.tsv in {given}; {_ADVICE}")
    text = read_text(file, _ADVICE)

    columns, rows = _split(file, text, ours=inside_run)
    manifest = _manifest(file.parent) if inside_run else {}
    facts = _facts(columns, rows, manifest)
    table: dict[str, list[Any]] = {key: [] for key in FIELD_COLUMNS}
    seen: dict[int, int] = {}
    for number, row in rows:
        entry = dict(zip(columns, row, strict=True))
        for key, value in _parse(file, number, entry).items():
            table[key].append(value)
        image = table["idx"][-1]
        if image in seen:
            raise RunError(
                f"{file}: image {image} stands in line {seen[image]} and again in line {number}; "
                "every image may count once"
            )
        seen[image] = number
    norm = facts.get("norm", "l2")
    if norm not in NORMS:
        raise RunError(f"{file}: norm is {norm!r} and must be one of {', '.join(NORMS)} in a file")
    if name is None:
        name = (file.parent.resolve().name if inside_run else file.stem) or str(given)
    return Results(
        name=name,
        idx=np.array(table["idx"], dtype=np.int64),
        label=np.array(table["label"], dtype=np.int64),
        predict=np.array(table["predict"], dtype=np.int64),
        radius=np.array(table["radius"], dtype=np.float64),
        correct=np.array(table["correct"], dtype=np.bool_),
        seconds=np.array(table["time"], dtype=np.float64),
        norm=norm,
        facts=facts,
        parameters=_asked(facts, manifest),
        sound=_sound(columns, rows, facts),
        pending=_pending(manifest, len(rows)),
        about=_note(manifest, "classifier") or classifier_name(_parameters(manifest)),
        compared=_note(manifest, "compared"),
        agreement=read_agreement(file.parent) if inside_run else None,
    )


def common_norm(runs: Sequence[Results]) -> str:
    """Return the norm that runs have in common.

    Args:
        runs: Any number; without one it is l2.

    Raises:
        ConfigError: If they differ; a radius in one norm says nothing beside one in the other.
    """
    norms = {run.norm: run.name for run in runs}
    if len(norms) > 1:
        said = ", ".join(f"{name} in {norm}" for norm, name in norms.items())
        raise ConfigError(f"radii of different norms do not compare ({said}); report them apart.")
    return next(iter(norms), "l2")


def _split(
    file: Path, text: str, *, ours: bool
) -> tuple[Sequence[str], list[tuple[int, list[str]]]]:
    """Cut the text into a header and numbered rows of as many cells."""
    lines = text.split("\n")
    tail = lines.pop()  # what follows the last newline: nothing, or a line without its end
    if tail and not ours:
        lines.append(tail)
    cells = [
        (number, [cell.strip() for cell in line.rstrip("\r").split("\t")])
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    if not cells:
        raise RunError(f"{file} holds no certificates yet; certify at least one image first")
    columns: Sequence[str]
    first = cells[0][1]
    if first[0] == "idx":
        columns = first
        cells = cells[1:]
        missing = [key for key in FIELD_COLUMNS[:5] if key not in columns]
        if missing or len(set(columns)) != len(columns):
            fault = f"has no column {missing[0]!r}" if missing else "names a column twice"
            raise RunError(f"{file}: the header {fault}; expected {' '.join(FIELD_COLUMNS)}")
        if not cells:
            raise RunError(f"{file} holds no certificates yet; certify at least one image first")
    else:
        columns = FIELD_COLUMNS[: max(5, min(len(first), 6))]
        cells = [(number, row[:6]) for number, row in cells]
    if tail and not ours and len(cells) > 1 and len(cells[-1][1]) < len(columns):
        cells.pop()
    for number, row in cells:
        if len(row) != len(columns):
            raise RunError(
                f"{file}, line {number}: {len(row)} tab-separated values where "
                f"{len(columns)} are expected ({' '.join(columns[:6])}...)"
            )
    return columns, cells


def _parse(file: Path, number: int, entry: dict[str, str]) -> dict[str, Any]:
    """Turn the six columns of one line into values that do not contradict each other."""

    def refuse(key: str, wants: str) -> RunError:
        return RunError(f"{file}, line {number}: {key} is {shown(entry[key])} and {wants}")

    values: dict[str, Any] = {}
    for key, low in (("idx", 0), ("label", 0), ("predict", -1)):
        values[key] = parse_whole(entry[key], low)
        if values[key] is None:
            raise refuse(key, f"must be a whole number from {low}")
    radius = parse_number(entry["radius"], whole=False)
    if radius is None or not 0 <= radius <= LARGEST_RADIUS:
        raise refuse("radius", f"must be a finite number >= 0, at most {LARGEST_RADIUS:g}")
    word = entry["correct"].lower()
    if word not in _TRUE | _FALSE:
        raise refuse("correct", "must be 0 or 1")
    abstains = values["predict"] < 0
    if abstains and radius > 0:
        raise refuse("radius", "must be 0, because predict is -1, an abstention")
    right = not abstains and values["predict"] == values["label"]
    if (word in _TRUE) != right:
        raise refuse(
            "correct",
            f"contradicts label {values['label']} and predict {values['predict']}"
            + (", an abstention; it must be 0" if abstains else f"; it must be {int(right)}"),
        )
    if entry.get("sound", "1").lower() not in _TRUE | _FALSE:
        raise refuse("sound", "must be 0 or 1")
    time = parse_seconds(entry.get("time", ""))
    return values | {"radius": radius, "correct": right, "time": time}


def _manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest beside the certificates; a damaged one only costs the captions."""
    try:
        found = json.loads(read_regular(folder / "manifest.json"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _parameters(manifest: dict[str, Any]) -> dict[str, Any]:
    found = manifest.get("parameters")
    return found if isinstance(found, dict) else {}


def _note(manifest: dict[str, Any], key: str) -> str | None:
    """Return a note of the manifest's as one line of text; None where it has none."""
    notes = manifest.get("notes")
    found = notes.get(key) if isinstance(notes, dict) else None
    return " ".join(found.split()) if isinstance(found, str) else None


def _pending(manifest: dict[str, Any], done: int) -> int:
    """Count the images that the manifest asks for and the file does not have."""
    count = manifest.get("count")
    return max(0, count - done) if isinstance(count, int) else 0


def _facts(
    columns: Sequence[str], rows: list[tuple[int, list[str]]], manifest: dict[str, Any]
) -> dict[str, str]:
    """Collect what is the same for all images: columns first, then the manifest."""
    facts: dict[str, str] = {}
    parameters = manifest.get("parameters", {})
    for key in ("method", "norm", "sigma", "n0", "n", "alpha", "seed"):
        told = parameters.get(key) if isinstance(parameters, dict) else None
        if key == "seed" and told is not None:  # a long seed's column only holds a hash of it
            facts[key] = str(told)
        elif key in columns:
            values = {row[list(columns).index(key)] for _, row in rows}
            facts[key] = values.pop() if len(values) == 1 else "mixed"
            if key == "n" and facts[key] == "mixed":
                at = list(columns).index("n")
                drawn = [parse_whole(row[at]) for _, row in rows]
                if None not in drawn:
                    facts["n_mean"] = str(round(sum(n or 0 for n in drawn) / len(drawn)))
        elif told is not None:
            facts[key] = str(told)
    if facts.get("norm") == "l2":  # what is not said is l2, so that it need not be
        del facts["norm"]
    return facts


def _asked(facts: dict[str, str], manifest: dict[str, Any]) -> dict[str, Any]:
    """Collect what all parts of one evaluation have in common."""
    parameters = manifest.get("parameters")
    if isinstance(parameters, dict):
        notes = manifest.get("notes")
        # Parts whose seeds were secrets have different ones, and are parts all the same.
        drawn = isinstance(notes, dict) and notes.get("seed_drawn")
        return {**parameters, "seed": "random"} if drawn else parameters
    return {key: value for key, value in facts.items() if key not in ("n", "n_mean")}


def _sound(
    columns: Sequence[str], rows: list[tuple[int, list[str]]], facts: dict[str, str]
) -> bool:
    """Say whether every line may be trusted: one unsound line spoils the run's curve."""
    names = list(columns)
    for _, row in rows:
        if "sound" in names and row[names.index("sound")].lower() in _FALSE:
            return False
        if "method" in names and _known_unsound(row[names.index("method")]):
            return False
    return not _known_unsound(facts.get("method", ""))


@functools.cache
def _known_unsound(method: str) -> bool:
    """Whether that is a method without a theorem, for files that do not say so themselves."""
    try:
        return method in CERTIFIERS and not CERTIFIERS.get(method).sound
    except ConfigError:  # of a plugin that cannot be imported nothing is known
        return False
