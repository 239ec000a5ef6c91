"""Answers in run folders: one run, growing or finished, or a folder to which runs are added."""

from __future__ import annotations

import functools
import hashlib
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deqcert.errors import ConfigError, DataError, RunError
from deqcert.report import read_results
from deqcert.report.columns import read_text
from deqcert.runs.journal import NAME
from deqcert.runs.manifest import Manifest, describe_images
from deqcert.watch.observations import Observation

TOLD = ("votes", "n", "n0", "p_lower", "sigma", "alpha", "method", "seed", "details")
"""Columns that an incident tells of an image."""


class RunSource:
    """The images of a run, or of all runs in a folder in order of their names, as observations.

    Args:
        folder: A run folder of ``deqcert certify``, or a folder of such folders.

    Raises:
        RunError: If there is no run, or one cannot be read.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.name = self.folder.resolve().name
        self.position: Any = None
        self.skipped = 0
        self._runs = {run.name: run for run in _runs(self.folder)}
        found = [(name, _manifest(run)) for name, run in self._runs.items()]
        self._manifests = dict(found)
        first = found[0][1]
        self.parameters = [
            {**one.parameters, "images": describe_images(one.images)} for _, one in found
        ]
        self.notes = dict(first.notes)

    def observations(self) -> Iterator[Observation]:
        """Yield the images that were certified since, run by run.

        Raises:
            RunError: If lines that were read are no longer what they were.
        """
        position: dict[str, list[Any]] = {k: list(v) for k, v in (self.position or {}).items()}
        for name in position:
            if name not in self._runs:
                raise RunError(
                    f"the run {name} that was watched is not in {self.folder} any more; put it "
                    "back, or begin anew with another --state"
                )
        for name, run in self._runs.items():
            done, mark = position.get(name, [0, ""])
            now, lines = "", 0
            for text, seen in _lines(run, self._manifests[name]):
                now = hashlib.blake2b(f"{now}\n{text}".encode(), digest_size=16).hexdigest()
                lines += 1
                if lines == done and now != mark:
                    raise RunError(
                        f"{run} is not the run that was watched before; begin anew with another "
                        "--state"
                    )
                if lines > done:
                    position[name] = [lines, now]
                    self.position = {k: list(v) for k, v in position.items()}
                    yield seen
            if lines < done:
                raise RunError(
                    f"{run} has lost lines that were watched; restore it, or begin anew with "
                    "another --state"
                )

    def labelled(self) -> Iterator[Observation]:
        """Yield nothing: a run's labels stand in its lines."""
        return iter(())

    def images(self, observations: Sequence[Observation]) -> NDArray[np.float32]:
        """Return the images from the data that the runs' manifests name.

        Raises:
            DataError: If the data are elsewhere or were changed.
        """
        found = []
        for seen in observations:
            manifest = self._manifests[str(seen.evidence["run"])]
            told = manifest.parameters
            data = _data(str(manifest.notes["data"]), str(told["split"]), told["data_hash"])
            found.append(data.image(int(seen.evidence["index"])))
        return np.stack(found)


def _runs(folder: Path) -> list[Path]:
    if (folder / NAME).exists() or (folder / "manifest.json").exists():
        return [folder]
    try:
        inside = sorted(folder.iterdir()) if folder.is_dir() else []
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {folder}: {error}; give a run folder") from None
    found = [one for one in inside if (one / "manifest.json").is_file()]
    if not found:
        raise RunError(
            f"{folder} holds no run; give a run folder of deqcert certify, or a folder of some"
        )
    return found


def _manifest(run: Path) -> Manifest:
    manifest = Manifest.read(run)
    if manifest is None:
        raise RunError(f"{run} has no manifest.json; give a run folder of deqcert certify")
    if "data_hash" not in manifest.parameters or not (run / NAME).exists():
        raise RunError(f"{run} holds no certificates; give a run folder of deqcert certify")
    return manifest


def _lines(run: Path, manifest: Manifest) -> Iterator[tuple[str, Observation]]:
    """Yield every whole line of a run with what it says."""
    text = read_text(run / NAME, "give a run folder")
    if text.count("\n") < 2:
        return  # it has only begun
    results = read_results(run)
    header, *lines = text.split("\n")[:-1]
    columns = header.split("\t")
    for place, line in enumerate(lines[: len(results)]):
        cells = dict(zip(columns, line.split("\t"), strict=True))
        index, predict = int(results.idx[place]), int(results.predict[place])
        seed = manifest.parameters.get("seed")
        told = {key: cells[key] for key in TOLD if key in cells}
        # The time column is not the same when a line is written again.
        text = "\t".join(value for key, value in cells.items() if key != "time")
        yield (
            text,
            Observation(
                key=f"{run.name}:{index}",
                predict=None if predict < 0 else predict,
                radius=float(results.radius[place]),
                label=int(results.label[place]),
                evidence={"run": run.name, "index": index, **told, "seed": seed},
                replay=_replay(run, index, seed),
            ),
        )


def _replay(run: Path, index: int, seed: Any) -> str:
    """Return the command that certifies one image again, with the same votes."""
    given = f" --seed {seed}" if isinstance(seed, int) else ""
    return (
        f"deqcert certify --config {shlex.quote(str(run / 'manifest.json'))} --images "
        f"{index}{given} --out {shlex.quote(f'replay-{run.name}-{index}')}"
    )


@functools.lru_cache(maxsize=8)
def _data(name: str, split: str, data_hash: str) -> Any:
    from deqcert.data import load_dataset

    try:
        found = load_dataset(name, "train" if split == "train" else "test")
    except ConfigError as error:
        raise DataError(str(error)) from None
    if found.hash() != data_hash:
        raise DataError(
            f"{name} is not what was certified; restore it, or leave the looks without noise out"
        )
    return found
