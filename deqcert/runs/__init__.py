"""The run folder: what was asked (manifest), what was found (journal), and how to go on (resume).

A run is a folder with ``manifest.json`` (written first, atomically), ``certificates.tsv`` (one
line per image, each on the disk before the next image begins), where the certified classifier is
not the converged model ``agreement.tsv`` (another line per image), and, after the end,
``summary.json``. A run that was stopped in any way goes on from its last whole line and ends
with the bytes of a run that was never stopped, the time column apart.
"""

from __future__ import annotations

from deqcert.runs.agreement import Agreements
from deqcert.runs.environment import machine, versions
from deqcert.runs.folder import Run, certify_images, keep_certificate
from deqcert.runs.journal import COLUMNS, Journal, Layout, Line, Row, certificate_layout
from deqcert.runs.manifest import Manifest, describe_images
from deqcert.runs.votes import VotedRun, VoteKeeper, refuse_without_votes

__all__ = [
    "COLUMNS",
    "Agreements",
    "Journal",
    "Layout",
    "Line",
    "Manifest",
    "Row",
    "Run",
    "VoteKeeper",
    "VotedRun",
    "certificate_layout",
    "certify_images",
    "describe_images",
    "keep_certificate",
    "machine",
    "refuse_without_votes",
    "versions",
]
