"""Command lines that make a figure again."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from deqcert.api import SmoothedClassifier
from deqcert.evaluation.config import Evaluating
from deqcert.settings import Data

MAPPINGS = {"solver_options": "--solver-option", "method_options": "--method-option"}


def words_for(options: Mapping[str, Any]) -> list[str]:
    """Write settings by name as options of a command line."""
    words: list[str] = []
    for name, value in options.items():
        if name in MAPPINGS:
            for key, one in value.items():
                words += [MAPPINGS[name], f"{key}={one}"]
        elif isinstance(value, list | tuple):
            for one in value:
                words += [f"--{name.replace('_', '-')}", str(one)]
        else:
            words += [f"--{name.replace('_', '-')}", str(value)]
    return words


def evaluate_command(
    models: Sequence[str],
    classifier: SmoothedClassifier,
    chosen: Data,
    asked: Evaluating,
    more: Mapping[str, Any],
) -> list[str]:
    """Return the words of a ``deqcert evaluate``, without parts and folder.

    Args:
        models: As they were given.
        classifier: One of them, for the settings.
        chosen: Which images.
        asked: How much of everything.
        more: Further options by name.
    """
    settings = {k: v for k, v in classifier.written().items() if k != "model"}
    data = {f.name: getattr(chosen, f.name) for f in dataclasses.fields(chosen)}
    usual = Evaluating()
    sizes = {
        f.name: getattr(asked, f.name)
        for f in dataclasses.fields(asked)
        if getattr(asked, f.name) != getattr(usual, f.name)
    }
    written = {k: v for k, v in data.items() if k == "data" or v != getattr(Data(), k)}
    return ["deqcert", "evaluate", *models, *words_for({**written, **settings, **sizes, **more})]


def line(words: Sequence[str], **options: Any) -> str:
    """Return a command line with further options."""
    return shlex.join([*words, *words_for(options)])
