"""What makes deqcert a project agrees with itself: metadata, workflows, files, records."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest
import yaml

import deqcert
from deqcert.cli import group

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def load(path: str):
    """Import a Python file that is no module of the package, under a name that no test imports."""
    name = path.removesuffix(".py").replace("/", ".")
    spec = importlib.util.spec_from_file_location(name, ROOT / path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def tracked() -> list[Path]:
    """The files that git has, as they are in the working tree."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs a clone: an unpacked sdist has no list of its files")
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    paths = [ROOT / name for name in done.stdout.decode().split("\0") if name]
    return [path for path in paths if path.is_file()]


def steps(workflow: Path) -> list[dict]:
    jobs = yaml.safe_load(workflow.read_text(encoding="utf-8"))["jobs"]
    return [step for job in jobs.values() for step in job["steps"]]


def pythons(workflow: Path) -> set[str]:
    """Every Python version that a workflow sets up, those of a matrix included."""
    found = set()
    for job in yaml.safe_load(workflow.read_text(encoding="utf-8"))["jobs"].values():
        found |= set(job.get("strategy", {}).get("matrix", {}).get("python-version", []))
        found |= {
            step["with"]["python-version"]
            for step in job["steps"]
            if "matrix" not in step.get("with", {}).get("python-version", "matrix")
        }
    return found


def classified() -> set[str]:
    found = [re.fullmatch(r".*Python :: (3\.\d+)", line) for line in PROJECT["classifiers"]]
    return {match[1] for match in found if match}


def test_the_licence_is_named_and_there():
    assert PROJECT["license"] == "MIT"
    assert [(ROOT / name).is_file() for name in PROJECT["license-files"]] == [True]
    assert (ROOT / "LICENSE").read_text().startswith("MIT License\n")


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == deqcert.__version__
    assert citation["license"] == PROJECT["license"]
    assert citation["repository-code"] == PROJECT["urls"]["Source"]


def test_the_changelog_has_this_version_and_what_is_to_come():
    heads = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert heads[0] == "Unreleased"
    assert deqcert.__version__ in heads


def test_python_versions_agree_everywhere():
    assert classified() == pythons(ROOT / ".github" / "workflows" / "ci.yml")
    wheels = PYPROJECT["tool"]["cibuildwheel"]["build"].split()
    assert classified() == {f"3.{w.removeprefix('cp3').removesuffix('-*')}" for w in wheels}
    lowest = min(classified(), key=lambda version: int(version.partition(".")[2]))
    assert PROJECT["requires-python"] == f">={lowest}"
    assert PYPROJECT["tool"]["mypy"]["python_version"] == lowest
    assert PYPROJECT["tool"]["ruff"]["target-version"] == "py" + lowest.replace(".", "")


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=named)
def test_commands_of_a_workflow_exist(workflow):
    for step in steps(workflow):
        run = step.get("run", "")
        for target in re.findall(r"\bmake ([a-z]+)", run):
            assert target in TARGETS, run
        for extra in re.findall(r'"\.\[([a-z]+)\]"', run):
            assert extra in PROJECT["optional-dependencies"], run
        for file in re.findall(r"(?:^|\s)((?:\.github|\.ci|tests)/\S+)", run):
            assert (ROOT / file).exists(), run
        assert "uses" in step or run


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=named)
def test_a_workflow_has_few_permissions_and_ends(workflow):
    content = yaml.safe_load(workflow.read_text(encoding="utf-8"))
    assert content["permissions"].pop("contents") == "read"
    assert set(content["permissions"]) <= {"pages", "id-token"}
    assert all(0 < job["timeout-minutes"] <= 90 for job in content["jobs"].values())


def test_lowest_versions_are_those_of_the_metadata():
    done = subprocess.run(
        [sys.executable, ROOT / ".github" / "lowest.py"], capture_output=True, text=True, check=True
    )
    asked = [line.replace(">=", "==") for line in PROJECT["dependencies"]]
    assert done.stdout.split() == asked


def test_hooks_and_templates_are_yaml_with_existing_tools():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    tools = {hook["entry"].split()[0].removeprefix(".venv/bin/") for hook in hooks}
    brought = {re.split(r"[>=\[]", line)[0] for line in PROJECT["optional-dependencies"]["test"]}
    assert tools <= brought
    for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        assert yaml.safe_load(path.read_text(encoding="utf-8"))


