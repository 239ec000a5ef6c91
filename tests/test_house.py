"""Who may import whom: no arrow climbs, and nothing that should be light pulls torch in."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import deqcert

ROOT = Path(deqcert.__file__).parent

# Each room and the rooms that it may use besides itself; `deqcert` is the bare package (version).
# The ground floor (errors, names, declared options, files) carries every room.
ERRORS = {"errors", "deqcert", "registry", "docstrings", "options", "files", "sealed"}
ROOMS: dict[str, set[str]] = {
    "deqcert": set(),
    "errors": set(),
    "registry": {"errors"},
    "docstrings": set(),
    "options": {"errors", "registry", "docstrings"},
    "files": {"errors"},
    "sealed": {"errors", "files"},
    "memory": set(),
    "devices": {"errors"},
    "kernels": ERRORS | {"_native"},
    "data": ERRORS,
    "solvers": ERRORS | {"registry", "options", "kernels"},
    "models": ERRORS | {"kernels", "solvers"},
    "zoo": set(),
}
SOLVING = ERRORS | {"devices", "kernels", "solvers", "models"}
ROOMS["starts"] = SOLVING
ROOMS["proofs"] = SOLVING
ROOMS["latents"] = SOLVING | {"proofs", "data"}
ROOMS["smoothing"] = SOLVING | {"starts", "proofs"}
ROOMS["certifiers"] = ROOMS["smoothing"] | {"smoothing", "latents"}
ROOMS["runs"] = ROOMS["certifiers"] | {"certifiers", "data"}
ROOMS["attacks"] = ROOMS["runs"] | {"runs"}
ROOMS["training"] = ROOMS["certifiers"] | {"certifiers", "attacks", "data", "report"}
ROOMS["report"] = ERRORS | {"certifiers", "latents"}
ROOMS["changes"] = SOLVING | {"training"}
EVERYTHING = set(ROOMS)
ROOMS["bench"] = EVERYTHING - {"training", "changes"}
ROOMS["form_cache"] = ERRORS | {"runs"}
ROOMS["finishing"] = ERRORS | {"certifiers", "report", "runs"}
ROOMS["scale"] = ROOMS["finishing"] | {"finishing", "kernels"}
ROOMS["presets"] = ERRORS
ROOMS["settings"] = ERRORS | {"solvers", "starts", "models", "data", "certifiers", "scale"}
ROOMS["progress"] = ERRORS | {"runs", "smoothing", "certifiers"}
ROOMS["certifying"] = ROOMS["certifiers"] | {"certifiers", "compose", "settings"}
ROOMS["attack_work"] = ROOMS["attacks"] | {"attacks", "compose", "settings"}
ROOMS["compose"] = EVERYTHING - {"training", "changes", "attacks"}
ROOMS["compose"] |= {"form_cache", "scale", "settings"}
DOOR = {"api", "certifying", "compose", "finishing", "form_cache", "presets", "progress"}
DOOR |= {"scale", "settings"}
ROOMS["api"] = EVERYTHING - {"training", "changes", "attacks"} | DOOR
ROOMS["conformal"] = EVERYTHING - {"training", "changes"} | DOOR
ROOMS["safety_case"] = ROOMS["attacks"] | {"attacks", "conformal", "report"}
ROOMS["attacking"] = EVERYTHING - {"training", "changes"} | DOOR | {"attack_work"}
ROOMS["recertifying"] = EVERYTHING - {"training", "changes"} | DOOR
ROOMS["watch"] = EVERYTHING - {"training", "changes", "attacks"} | DOOR | {"conformal", "serve"}
ROOMS["serve"] = EVERYTHING - {"training", "changes", "attacks"} | DOOR | {"conformal"}
ROOMS["evaluation"] = EVERYTHING - {"training", "changes"} | DOOR | {"attacking"}
AFTER = {"attacking", "bench", "conformal", "evaluation", "recertifying", "safety_case"}
AFTER |= {"serve", "watch"}
ROOMS["cli"] = EVERYTHING | AFTER | DOOR
ROOMS["__main__"] = {"cli"}

FILES = sorted(ROOT.rglob("*.py"))


def room(path: Path) -> str:
    """The room that a file lives in: the first part of its path inside the package."""
    first = path.relative_to(ROOT).parts[0]
    return "deqcert" if first == "__init__.py" else first.removesuffix(".py")


def imports(
    path: Path, code: str | None = None, *, at_load: bool = False
) -> Iterator[tuple[int, str]]:
    """Every module that a file (or code in its place) imports, with the line.

    With ``at_load`` only what is imported when the module is loaded: not inside functions and not
    under TYPE_CHECKING.
    """
    package = ["deqcert", *path.relative_to(ROOT).parts[:-1]]

    def walk(node: ast.AST) -> Iterator[tuple[int, str]]:
        for child in ast.iter_child_nodes(node):
            if at_load and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                continue
            if at_load and isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                continue
            if isinstance(child, ast.Import):
                yield from ((child.lineno, alias.name) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = package[: len(package) - child.level + 1] if child.level else []
                source = ".".join([*base, *([child.module] if child.module else [])])
                if source == "deqcert":  # from deqcert import kernels: the module, or a name
                    for alias in child.names:
                        known = alias.name in ROOMS or alias.name == "_native"
                        yield child.lineno, f"deqcert.{alias.name}" if known else "deqcert"
                else:
                    yield child.lineno, source
            yield from walk(child)

    return walk(ast.parse(path.read_text(encoding="utf-8") if code is None else code))


def test_every_room_is_on_the_plan() -> None:
    assert {room(path) for path in FILES} <= set(ROOMS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_arrow_climbs(path: Path) -> None:
    here = room(path)
    for line, module in imports(path):
        parts = module.split(".")
        if parts[0] != "deqcert":
            continue
        there = parts[1] if len(parts) > 1 else "deqcert"
        assert there == here or there in ROOMS[here], f"{path}:{line} imports {module}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_light_rooms_load_no_torch_themselves(path: Path) -> None:
    light = ERRORS | {"certifiers", "report", "runs", "data"}
    if room(path) in light:
        loaded = [module for _, module in imports(path, at_load=True)]
        assert not [module for module in loaded if module.split(".")[0] == "torch"]


def test_nobody_but_the_command_line_and_changes_uses_training() -> None:
    users = {
        room(path)
        for path in FILES
        for _, module in imports(path)
        if module.startswith("deqcert.training")
    }
    assert users <= {"training", "changes", "cli"}


def test_the_check_itself_finds_a_climbing_arrow() -> None:
    code = (
        "def f():\n    from deqcert.certifiers import Certifier\nfrom .. import cli, __version__\n"
    )
    found = [module for _, module in imports(ROOT / "solvers" / "planted.py", code)]
    assert found == ["deqcert.certifiers", "deqcert.cli", "deqcert"]
    assert not {"certifiers", "cli"} & ROOMS["solvers"]


@pytest.mark.parametrize(
    "code",
    [
        "import deqcert",
        "import deqcert.certifiers",
        "import deqcert.report",
        "import deqcert.runs",
        "import deqcert.data",
        "import deqcert.cli",
        "from deqcert.cli import main; main(['--help'])",
        "from deqcert.cli import main; main(['certify', '--help'])",
        "from deqcert.cli import main; main(['conformal', 'calibrate', '--help'])",
        "from deqcert.cli import main; main(['conformal', 'sets', '--help'])",
        "from deqcert.cli import main; main(['watch-reference', '--help'])",
        "from deqcert.cli import main; main(['watch', '--help'])",
        "from deqcert.cli import main; main(['train', '--help'])",
        "from deqcert.cli import main; main(['train-start', '--help'])",
        "from deqcert.cli import main; main(['prune', '--help'])",
        "import deqcert.training, deqcert.training.config, deqcert.training.starts.config",
        "from deqcert.cli import main; main(['plan', '--sigma', '1', '--radii', '1'])",
        "from deqcert.cli import main; assert main(['report', '{file}', '--json']) == 0",
        "import deqcert.safety_case",
        "from deqcert.cli import main; assert main(['report', '{file}', '--html=r.html']) == 0",
        "from deqcert.cli import main; main(['evaluate', '--help'])",
    ],
)
def test_these_answer_without_torch(code: str, tmp_path: Path) -> None:
    file = tmp_path / "theirs.tsv"
    file.write_text("0\t3\t3\t1.53\t1\t0:00:14\n")
    code = code.format(file=file) + "\nimport sys; sys.exit('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT.parent)},
    )
    assert done.returncode == 0, done.stderr.decode()
