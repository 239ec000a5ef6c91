"""Runs of ``deqcert certify``: certificates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar

from deqcert.certifiers import registry as registries
from deqcert.docstrings import guarantee
from deqcert.errors import ConfigError
from deqcert.registry import Registry
from deqcert.report import Results, default_radii, read_results
from deqcert.report.tables import entry, odds
from deqcert.runs.journal import NAME
from deqcert.safety_case.claims import Claim, Figure
from deqcert.safety_case.kinds.base import AGAIN, Evidence, Kind, shell, tested, whole
from deqcert.safety_case.run_folder import RunFolder, sha256_of

_TOLD = ("images", "certified_accuracy", "acr", "abstained")


class Certified(Kind):
    """Certificates: a class and a radius for each image."""

    name: ClassVar[str] = "certificates"
    journal: ClassVar[str] = NAME

    def check(self, run: RunFolder) -> None:
        """Refuse a run that is not finished or contradicts itself; see :meth:`Kind.check`."""
        results = read_results(run.folder, run.name)
        run.check_whole(results.idx.tolist())
        told = run.summary
        radii = told.get("radii") if isinstance(told, dict) else None
        numbers = isinstance(radii, list) and all(isinstance(r, int | float) for r in radii)
        run.check_summary(entry(results, radii if numbers and radii else [0.0]), _TOLD)

    def claims(self, run: RunFolder, runs: Sequence[RunFolder]) -> list[Claim]:
        """Compute accuracy, certified accuracy and ACR; see :meth:`Kind.claims`."""
        results = read_results(run.folder, run.name)
        radii = default_radii([results])
        row, about = entry(results, radii), results.about or "the model"
        sound = bool(row["sound"])
        said = self.statement(run, row)
        evidence = Evidence(self, run, runs)
        marked = results.norm if sound else f"{results.norm}, UNSOUND"
        accuracy = [
            Figure.share(f"certified accuracy at r = {radius:g} ({marked})", value)
            for radius, value in zip(radii, row["certified_accuracy"], strict=True)
        ]
        acr = Figure.radius(f"ACR ({marked})", row["acr"])
        clean, abstained = accuracy[0], Figure.share("abstained", row["abstained"])
        images = Figure.count("images", row["images"])
        kept = tested(run, len(results))
        made = [
            evidence.claim(
                "MEASURE 2.1",
                "what was certified, on what and with what",
                f"No probability: {kept}. Metrics: certified accuracy at r is the share of all "
                "images that are correct with a radius of at least r; ACR is the mean over all "
                "images of radius times correct.",
                "document",
                [images],
                file="manifest.json",
            ),
        ]
        if not sound:
            title = "UNSOUND radii, which claim nothing"
            figures = [*accuracy, acr]
            return [*made, evidence.claim("MEASURE 2.7", title, said, "measurement", figures)]
        made += [
            evidence.claim(
                "MEASURE 2.3",
                f"{about} answers correctly and does not abstain",
                said,
                "guarantee",
                [clean, images],
            ),
            evidence.claim(
                "MEASURE 2.6",
                "it abstains where it has no certificate, in place of guessing",
                said,
                "guarantee",
                [abstained, images],
            ),
            evidence.claim(
                "MEASURE 2.7",
                f"no perturbation within the certified radius changes the answer of {about}",
                said,
                "guarantee",
                [*accuracy, acr],
            ),
        ]
        if results.compared is not None and "audited" in (seen := row["agreement"]):
            low, high = seen["interval"]
            made.append(
                evidence.claim(
                    "MEASURE 2.5",
                    f"the classifier that is certified answers as {results.compared}",
                    "With probability at least 95% over the choice of the audited votes the share "
                    f"lies in the interval. The run states: {'; '.join(seen['said'])}.",
                    "measurement",
                    [
                        Figure.share("agreement", seen["share"]),
                        Figure.lower("95% interval from", low),
                        Figure.upper("95% interval to", high),
                        Figure.count("audited votes", seen["audited"]),
                    ],
                    file="agreement.tsv",
                )
            )
        else:
            made.append(
                evidence.claim(
                    "MEASURE 2.5",
                    f"what is certified is {about}, and what that assumes is written down",
                    said,
                    "guarantee",
                    [clean, acr],
                )
            )
        return made

    def statement(self, run: RunFolder, row: Mapping[str, Any]) -> str:
        """Say exactly what the certificates promise, as the method and the run state it."""
        method = str(run.parameters.get("method", "unknown"))
        if not row["sound"]:
            return (
                f"None: no theorem supports the radii of method {method}; they are for comparison "
                "with published numbers only."
            )
        said = (
            guarantee(_docstring(method))
            or "With probability at least 1 - alpha the certificate abstains or is true."
        )
        if "expected_wrong" in row:
            expected = odds(row)
            said += f" Here {expected}."
        return f"{said} {_sentence(run.notes.get('assumptions'))}{whole(row['images'])}"

    def command(self, run: RunFolder, runs: Sequence[RunFolder]) -> str:
        """Certify again by the manifest's settings, or from the votes of the same run."""
        place, parent = run.place("manifest.json"), run.parameters.get("parent")
        if isinstance(parent, dict):
            voted = str(run.notes.get("parent", "RUN"))
            for other in runs:
                held = other.folder / NAME
                if held.exists() and sha256_of(held) == parent.get("certificates_sha256"):
                    voted = other.place("").rstrip("/")
            words = ["deqcert", "recertify", voted, "--method", str(run.parameters.get("method"))]
            return shell(*words, config=place, out=f"{AGAIN}/{run.name}")
        return shell("deqcert", "certify", config=place, out=f"{AGAIN}/{run.name}")


def sound_results(runs: Sequence[RunFolder]) -> Iterator[tuple[RunFolder, Results]]:
    """Yield every run of certificates that have a theorem behind them, and its certificates."""
    for run in runs:
        if isinstance(run.kind, Certified):
            results = read_results(run.folder, run.name)
            if results.sound:
                yield run, results


def _docstring(method: str) -> str:
    """Return the docstring of a method, whichever registry has it; "" for a stranger's."""
    for registry in vars(registries).values():
        if isinstance(registry, Registry) and method in registry:
            with suppress(ConfigError):  # of a plugin that cannot be imported nothing is known
                return str(registry.get(method).__doc__)
    return ""


def _sentence(assumed: object) -> str:
    if not isinstance(assumed, str) or not assumed:
        return ""
    return f"The run states: {' '.join(assumed.split()).rstrip('.')}. "
