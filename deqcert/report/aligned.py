"""Lines of a table for a terminal."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def aligned(
    head: Sequence[str], body: Sequence[Sequence[str]], left: Collection[int] = (0,)
) -> list[str]:
    """Return the lines of a table, with a rule under the head.

    Args:
        head: A title per column.
        body: Rows of as many cells.
        left: Columns that begin at the left; the others are numbers and end at the right.
    """
    lines = columns([head, *body], left)
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]


def columns(rows: Sequence[Sequence[str]], left: Collection[int] = ()) -> list[str]:
    """Return a line for each row, the columns aligned; see :func:`aligned`."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
