"""Runs over different images of one data set, as one: several processes share an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from deqcert.errors import RunError
from deqcert.report.agreement import join_agreements
from deqcert.report.columns import parse_whole
from deqcert.report.reader import Results

_ARRAYS = ("idx", "label", "predict", "radius", "correct", "seconds")


def join_parts(parts: Sequence[Results]) -> Results:
    """Join runs that differ in their images only.

    Args:
        parts: One or more, in the order their images shall have; the first gives the name.

    Returns:
        All images of all parts; sound if every part is.

    Raises:
        RunError: If two parts hold the same image, or were made with other parameters (as far as
            the files tell: the whole manifest for run folders, else the columns).
    """
    first, *others = parts
    if not others:
        return first
    for part in others:
        for key in sorted(first.parameters.keys() | part.parameters.keys()):
            ours, theirs = first.parameters.get(key), part.parameters.get(key)
            if ours != theirs:
                raise RunError(
                    f"the parts of {first.name} differ in {key} ({_say(ours)} and {_say(theirs)}); "
                    "only runs over different images of one evaluation may share a name"
                )
    images, counts = np.unique(np.concatenate([part.idx for part in parts]), return_counts=True)
    if (counts > 1).any():
        raise RunError(
            f"image {images[counts > 1][0]} is in two parts of {first.name}; "
            "every image may count once"
        )
    drawn = [part.facts.get("n_mean", part.facts.get("n", "mixed")) for part in parts]
    facts = dict(first.facts)
    counted = [parse_whole(n) for n in drawn]
    if len(set(drawn)) > 1 and None not in counted:
        total = sum((n or 0) * len(part) for n, part in zip(counted, parts, strict=True))
        facts |= {"n": "mixed", "n_mean": str(round(total / len(counts)))}
    arrays = {key: np.concatenate([getattr(part, key) for part in parts]) for key in _ARRAYS}
    return Results(
        name=first.name,
        **arrays,
        norm=first.norm,
        facts=facts,
        parameters=first.parameters,
        sound=all(part.sound for part in parts),
        pending=sum(part.pending for part in parts),
        about=first.about,
        compared=first.compared,
        agreement=join_agreements([part.agreement for part in parts]),
    )


def _say(value: Any) -> str:
    return "not set" if value is None else str(value)[:40]
