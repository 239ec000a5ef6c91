"""Runs of ``deqcert conformal sets``: prediction sets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from deqcert.conformal.calibration import Calibration
from deqcert.report.sets import CLEAN, NAME, read_sets, sets_table
from deqcert.runs.manifest import describe_images
from deqcert.safety_case.claims import Claim, Figure
from deqcert.safety_case.kinds.base import AGAIN, Evidence, Kind, shell, tested, whole
from deqcert.safety_case.run_folder import RunFolder

PROMISED, FOUND = "promised coverage", "coverage found"


class Sets(Kind):
    """Sets of classes that hold the true one as often as is promised."""

    name: ClassVar[str] = "prediction sets"
    journal: ClassVar[str] = NAME

    def check(self, run: RunFolder) -> None:
        """Refuse a run that is not finished or contradicts itself; see :meth:`Kind.check`."""
        results = read_sets(run.folder)
        run.check_whole(results.idx.tolist())
        computed = sets_table(results).summary()
        run.check_summary(computed, list(computed))

    def claims(self, run: RunFolder, runs: Sequence[RunFolder]) -> list[Claim]:
        """Compute coverage and sizes, clean and attacked."""
        results = read_sets(run.folder)
        table, images = sets_table(results), len(results)
        promised = str(run.notes.get("guarantee", "")).rstrip(".")
        said = (
            f"{promised[:1].upper()}{promised[1:]}. The interval holds with probability at least "
            f"95% for the share among images drawn as these. {whole(images)}"
        )
        evidence = Evidence(self, run, runs)
        made = [
            evidence.claim(
                "MEASURE 2.1",
                "for what sets were made, on what and with what",
                f"No probability: {tested(run, images)}; calibrated on "
                f"{run.parameters.get('calibrated_on', '?')} other images.",
                "document",
                [Figure.count("images", images)],
                file="manifest.json",
            )
        ]
        for row in table.rows:
            clean = row["name"] == CLEAN
            low, high = row["interval"]
            found = FOUND if clean else f"{FOUND} under {row['name']}"
            made.append(
                evidence.claim(
                    "MEASURE 2.3" if clean else "MEASURE 2.6",
                    "sets hold the true class"
                    if clean
                    else f"sets hold the true class under {row['name']} within l2 radius "
                    f"{results.radius:g}",
                    said,
                    "guarantee",
                    [
                        Figure.share(PROMISED, results.promised),
                        Figure.share(found, row["coverage"]),
                        Figure.lower("95% interval from", low),
                        Figure.upper("95% interval to", high),
                        Figure("classes in a set on average", row["size"], f"{row['size']:.2f}"),
                    ],
                )
            )
        return made

    def command(self, run: RunFolder, runs: Sequence[RunFolder]) -> str:
        """Answer for the same images again."""
        was, notes = run.parameters, run.notes
        place = "CALIBRATION"
        for other in runs:
            if other.kind.name == "calibration":
                held = Calibration.read(other.folder)
                if held.sha256 == was.get("calibration_sha256"):
                    place = other.place("").rstrip("/")
        words = ["deqcert", "conformal", "sets", place]
        for attack in was.get("attacks") or ():
            words += ["--attack", str(attack)]
        return shell(
            *words,
            alpha=was.get("alpha"),
            radius=was.get("radius"),
            data=notes.get("data"),
            split=notes.get("split"),
            images=describe_images(run.manifest.images),
            seed=was.get("seed"),
            out=f"{AGAIN}/{run.name}",
        )
