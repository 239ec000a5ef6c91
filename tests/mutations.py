"""Damage done to good files, in bytes and in words."""

from __future__ import annotations

import random
import re

WORDS = [
    b"",
    b"null",
    b"-1",
    b"0",
    b"1e999",
    b"NaN",
    b"-",
    b"9" * 25,
    b"1e300",
    b"[]",
    b"{}",
    b"true",
]
WORDS += [
    b'"x"',
    b"\xff\xfe",
    "\u0663".encode(),
    b"1_0",
    b"\x00",
    b"a" * 3000,
    b"2020-13-45",
    b"!!x 1",
]
WORDS += [
    b"[" * 2000,
    b"*a",
    b"&a [*a]",
    b"\t",
    b"\n",
    b"x: y: z",
    b"1.5",
    b"0x10",
    b"-0",
    b"127.5",
]
"""What stands in place of a word."""


def mutated(good: bytes, draw: random.Random) -> bytes:
    """Change, remove or add some bytes, most of them in the first ones, or cut the file off."""
    bad = bytearray(good)
    at = draw.randrange(min(len(bad), draw.choice((300, 3000, len(bad)))))
    kind = draw.choice(("change", "remove", "add", "cut"))
    if kind == "change":
        bad[at] = draw.randrange(256)
    elif kind == "cut":
        del bad[at:]
    elif kind == "remove":
        del bad[at : at + draw.randrange(1, 20)]
    else:
        bad[at:at] = draw.randbytes(draw.randrange(1, 20))
    return bytes(bad)


def reworded(good: bytes, draw: random.Random) -> bytes:
    """Put another word in place of one, or take out, double or swap lines of a text file."""
    lines = good.split(b"\n")
    at = draw.randrange(len(lines))
    kind = draw.choice(("word", "word", "word", "take", "double", "swap"))
    if kind == "take":
        del lines[at]
    elif kind == "double":
        lines.insert(at, lines[at])
    elif kind == "swap":
        other = draw.randrange(len(lines))
        lines[at], lines[other] = lines[other], lines[at]
    else:
        words = [found.span() for found in re.finditer(rb"[\w.+-]+", good)]
        start, end = draw.choice(words)
        return good[:start] + draw.choice(WORDS) + good[end:]
    return b"\n".join(lines)
