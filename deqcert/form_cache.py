"""Which form of a model was measured to be the fastest here: a small file in the user's cache.

It only ever saves time: where it is absent, damaged or cannot be written, nothing fails.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deqcert.errors import RunError
from deqcert.files import cache_folder, write_atomically
from deqcert.runs import machine, versions
from deqcert.sealed import content_hash

FORMAT = 1
MOST = 1000
"""Choices kept; the oldest go first."""


def cache_file() -> Path:
    """Return the file: in the folder that DEQCERT_CACHE names, or in the user's cache."""
    return cache_folder() / "forms.json"


def describe(model_config: Mapping[str, Any], rows: int, threads: int, device: str) -> str:
    """Return the key of a choice: everything that decides which form is the fastest.

    Args:
        model_config: the model's configuration; its weights do not matter.
        rows: rows of every evaluation.
        threads: CPU threads.
        device: as torch names it.
    """
    facts = {
        "model": dict(model_config),
        "rows": rows,
        "threads": threads,
        "device": device,
        "torch": versions()["torch"],
        "cpu": machine()["cpu"],
    }
    return content_hash(facts)


def recall(key: str) -> str | None:
    """Return the form that was chosen, or None."""
    found = _read().get(key)
    return found if isinstance(found, str) else None


def remember(key: str, form: str) -> bool:
    """Keep a choice; return whether it could be written."""
    choices = _read()
    choices.pop(key, None)
    choices[key] = form
    kept = dict(list(choices.items())[-MOST:])
    file = cache_file()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps({"format": FORMAT, "choices": kept}, indent=1) + "\n")
    except (OSError, RunError):
        return False
    return True


def _read() -> dict[str, Any]:
    try:
        content = json.loads(cache_file().read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        return {}
    choices = content.get("choices")
    return choices if isinstance(choices, dict) else {}
