"""Put the shards of a run together: the files that one process would have written."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deqcert.errors import RunError
from deqcert.files import read_regular
from deqcert.finishing import finish
from deqcert.report import Results
from deqcert.runs import Manifest, Run, certificate_layout, describe_images, versions
from deqcert.runs.agreement import AGREEMENT
from deqcert.runs.journal import Journal, Layout
from deqcert.runs.manifest import parse_images
from deqcert.scale.shard import Shard, parse_shard

NOTE = "shard"
"""Note of a shard's manifest: its ``part`` as I/N, and the images ``of`` the whole run."""


def shard_note(shard: Shard, images: Sequence[int]) -> dict[str, Any]:
    """Return what a shard's manifest notes beside what one of the whole run would.

    Args:
        shard: Which one.
        images: Indices of the images of the whole run.
    """
    return {NOTE: {"part": str(shard), "of": describe_images(images)}}


@dataclass(frozen=True)
class _Found:
    """A shard on the disk, whole."""

    folder: Path
    manifest: Manifest
    shard: Shard
    of: tuple[int, ...]
    files: Mapping[str, Mapping[int, str]]

    @property
    def name(self) -> str:
        return f"{self.folder} (shard {self.shard})"


@dataclass(frozen=True)
class _Copy:
    """A line of a shard, for another journal."""

    idx: int
    text: str

    def line(self) -> str:
        return self.text


def merge(
    shards: Sequence[str | Path],
    out: str | Path,
    *,
    radii: Sequence[float] | None = None,
    note: Callable[[str], None] = lambda sentence: None,
) -> Results:
    """Write the run folder of a run that was certified in shards.

    It holds the bytes that one process would have written, the time columns apart and what is made
    of them. Shards that ran on other processors are recorded as a continuation there is.

    Args:
        shards: Run folders that were written with ``--shard``; all of one run, in any order. One
            that is given twice, or was certified twice, counts once if its lines are equal.
        out: The run folder to write: new or empty, or that of an earlier merge of the same shards.
        radii: Radii of the summary, in input units; the default is those of the goal, or else
            0, 0.25 and so on.
        note: Called with a sentence about what a reader of the results should know.

    Returns:
        The certificates.

    Raises:
        RunError: If a shard is missing, unfinished or of another run, lines of one image differ,
            or a folder cannot be read or written.
    """
    if not shards:
        raise RunError("no shard is given; name the run folders that certify --shard wrote")
    if any(os.path.realpath(out) == os.path.realpath(folder) for folder in shards):
        raise RunError(f"{out} is one of the shards; give another folder with --out")
    found = [_read(Path(folder)) for folder in shards]
    first = found[0]
    for other in found[1:]:
        _check_same_run(first, other)
    _check_complete(found)
    layouts = {layout.name: layout for layout in _layouts(first.manifest)}
    lines = {name: _gather(found, layouts[name]) for name in first.files}
    whole = _manifest(found)
    journal, *others = layouts.values()
    with Run(
        out,
        whole.parameters,
        whole.images,
        environment=whole.environment,
        notes=whole.notes,
        layout=journal,
    ) as run:
        run.append(*_rest(run.certificates, whole.images, journal, lines[journal.name]))
        for layout in others:
            if layout.name in lines:
                beside = Journal(run.folder, whole.images, layout)
                try:
                    rest = _rest(beside.path, whole.images, layout, lines[layout.name])
                    beside.append(*rest)
                finally:
                    beside.close()
        if whole.continued:
            run.manifest = replace(run.manifest, continued=whole.continued)
            run.manifest.write(run.folder)
        return finish(run, radii, note)


def _layouts(manifest: Manifest) -> tuple[Layout, Layout]:
    parameters = manifest.parameters
    noise = parameters.get("sigma") is not None
    return certificate_layout(noise=noise, norm=parameters.get("norm", "l2")), AGREEMENT


def _read(folder: Path) -> _Found:
    manifest = Manifest.read(folder)
    if manifest is None:
        raise RunError(f"{folder} is no run folder; give those that certify --shard wrote")
    said = manifest.notes.get(NOTE)
    try:
        shard, of = parse_shard(said["part"]), parse_images(said["of"])  # type: ignore[index]
    except (TypeError, KeyError, ValueError):
        raise RunError(
            f"{folder} is no shard; give run folders that certify --shard wrote"
        ) from None
    certificates, agreement = _layouts(manifest)
    files = {certificates.name: _lines(folder, manifest, certificates, shard)}
    if (folder / agreement.name).exists():
        files[agreement.name] = _lines(folder, manifest, agreement, shard)
    return _Found(folder, manifest, shard, of, files)