def test_no_tracked_file_is_large_or_holds_weights():
    binaries = {
        ".pth",
        ".pt",
        ".npz",
        ".npy",
        ".tar",
        ".gz",
        ".so",
        ".whl",
        ".ckpt",
        ".safetensors",
    }
    outside = [path for path in tracked() if ROOT / "deqcert" / "zoo" not in path.parents]
    assert [named(path) for path in outside if path.stat().st_size > 300_000] == []
    assert [named(path) for path in outside if path.suffix in binaries] == []


def test_no_tracked_file_names_a_place_on_somebodys_machine():
    place = re.compile(r"(?<![\w./~$}-])/(?:home|root|Users|work)/\w")
    found = []
    for path in tracked():
        if path.suffix in {".png", ".pth"}:
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if place.search(line):
                found.append(f"{named(path)}:{number}: {line.strip()[:120]}")
    assert found == []


def test_the_sdist_is_all_that_git_tracks():
    lines = (ROOT / "MANIFEST.in").read_text().splitlines()
    grafted = {line.split()[1] for line in lines if line.startswith("graft ")}
    patterns = [p for line in lines if line.startswith("include ") for p in line.split()[1:]]
    brought = {"pyproject.toml", "setup.py", "MANIFEST.in"}  # by setuptools
    left_out = {
        named(path)
        for path in tracked()
        if named(path).split("/")[0] not in grafted
        and not (path.parent == ROOT and any(path.match(pattern) for pattern in patterns))
    }
    assert left_out <= brought


def test_every_page_is_in_the_sites_navigation():
    text = re.sub(r"!!\S+", "", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    found = set(re.findall(r"[\w/-]+\.md", str(yaml.safe_load(text)["nav"])))
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert pages <= found
    assert found - pages == {"reference/commands.md"}


def test_the_table_of_what_to_touch_is_complete():
    _, _, after = (ROOT / "CONTRIBUTING.md").read_text().partition("<!-- files-to-touch -->")
    rows = [re.fullmatch(r"\| (.+?) \| (\d+) \| .+ \|", line) for line in after.splitlines()]
    table = {row[1]: int(row[2]) for row in rows if row}
    assert table == {
        "a solver in torch": 2,
        "a solver with kernels": 9,
        "a certifier": 2,
        "a trainable model": 2,
        "a data loader": 2,
    }


def test_records_of_trainings_give_commands_that_exist_in_an_order_that_works(tmp_path):
    trainings = load("benchmarks/trainings.py")
    made: set[Path] = set()
    for job in trainings.jobs():
        command = job.command(tmp_path, "mnist:DIR", "FILE")
        context = click.Context(group, info_name="deqcert")
        sub = group.get_command(context, command[0])
        assert sub is not None
        sub.make_parser(click.Context(sub, parent=context)).parse_args(command[1:])
        assert job.needs is None or job.needs in made
        for option in ("--init", "--model"):
            if option in command:
                file = Path(command[command.index(option) + 1])
                assert file == Path("FILE") or file.relative_to(tmp_path) in made
        made.add(job.made)
    recorded = {
        path.relative_to(trainings.RECORDS).with_suffix(".pth")
        for path in trainings.RECORDS.glob("*/*.json")
    }
    assert recorded <= made


def completed(line: str) -> list[str]:
    """What Bash would offer at the end of a line."""
    words = line.split(" ")
    done = subprocess.run(
        [sys.executable, "-m", "deqcert"],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "_DEQCERT_COMPLETE": "bash_complete",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(words) - 1),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return [entry.partition(",")[2] for entry in done.stdout.splitlines() if entry]


def test_the_shell_completes_commands_and_options():
    assert completed("deqcert cer") == ["certify"]
    assert "--start" in completed("deqcert certify --st")
    assert completed("deqcert nix --st") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_gets_its_completion_script(shell):
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    assert f"_DEQCERT_COMPLETE={shell}_source deqcert" in page
    done = subprocess.run(
        [sys.executable, "-m", "deqcert"],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "_DEQCERT_COMPLETE": f"{shell}_source",
        },
        capture_output=True,
        text=True,
    )
    assert "_DEQCERT_COMPLETE" in done.stdout
    assert "complete" in done.stdout
