"""SHA256SUMS: a line for every other file of a folder, as ``sha256sum -c`` takes it."""

from __future__ import annotations

from pathlib import Path

from deqcert.errors import RunError
from deqcert.files import read_regular, write_atomically
from deqcert.safety_case.run_folder import files_below, sha256_of

NAME = "SHA256SUMS"


def write_sums(folder: Path) -> None:
    """Write the file for all that is in a folder.

    Raises:
        RunError: If it cannot be written.
    """
    sums = {name: sha256_of(folder / name) for name in files_below(folder) if name != NAME}
    write_atomically(folder / NAME, _text(sums))


def check_sums(folder: Path) -> list[str]:
    """Hold a folder against its file.

    Args:
        folder: The folder.

    Returns:
        A sentence for each fault.

    Raises:
        RunError: If there is no such file.
    """
    try:
        content = read_regular(folder / NAME)
    except OSError as error:
        raise RunError(
            f"{folder} is no whole safety case (cannot read {NAME}: {error.strerror}); give a "
            "folder that deqcert safety-case wrote"
        ) from None
    stated, faults = _read(content)
    found: dict[str, str] = {}
    for name in files_below(folder):
        if name == NAME:
            continue
        try:
            if (folder / name).is_symlink():
                raise OSError(0, "it is a link")
            found[name] = sha256_of(folder / name)
        except OSError as error:
            faults.append(f"{name} cannot be read ({error.strerror})")
            found[name] = stated.get(name, "")
    for name, digest in found.items():
        if name not in stated:
            faults.append(f"{name} is in the folder and not in {NAME}")
        elif digest != stated[name]:
            faults.append(f"{name} has changed: its SHA-256 is {digest}, not {stated[name]}")
    missing = sorted(stated.keys() - found.keys())
    faults += [f"{name} is in {NAME} and not in the folder" for name in missing]
    if not faults and content != _text(found).encode():
        faults.append(f"{NAME} is not in order: a line stands twice, or elsewhere than it was")
    return faults


def _text(sums: dict[str, str]) -> str:
    return "".join(f"{sums[name]}  {name}\n" for name in sorted(sums))


def _read(content: bytes) -> tuple[dict[str, str], list[str]]:
    stated: dict[str, str] = {}
    faults = []
    lines = content.decode("utf-8", "replace").split("\n")
    if lines.pop():
        faults.append(f"{NAME} does not end with a whole line")
    for number, line in enumerate(lines, start=1):
        digest, gap, name = line[:64], line[64:66], line[66:]
        if gap != "  " or not name or set(digest) - set("0123456789abcdef"):
            faults.append(f"{NAME}, line {number}, is no checksum and name")
        else:
            stated[name] = digest
    return stated, faults
