"""What the documentation shows: blocks of code and command lines, with their places."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# The changelog tells of what is gone, too.
PAGES = [
    *(page for page in sorted(ROOT.glob("*.md")) if page.name != "CHANGELOG.md"),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "benchmarks" / "results").glob("*.md")),
]
SHELL = ("", "bash", "sh", "console", "text")
PROGRAM = re.compile(r"^(?:\$ )?(?:[A-Z_]+=\S+ )*(?:torchrun .*-m )?deqcert (?=\S)")


@dataclass(frozen=True)
class Block:
    """A fenced or indented block.

    Args:
        line: of its first line of code, from 1.
        language: what its fence says; "" for none.
        lines: the code.
        skipped: the reason why it is not run, if a comment before it gives one.
    """

    line: int
    language: str
    lines: list[str]
    skipped: str


def blocks(text: str) -> list[Block]:
    """Find the blocks of code of a page."""
    found: list[Block] = []
    fence, skipped = None, ""
    for number, line in enumerate(text.splitlines(), start=1):
        mark = re.match(r"^( *)(```+)(.*)$", line)
        if fence is None and mark:
            fence = mark[2]
            indent = len(mark[1])
            found.append(Block(number + 1, mark[3].strip().split(" ")[0], [], skipped))
            skipped = ""
        elif fence is not None and mark and mark[2] == fence and not mark[3].strip():
            fence = None
        elif fence is not None:
            found[-1].lines.append(line[indent:] if not line[:indent].strip() else line)
        elif reason := re.match(r"^<!-- no-run: (.+) -->$", line.strip()):
            skipped = reason[1]
        elif line.strip():
            skipped = ""
            if line.startswith("    "):
                found.append(Block(number, "", [line[4:]], ""))
    return found


def python(page: Path) -> str:
    """The Python blocks of a page as one program, each line at its line of the page."""
    program: list[str] = []
    for block in blocks(page.read_text(encoding="utf-8")):
        if block.language == "python" and not block.skipped:
            program += [""] * (block.line - 1 - len(program)) + block.lines
    return "\n".join(program) + "\n" if program else ""


def commands(text: str) -> Iterator[tuple[int, list[str]]]:
    """The words after ``deqcert`` of each command line in blocks and in `code`, with its line.

    Comments, `...`, shell variables and what follows a pipe or a redirection are left out.
    """
    lines = []
    for block in blocks(text):
        if block.language in SHELL and not block.skipped:
            code = "\n".join(block.lines).replace("\\\n", " ")
            lines += [(block.line, line.strip()) for line in code.splitlines()]
    for span in re.finditer(r"`(deqcert [a-z][^`\n]*)`", text):
        lines.append((text.count("\n", 0, span.start()) + 1, span[1]))
    for number, line in lines:
        for part in re.split(r"; |&& |\| |\$\((?=deqcert)", line):
            start = PROGRAM.match(part.removeprefix("do ").strip())
            if start is None:
                continue
            words = shlex.split(part.removeprefix("do ").strip()[start.end() :], comments=True)
            cut = next((i for i, w in enumerate(words) if w in (">", ">>", "2>")), len(words))
            yield number, [w for w in words[:cut] if w != "..." and not w.startswith("$")]


def names(text: str) -> list[str]:
    """The public dotted names in `code` that begin with deqcert, called or not."""
    return re.findall(r"`(deqcert(?:\.[A-Za-z]\w*)+)(?:\([^`]*\))?`", text)


def paths(text: str) -> list[str]:
    """The files and folders in `code` that should exist; the example in building.md should not."""
    found = re.findall(r"`((?:deqcert|csrc|docs|tests|benchmarks|examples)/[\w./-]*)`", text)
    return [path for path in found if "newton" not in path]
