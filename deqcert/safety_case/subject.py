"""The one model that a case is about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from deqcert.errors import ConfigError
from deqcert.runs.journal import NAME as CERTIFICATES
from deqcert.safety_case.run_folder import RunFolder, sha256_of


def about_one_model(runs: Sequence[RunFolder]) -> list[RunFolder]:
    """Find the model that runs are about, and tell every run.

    A run from whose votes a changed model was certified may be of the model before the change, and
    an evaluation may hold others beside it; nothing is claimed of these.

    Args:
        runs: All runs, those inside of evaluations included.

    Returns:
        The same runs, each with its subject.

    Raises:
        ConfigError: If they are of different models.
    """
    leading = [run for run in runs if len(run.models) == 1 and not _stands_beside(run, runs)]
    known: dict[str, tuple[str, RunFolder]] = {}
    for run in leading:
        what, digest = run.models[0]
        first = known.setdefault(what, (digest, run))
        if first[0] != digest:
            raise ConfigError(
                f"{first[1].folder} and {run.folder} are of different models ({what} "
                f"{first[0][:12]} and {digest[:12]}); a case is about one: make one for each"
            )
    if len(known) > 1:
        (_, one), (_, other) = list(known.values())[:2]
        raise ConfigError(
            f"{one.folder} knows its model by a checkpoint and {other.folder} by weights, so that "
            "nothing says that they are the same; make a case for each"
        )
    subject = next(((what, digest) for what, (digest, _) in known.items()), None)
    for run in runs:
        if len(run.models) > 1 and subject not in run.models:
            raise ConfigError(
                f"{run.folder} is of several models ({', '.join(run.named_models)}), and a case is "
                "about one; give a run of one of them as well"
            )
    return [replace(run, subject=subject) for run in runs]


def _stands_beside(run: RunFolder, runs: Sequence[RunFolder]) -> bool:
    """Whether a run need not be of the case's model."""
    if "/" in run.name:  # inside of an evaluation
        return True
    wanted = [
        (parent["certificates_sha256"], other)
        for other in runs
        if isinstance(parent := other.parameters.get("parent"), dict)
        and "certificates_sha256" in parent
    ]
    if not wanted or not (run.folder / CERTIFICATES).exists():
        return False
    mine = sha256_of(run.folder / CERTIFICATES)
    return any(mine == digest and run.models != other.models for digest, other in wanted)
