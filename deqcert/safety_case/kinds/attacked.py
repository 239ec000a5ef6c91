"""Runs of ``deqcert attack``: certificates held against attacks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from deqcert.report.attacks import NAME, attack_rows, read_attacks
from deqcert.runs.manifest import describe_images
from deqcert.safety_case.claims import Claim, Figure
from deqcert.safety_case.kinds.base import AGAIN, Evidence, Kind, number, shell, tested, whole
from deqcert.safety_case.run_folder import RunFolder, sha256_of


class Attacked(Kind):
    """Attacks: how near another class was found, and whether inside a certified radius."""

    name: ClassVar[str] = "attacks"
    journal: ClassVar[str] = NAME

    def check(self, run: RunFolder) -> None:
        """Refuse a run that is not finished or contradicts itself; see :meth:`Kind.check`."""
        attacked, told = read_attacks(run.folder), run.summary
        run.check_whole(attacked.idx.tolist())
        radii = told.get("radii") if isinstance(told, dict) else None
        numbers = isinstance(radii, list) and all(isinstance(r, int | float) for r in radii)
        alarms = {str(image): list(names) for image, names in attacked.alarms.items()}
        rows = attack_rows(attacked, radii if numbers and radii else [0.0])
        run.check_summary({"rows": rows, "alarms": alarms}, ("rows", "alarms"))

    def claims(self, run: RunFolder, runs: Sequence[RunFolder]) -> list[Claim]:
        """Compute what attacks left, and how many certificates they broke."""
        attacked, told, was = read_attacks(run.folder), run.summary, run.parameters
        rows = attack_rows(attacked, told["radii"])
        left = next(row for row in rows if row["name"] == "all attacks")
        named = ", ".join(map(str, was.get("attacks", [])))
        images, alpha = len(attacked.idx), number(was, "alpha")
        source = self.certified(run, runs)
        of = f"the certificates of {source.name}" if source else "certificates not in this case"
        verdict = (
            f"Any verdict of the whole run is wrong with probability at most {alpha:g}."
            if attacked.smoothed and alpha is not None
            else "A class counts as another only where that is proven."
        )
        evidence = Evidence(self, run, runs)
        return [
            evidence.claim(
                "MEASURE 2.1",
                "what was attacked, on what and with what",
                f"No probability: {named}, against {of}; {tested(run, images)}.",
                "document",
                [Figure.count("images", images), Figure.count("attacks", len(attacked.norm))],
                file="manifest.json",
            ),
            evidence.claim(
                "MEASURE 2.7",
                f"what attacks left of the {attacked.subject}",
                f"An estimate from above: attacks ({named}) found no point of another class within "
                f"r; that there is none they do not show. {verdict} {whole(images)}",
                "measurement",
                [
                    Figure.share(f"accuracy left at r = {radius:g} ({attacked.ball})", value)
                    for radius, value in zip(told["radii"], left["accuracy"], strict=True)
                ],
            ),
            evidence.claim(
                "MEASURE 2.13",
                f"attacks contradict none of {of}"
                if not attacked.alarms
                else f"ATTACKS CONTRADICT {of}",
                f"{verdict} That no certificate broke does not prove them; one that breaks "
                "contradicts them.",
                "measurement",
                [
                    Figure.count("certificates broken", len(attacked.alarms)),
                    Figure.count("certificates attacked", int(attacked.certified.sum())),
                ],
            ),
        ]

    def certified(self, run: RunFolder, runs: Sequence[RunFolder]) -> RunFolder | None:
        """Return the run whose certificates were attacked, if it is in the case."""
        from deqcert.safety_case.kinds.certified import Certified

        wanted = run.parameters.get("certificates")
        for other in runs:
            if not isinstance(other.kind, Certified):
                continue
            if sha256_of(other.folder / Certified.journal) == wanted:
                return other
        return None

    def command(self, run: RunFolder, runs: Sequence[RunFolder]) -> str:
        """Attack the same certificates again."""
        was, source = run.parameters, self.certified(run, runs)
        place = str(run.notes.get("run", "RUN")) if source is None else source.place("").rstrip("/")
        words = ["deqcert", "attack", place]
        for attack in was.get("attacks", []):
            words += ["--attack", str(attack)]
        if source is not None:
            known = list(source.manifest.images)
            words += ["--images", describe_images([known.index(i) for i in run.manifest.images])]
        grid = was.get("grid")
        kept = {key: was.get(key) for key in ("n", "alpha", "search", "rows", "seed")}
        reach = max(grid) if isinstance(grid, list) and grid else None
        return shell(*words, **kept, reach=reach, out=f"{AGAIN}/{run.name}")
