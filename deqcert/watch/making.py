"""Making a reference of a clean run: its answers counted, its inputs looked at without noise."""

from __future__ import annotations

import dataclasses

import numpy as np

from deqcert.errors import RunError
from deqcert.watch.observations import Source
from deqcert.watch.reference import Reference, make_reference


def reference_of(source: Source, radius: float, *, clean: bool) -> Reference:
    """Make a reference of all answers that a source has.

    Args:
        source: Answers to inputs that are what is to be expected, with their labels.
        radius: r0, which the alarm on radii will hold answers against.
        clean: Whether to solve each input without noise as well, for the alarms on disagreement
            and on scores. What the distance of latents is measured by is then fitted to every
            second row, and the distances that are kept are those of the others.

    Raises:
        DeqcertError: If there are no answers, the model or the inputs are not to be had, or a class
            has too few rows.
    """
    rows = list(source.observations())
    known = {row.key: row.label for row in source.labelled()}
    rows = [dataclasses.replace(row, label=known.get(row.key, row.label)) for row in rows]
    if not rows:
        raise RunError(f"{source.name} holds no answers yet; certify at least one image first")
    parameters = source.parameters[0]
    notes = {**source.notes, "position": source.position}
    if not clean:
        return make_reference(rows, parameters, radius, notes=notes)
    from deqcert.watch.clean import CleanLook, fit_distance

    look, x = CleanLook.of_notes(source), source.images(rows)
    distance, (logits, latents) = None, look.solve(x[::2])
    if latents is not None:
        pairs = zip(rows[::2], logits.argmax(axis=1), strict=True)
        labels = [guess if row.label is None else row.label for row, guess in pairs]
        distance = fit_distance(latents, np.array(labels, dtype=np.int64))
    looked = look.look(rows, x, distance)
    scores = {"energy": [row.scores["energy"] for row in looked]}
    if distance is not None:
        scores["mahalanobis"] = [row.scores["mahalanobis"] for row in looked[1::2]]
    return make_reference(looked, parameters, radius, scores=scores, distance=distance, notes=notes)
