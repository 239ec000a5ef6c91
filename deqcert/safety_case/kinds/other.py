"""Runs of a kind that this version does not know: kept, and nothing is claimed of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from deqcert.runs.manifest import NAME
from deqcert.safety_case.claims import Claim
from deqcert.safety_case.kinds.base import Kind
from deqcert.safety_case.run_folder import RunFolder


class Other(Kind):
    """An artefact without a claim."""

    name: ClassVar[str] = "unknown: an artefact without a claim"
    journal: ClassVar[str] = NAME

    def check(self, run: RunFolder) -> None:
        """Refuse nothing: nothing is known of it."""

    def claims(self, run: RunFolder, runs: Sequence[RunFolder]) -> list[Claim]:
        """Return no claim."""
        return []

    def command(self, run: RunFolder, runs: Sequence[RunFolder]) -> str:
        """Return nothing: what made it is not known."""
        return ""
