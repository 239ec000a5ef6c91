"""Text of result files in, values out: what strangers' files hold is checked, not believed."""

from __future__ import annotations

import math
from pathlib import Path

from deqcert.errors import RunError
from deqcert.files import read_regular
from deqcert.options import parse_number

WHOLE_LIMIT = 2**63
"""What a whole number in a file must stay below: tables hold 64 bits."""


def read_text(file: Path, advice: str) -> str:
    """Read a whole text file in UTF-8, with or without a byte order mark.

    Args:
        file: A regular file; what would make a reader wait, such as a pipe, is refused.
        advice: What to give instead, in words.

    Raises:
        RunError: If it cannot be read, is no regular file, or is no text.
    """
    try:
        return read_regular(file).decode("utf-8-sig")
    except FileNotFoundError:
        raise RunError(f"no such file: {file}; {advice}") from None
    except UnicodeDecodeError:
        raise RunError(f"{file} is not text; {advice}") from None
    except OSError as error:
        raise RunError(f"cannot read {file}: {error.strerror}; {advice}") from None


def parse_whole(text: str, low: int = 0) -> int | None:
    """Read a whole number in ASCII digits from ``low`` to below 2^63; None if it is none."""
    value = parse_number(text, whole=True)
    return int(value) if value is not None and low <= value < WHOLE_LIMIT else None


def parse_seconds(text: str) -> float:
    """Read a duration, ``12.5`` or ``[N days, ]h:mm:ss.fff``, as seconds; NaN if it is neither."""
    days, comma, clock = text.rpartition(",")
    parts = [parse_number(part, whole=False) for part in clock.split(":")]
    count = parse_whole(days.split()[0]) if days.strip() else None
    seconds = 86400.0 * count if count is not None else 0.0
    for place, part in enumerate(reversed(parts)):
        if part is None or part < 0:
            return math.nan
        seconds += 60.0**place * part
    sound = math.isfinite(seconds) and len(parts) <= 3 and (count is not None) == bool(comma)
    return seconds if sound else math.nan


def shown(text: str) -> str:
    """Quote a cell in a sentence, cut where it is long."""
    return repr(text if len(text) <= 40 else f"{text[:40]}...")
