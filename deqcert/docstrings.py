"""What docstrings say of each argument: the help texts of options are written there, once."""

from __future__ import annotations

import inspect
import re


def arguments(docstring: str) -> dict[str, str]:
    """Return the ``Args:`` or ``Attributes:`` of a Google-style docstring, by name, markup out."""
    lines = inspect.cleandoc(docstring).split("\n")
    found: dict[str, str] = {}
    inside, name = False, ""
    for line in lines:
        if not line.startswith(" "):
            inside = line.strip() in ("Args:", "Attributes:") or (inside and not line.strip())
            name = name if inside else ""
            continue
        if not inside:
            continue
        begins = re.fullmatch(r"    (\w+): (.*)", line)
        if begins:
            name = begins[1]
            found[name] = begins[2]
        elif name:
            found[name] += " " + line.strip()
    return {key: _plain(value) for key, value in found.items()}


def _plain(text: str) -> str:
    text = re.sub(r":\w+:`~?([^`]*)`", r"\1", text)
    return text.replace("``", "")


def guarantee(docstring: str) -> str:
    """Return the paragraph **Guarantee:** of a docstring as one line, markup out; "" for none."""
    found = re.search(r"\*\*Guarantee:\*\*\s*(.*?)(?:\n\s*\n|\Z)", docstring, re.DOTALL)
    said = _plain(" ".join(found[1].split())) if found else ""
    return said[:1].upper() + said[1:]
