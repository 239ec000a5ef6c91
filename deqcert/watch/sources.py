"""The source that a folder is: runs, or the record of a service."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deqcert.errors import ConfigError
from deqcert.serve.records import NAME
from deqcert.watch.observations import Source
from deqcert.watch.run_source import RunSource


def open_source(
    folder: str | Path,
    labels: str | Path | None = None,
    like: Mapping[str, Any] | None = None,
) -> Source:
    """Return the answers in a folder.

    Args:
        folder: A run folder, a folder of some, or the folder of a service.
        labels: For a service, the file of labels that came later.
        like: For a service, the parameters of a reference: answers to its question count.

    Raises:
        RunError: If it is none of these, or cannot be read.
        ConfigError: If labels are given for runs, whose labels stand in their lines.
    """
    if (Path(folder) / NAME).is_file():
        from deqcert.watch.record_source import RecordSource

        return RecordSource(folder, labels, like)
    if labels is not None:
        raise ConfigError("the labels of a run stand in its lines; leave --labels out")
    return RunSource(folder)
