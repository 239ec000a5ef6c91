"""Print the lowest version of each dependency that pyproject.toml admits, as pip's constraints.

    python .github/lowest.py > lowest.txt
    pip install -e '.[test]' -c lowest.txt

The tests then say whether the bounds are true; they are written once, in pyproject.toml.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"


def lowest(requirements: list[str]) -> list[str]:
    """``name==version`` for each ``name>=version``."""
    found = []
    for requirement in requirements:
        match = re.fullmatch(r"([A-Za-z0-9._-]+)>=([0-9.]+)(,<[0-9.]+)?", requirement)
        if match is None:
            raise SystemExit(f"{requirement} in pyproject.toml has no lower bound to test.")
        found.append(f"{match[1]}=={match[2]}")
    return found


if __name__ == "__main__":
    print("\n".join(lowest(tomllib.loads(PYPROJECT.read_text())["project"]["dependencies"])))
