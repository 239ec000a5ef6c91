"""Folders of ``deqcert evaluate``: many measurements, and runs within."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from deqcert.errors import RunError
from deqcert.files import read_regular
from deqcert.runs.manifest import NAME as MANIFEST
from deqcert.safety_case.claims import Claim, Figure
from deqcert.safety_case.kinds.base import AGAIN, Evidence, Kind, tested, whole
from deqcert.safety_case.kinds.certified import Certified
from deqcert.safety_case.run_folder import RunFolder, files_below, read_run

FORMAT = "deqcert-evaluation"


class Evaluated(Kind):
    """Accuracy, corruptions, confidence and foreign images; its runs are claimed as such."""

    name: ClassVar[str] = "evaluation"
    journal: ClassVar[str] = "evaluation.json"

    def inside(self, run: RunFolder) -> list[RunFolder]:
        """Return the runs of certificates and attacks that the evaluation made."""
        found = [place.rpartition("/")[0] for place in files_below(run.folder) if "/" in place]
        return [
            read_run(run.folder / place, f"{run.name}/{place}")
            for place in dict.fromkeys(found)
            if (run.folder / place / MANIFEST).is_file()
        ]

    def check(self, run: RunFolder) -> None:
        """Refuse an evaluation that is not finished or contradicts itself."""
        content = _read(run)
        if "summary" not in content:
            raise RunError(
                f"{run.folder} is not finished; give the command that began it again, then make "
                "the case"
            )
        within = {inner.name: inner for inner in self.inside(run)}
        for name, parts in _parts(content).items():
            clean, bad = parts.get("clean"), parts.get("corruptions")
            if clean and clean["accuracy"] != clean["correct"] / clean["images"]:
                raise _contradicts(run, f"the accuracy of {name}")
            if bad and not np.isclose(bad["mean"], _mean(bad), rtol=1e-12):
                raise _contradicts(run, f"the accuracy of {name} on corrupted images")
            certified = within.get(f"{run.name}/{name}/certified")
            told = parts.get("certified", {"runs": []})["runs"]
            if certified is not None and isinstance(certified.kind, Certified) and len(told) == 1:
                summary = certified.summary
                if any(told[0][key] != summary[key] for key in ("acr", "images", "abstained")):
                    raise _contradicts(run, f"what is certified of {name}")

    def claims(self, run: RunFolder, runs: Sequence[RunFolder]) -> list[Claim]:
        """Say what was measured; see :meth:`Kind.claims`."""
        content, evidence = _read(run), Evidence(self, run, runs)
        images = int(content["data"]["images"])
        made = [
            evidence.claim(
                "MEASURE 2.1",
                "what was evaluated, on what and with what",
                f"No probability: {tested(run, images)}.",
                "document",
                [Figure.count("images", images)],
                file=MANIFEST,
            )
        ]
        mine = [name for name, model in run.named_models.items() if model == run.subject]
        for name, parts in _parts(content).items():
            if name in mine:
                made += [_clean(evidence, parts["clean"])] if "clean" in parts else []
                made += (
                    [_corrupted(evidence, parts["corruptions"])] if "corruptions" in parts else []
                )
                if "calibration" in parts:
                    made.append(_confident(evidence, parts["calibration"]))
                if "ood" in parts:
                    made += [_foreign(evidence, one) for one in parts["ood"]["sets"] if one["rows"]]
        return made

    def command(self, run: RunFolder, runs: Sequence[RunFolder]) -> str:
        """Evaluate again, into another folder."""
        content = _read(run)
        words = shlex.split(str(content["commands"]["all"]))
        asked = dict.fromkeys(part for model in content["models"] for part in model["parts"])
        if asked and "--parts" not in words:
            words[2:2] = ["--parts", ",".join(asked)]
        if "--out" in words:
            at = words.index("--out")
            words[at + 1 : at + 2] = [f"{AGAIN}/{run.name}"]
        return shlex.join(words)


def _clean(evidence: Evidence, found: Mapping[str, Any]) -> Claim:
    low, high = found["interval"]
    return evidence.claim(
        "MEASURE 2.3",
        "the model answers correctly without noise",
        f"The interval holds with probability at least 95% for the share among images drawn as "
        f"these. {whole(found['images'])} Solved as: {found['solve']}. No certificate is about "
        "this classifier.",
        "measurement",
        [
            Figure.share("accuracy", found["accuracy"]),
            Figure.lower("95% interval from", low),
            Figure.upper("95% interval to", high),
            Figure.count("images", found["images"]),
        ],
    )


def _corrupted(evidence: Evidence, found: Mapping[str, Any]) -> Claim:
    worst = min(found["rows"], key=lambda row: float(row["mean"]))
    return evidence.claim(
        "MEASURE 2.5",
        "how far answers hold on corrupted images",
        f"No probability: counted over {len(found['rows'])} corruptions in "
        f"{len(found['severities'])} severities. {whole(found['images'])} Other corruptions were "
        "not looked at.",
        "measurement",
        [
            Figure.share("accuracy on clean images", found["clean"]),
            Figure.share("on corrupted ones, mean", found["mean"]),
            Figure.share(f"worst: {worst['name']}", worst["mean"]),
        ],
    )


def _confident(evidence: Evidence, found: Mapping[str, Any]) -> Claim:
    return evidence.claim(
        "MEASURE 2.5",
        "how far confidence is what accuracy is",
        "No probability: the expected calibration error is an estimate from bins, on these "
        f"{found['sources'][0]['images']} images.",
        "measurement",
        [
            Figure.share(f"calibration error, {one['name']}", one["error"])
            for one in found["sources"]
        ],
    )


def _foreign(evidence: Evidence, found: Mapping[str, Any]) -> Claim:
    best = max(found["rows"], key=lambda row: float(row["auroc"]))
    return evidence.claim(
        "MEASURE 2.6",
        f"images of another kind ({found['name']}) are told from its own",
        f"No probability: counted on {found['images']} foreign and {found['own']} own images; the "
        "best of the scores was chosen on them. Other foreign images were not looked at.",
        "measurement",
        [
            Figure.share(f"AUROC, {best['score']}", best["auroc"]),
            Figure.share("foreign that pass where 95% of own pass", best["fpr95"]),
        ],
    )


def _read(run: RunFolder) -> dict[str, Any]:
    path = run.folder / Evaluated.journal
    try:
        content = json.loads(read_regular(path))
    except (OSError, ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise RunError(f"{path} is damaged; restore it, or evaluate again into another folder")
    return content


def _parts(content: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what was found, by model and part; what was not measured is left out."""
    return {
        model["name"]: {
            part: kept["found"] for part, kept in model["parts"].items() if kept["state"] == "done"
        }
        for model in content["models"]
    }


def _mean(found: Mapping[str, Any]) -> float:
    return float(np.mean([row["accuracy"] for row in found["rows"]]))


def _contradicts(run: RunFolder, what: str) -> RunError:
    return RunError(
        f"{run.folder}: {what} in {Evaluated.journal} is not what it was counted from; restore it, "
        "or evaluate again into another folder"
    )
