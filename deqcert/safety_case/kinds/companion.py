"""Runs of another model, which stand beside the one that the case is about."""

from __future__ import annotations

from typing import ClassVar

from deqcert.safety_case.kinds.other import Other


class Companion(Other):
    """An artefact without a claim: of an earlier model, or one that was evaluated beside."""

    name: ClassVar[str] = "of another model: an artefact without a claim"
