"""The ten-minute walk of a stranger: clone, certify, bring a package of one's own, build the docs.

What is run is what the clone's own pages show, so a page that misleads fails here.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from snippets import ROOT, blocks, commands, python

from deqcert.report import read_results


class Stranger:
    """Somebody with a fresh clone, who works in a folder of their own.

    Args:
        clone: The clone.
        desk: The folder; packages in it can be imported.
    """

    def __init__(self, clone: Path, desk: Path) -> None:
        self.clone, self.desk = clone, desk

    def page(self, name: str) -> str:
        return (self.clone / name).read_text(encoding="utf-8")

    def run(self, *words: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run this Python on the clone's package; it must succeed."""
        done = subprocess.run(
            [sys.executable, *words],
            cwd=folder or self.desk,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(self.clone), str(self.desk)]),
                "MPLBACKEND": "agg",
                "NO_MKDOCS_2_WARNING": "1",
            },
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, f"{' '.join(words)}\n{done.stderr or done.stdout}"
        return done

    def deqcert(self, *words: str) -> str:
        """Run a command, and return all that it prints."""
        done = self.run("-m", "deqcert", *words)
        return done.stdout + done.stderr

    def section(self, page: str, heading: str) -> str:
        """The part of a page below a heading."""
        _, found, rest = self.page(page).partition(f"\n## {heading}\n")
        assert found, f"{page} has no section '{heading}'"
        return rest.partition("\n## ")[0]


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Stranger:
    """Clone what is committed; compiled kernels come along where they are built."""
    if shutil.which("git") is None:
        pytest.skip("needs git to clone the repository")
    if not (ROOT / ".git").exists():
        pytest.skip(f"needs the repository to clone; {ROOT} is an unpacked copy")
    clone = tmp_path_factory.mktemp("walk") / "deqcert"
    done = subprocess.run(
        ["git", "clone", "--quiet", "--depth", "1", ROOT.as_uri(), str(clone)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"git cannot clone {ROOT}: {done.stderr.strip()}")
    for built in (ROOT / "deqcert").glob("_native*.so"):
        shutil.copy(built, clone / "deqcert")
    desk = clone.parent / "desk"
    desk.mkdir()
    return Stranger(clone, desk)


def test_the_python_and_the_commands_of_the_pages_certify_alike(stranger: Stranger) -> None:
    """README's lines, and once more for the next digit; the front page's commands, two digits."""
    program = python(stranger.clone / "README.md") + (
        "more = smooth.certify(deqcert.load_dataset('digits').image(1), index=1)\n"
        "print(more.prediction, more.radius, deqcert.__file__)\n"
    )
    first, second = stranger.run("-c", program).stdout.splitlines()
    found = re.match(r"Certificate\(prediction=(\d), radius=([\d.]+), ", first)
    assert found is not None, first
    prediction, radius, file = second.split(maxsplit=2)
    assert Path(file).is_relative_to(stranger.clone)

    shown = [words for _, words in commands(stranger.page("docs/index.md"))]
    certify, report = (next(w for w in shown if w[0] == name) for name in ("certify", "report"))
    lines = stranger.deqcert(*certify, "--images", "0:2")
    assert "certified accuracy" in stranger.deqcert(*report)
    run = stranger.desk / report[1]
    results = read_results(run)
    assert results.idx.tolist() == [0, 1]
    assert results.predict.tolist() == [int(found[1]), int(prediction)]
    assert results.radius[0] == pytest.approx(float(found[2]), abs=1e-3)  # printed to 3 digits
    assert results.radius[1] == pytest.approx(float(radius), abs=2e-6)  # rounded down to 6
    printed = [float(number) for number in re.findall(r"^image .* radius ([\d.]+)", lines, re.M)]
    assert len(printed) == 2
    assert all(a <= b for a, b in zip(printed, results.radius, strict=True))
    assert list(run.glob("*.png"))


def definitions(*texts: str) -> str:
    """What the Python blocks import and define; what they then try out is left behind."""
    kept = ast.Import | ast.ImportFrom | ast.ClassDef | ast.FunctionDef
    code = "\n".join("\n".join(b.lines) for t in texts for b in blocks(t) if b.language == "python")
    body = [node for node in ast.parse(code).body if isinstance(node, kept)]
    return ast.unparse(ast.Module(body, []))


@pytest.fixture(scope="module")
def package(stranger: Stranger) -> dict[str, dict[str, str]]:
    """Write the package of docs/extending.md beside the clone; return its entry points.

    Installed is what has a folder of metadata on the path; that needs no installer.
    """
    page = "docs/extending.md"
    home = stranger.desk / "mypackage"
    home.mkdir()
    (home / "__init__.py").touch()
    opening = stranger.page(page).partition("\n## ")[0]
    solvers = [stranger.section(page, "A solver")]
    certifiers = [
        stranger.section(page, f"A certifier {kind}")
        for kind in ("that draws noise", "without noise")
    ]
    (home / "solvers.py").write_text(definitions(opening, *solvers), encoding="utf-8")
    (home / "certifiers.py").write_text(definitions(opening, *certifiers), encoding="utf-8")

    (shown,) = (
        block for block in blocks(stranger.section(page, "From a package")) if block.language
    )
    points = tomllib.loads("\n".join(shown.lines))["project"]["entry-points"]
    groups = {group: points[group] for group in ("deqcert.solvers", "deqcert.certifiers")}
    metadata = stranger.desk / "mypackage-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: mypackage\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "\n".join(
            f"[{group}]\n" + "".join(f"{name} = {where}\n" for name, where in things.items())
            for group, things in groups.items()
        ),
        encoding="utf-8",
    )
    return groups


def test_a_package_written_from_the_page_is_found_and_used(
    stranger: Stranger, package: dict[str, dict[str, str]]
) -> None:
    shown = stranger.deqcert("certify", "--help")
    for things in package.values():
        for name in things:
            assert name in shown, name

    (solver,) = package["deqcert.solvers"]
    certifier, *_ = package["deqcert.certifiers"]
    words = ["certify", "--model", "digits", "--sigma", "0.25", "--n", "200", "--alpha", "0.01"]
    words += ["--solver", solver, "--solver-option", f"{solver}=0.8", "--method", certifier]
    stranger.deqcert(*words, "--images", "0:2", "--out", "runs/mine", "--quiet")
    run = stranger.desk / "runs/mine"
    assert read_results(run).idx.tolist() == [0, 1]
    text = (run / "manifest.json").read_text()
    assert solver in text and certifier in text


def test_the_documentation_site_builds_without_a_warning(stranger: Stranger) -> None:
    for needed in ("mkdocs", "material", "mkdocstrings"):
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"needs {needed}, which deqcert[docs] brings")
    site = stranger.desk / "site"
    words = ["-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(site)]
    stranger.run(*words, folder=stranger.clone)
    for page in ("index.html", "extending/index.html", "reference/commands/index.html"):
        assert (site / page).is_file(), page