def _lines(folder: Path, manifest: Manifest, layout: Layout, shard: Shard) -> dict[int, str]:
    """Read a shard's lines by image, all of them."""
    path = folder / layout.name
    try:
        content = read_regular(path)
    except FileNotFoundError:
        content = b""
    except OSError as error:
        raise RunError(f"cannot read {path} ({error.strerror}); restore it") from None
    header, *lines = content.split(b"\n")[:-1] or [b""]
    images = manifest.images
    if header and header.decode("ascii", "replace") + "\n" != layout.header:
        raise RunError(f"{path} does not begin with its run's columns; restore it")
    for number, (line, index) in enumerate(zip(lines, images, strict=False), start=2):
        if not layout.is_row(line, index):
            raise RunError(f"{path}, line {number}, is not what its run would have written")
    if len(lines) != len(images):
        raise RunError(
            f"{folder} (shard {shard}) has {len(lines)} of {len(images)} lines in {layout.name}; "
            "give its certify command again, which goes on, and merge then"
        )
    return {i: line.decode() + "\n" for i, line in zip(images, lines, strict=True)}


def _check_same_run(first: _Found, other: _Found) -> None:
    """Refuse a shard of another run, naming what differs."""
    differing = [
        text.replace(" and is now ", f" in {first.folder} and is ") + f" in {other.folder}"
        for text in replace(first.manifest, images=()).differences(
            replace(other.manifest, images=())
        )
    ]
    if (first.of, first.shard.count) != (other.of, other.shard.count):
        cuts = [f"{one.shard.count} shards of {describe_images(one.of)}" for one in (first, other)]
        differing.append(f"{first.folder} is one of {cuts[0]} and {other.folder} of {cuts[1]}")
    spent = [one.manifest.notes.get("settings", {}).get("agreement") for one in (first, other)]
    if spent[0] != spent[1] or first.files.keys() != other.files.keys():
        differing.append("their agreement was audited in different ways (--agreement)")
    if differing:
        raise RunError(
            f"{first.folder} and {other.folder} are of different runs "
            f"({'; '.join(differing[:4])}); merge shards of one command, or certify "
            "one of them again"
        )
    mine = first.manifest.environment
    for seen in (
        other.manifest.environment,
        *(entry["environment"] for one in (first, other) for entry in one.manifest.continued),
    ):
        for library in versions():
            if seen.get(library) != mine.get(library):
                raise RunError(
                    f"{other.folder} was computed with {library} {seen.get(library)} and "
                    f"{first.folder} with {mine.get(library)}, which may change a vote; certify "
                    "one of them again in a new folder"
                )


def _check_complete(found: Sequence[_Found]) -> None:
    """Refuse a gap, naming the shards that are missing."""
    first = found[0]
    there = {one.shard.index for one in found}
    missing = [
        Shard(index, first.shard.count)
        for index in range(1, first.shard.count + 1)
        if index not in there
    ]
    if missing:
        told = ", ".join(
            f"{one} (images {describe_images(one.part(first.of))})" for one in missing[:4]
        )
        more = f" and {len(missing) - 4} more" if len(missing) > 4 else ""
        raise RunError(f"shard {told}{more} is missing; name its folder, too")


def _gather(found: Sequence[_Found], layout: Layout) -> dict[int, str]:
    """Return the line of every image; lines that were computed twice must be equal."""
    lines: dict[int, tuple[_Found, str]] = {}
    for one in found:
        for index, line in one.files[layout.name].items():
            if index not in lines:
                lines[index] = one, line
            elif timeless(line, layout) != timeless(lines[index][1], layout):
                raise RunError(
                    f"image {index} has two different lines in {layout.name} of "
                    f"{lines[index][0].name} and {one.name}; certify it again to see which is "
                    "right, and leave the other out"
                )
    return {index: line for index, (_, line) in lines.items()}


def timeless(line: str, layout: Layout) -> list[str]:
    """Return the cells of a line that a repetition must give again: all but its time."""
    cells = line.rstrip("\n").split("\t")
    return [cell for name, cell in zip(layout.columns, cells, strict=True) if name != "time"]


def _rest(
    path: Path, images: Sequence[int], layout: Layout, lines: Mapping[int, str]
) -> list[_Copy]:
    """Return the lines that are not in a journal yet, and refuse others than these in it."""
    there = path.read_text(encoding="ascii").splitlines(keepends=True)[1:]
    for index, line in zip(images, there, strict=False):
        if timeless(line, layout) != timeless(lines[index], layout):
            raise RunError(
                f"{path} has another line for image {index} than the shards; "
                "give another folder with --out"
            )
    return [_Copy(index, lines[index]) for index in images[len(there) :]]


def _manifest(found: Sequence[_Found]) -> Manifest:
    """Return the manifest of the whole; other processors become continuations."""
    ordered = sorted({one.shard.index: one for one in found}.items())
    first = ordered[0][1].manifest
    continued: list[Mapping[str, Any]] = []
    last, done = first.environment, 0
    for _, one in ordered:
        parts = [{"after_images": 0, "environment": one.manifest.environment}]
        for entry in [*parts, *one.manifest.continued]:
            if entry["environment"] != last:
                after = done + int(entry["after_images"])
                continued.append({"after_images": after, "environment": entry["environment"]})
                last = entry["environment"]
        done += len(one.manifest.images)
    notes = {key: value for key, value in first.notes.items() if key != NOTE}
    return Manifest(first.parameters, found[0].of, first.environment, notes, tuple(continued))
