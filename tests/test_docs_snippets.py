"""The documentation holds: its Python runs, its commands and make targets exist."""

from __future__ import annotations

import os
import pydoc
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from snippets import PAGES, ROOT, blocks, commands, names, paths, python
from test_extend import REGISTRIES

from deqcert.cli import group, main
from deqcert.training import AUGMENTATIONS


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


WITH_PYTHON = [page for page in PAGES if python(page)]
WITH_COMMANDS = [page for page in PAGES if list(commands(page.read_text(encoding="utf-8")))]


@pytest.mark.parametrize("page", WITH_PYTHON, ids=named)
def test_python_blocks_of_a_page_run_in_order(page, tmp_path):
    program = tmp_path / f"{page.stem}.py"
    program.write_text(python(page), encoding="utf-8")  # with the page's line numbers
    done = subprocess.run(
        [sys.executable, program.name],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, f"{named(page)}, at the line of the page:\n{done.stderr}"


def refuse_unknown(words: list[str]) -> None:
    """Raise a usage error for a command or option that is not there, is old, or lacks its value."""
    command: click.Command = group
    context = click.Context(group, info_name="deqcert", resilient_parsing=True)
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        below = command.get_command(context, words[0])
        if below is None or words[0] not in command.list_commands(context):
            if command is group:
                raise click.UsageError(f"there is no command {words[0]}")
            break
        command, words = below, words[1:]
        context = click.Context(command, parent=context, info_name=command.name)
    if isinstance(command, click.Group) and command is not group:  # its default command
        command = command.get_command(context, command.list_commands(context)[0]) or command
    _, _, given = command.make_parser(context).parse_args(list(words))
    for option in given:
        if getattr(option, "hidden", False):
            raise click.UsageError(f"{option.opts[0]} is an old name")


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=named)
def test_commands_on_a_page_have_only_options_that_exist(page):
    wrong = []
    for line, words in commands(page.read_text(encoding="utf-8")):
        try:
            refuse_unknown(words)
        except click.UsageError as error:
            wrong.append(f"{named(page)}:{line}: deqcert {' '.join(words)}: {error.message}")
    assert not wrong, "\n".join(wrong)


def test_the_commands_of_the_guarantee_run_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "guarantee.md").read_text(encoding="utf-8")
    shown = [words for _, words in commands(page)]
    assert len(shown) > 5
    said = []
    for words in shown:
        code = main([*words, "--threads=1"] if "--model" in words else words)
        said.append(capsys.readouterr().out)
        assert code == 0, words
    # What the page says that they show.
    first, again = (
        [[*line.split("\t")[:5], *line.split("\t")[6:]] for line in file.read_text().splitlines()]
        for file in (Path("runs", run, "certificates.tsv") for run in ("guarantee", "repeated"))
    )
    assert first == again
    assert "wrong certificates are to be expected" in said[1]
    assert "no alarm" in said[3]
    assert sum("UNSOUND" in text for text in said) == 1


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_make_targets_on_a_page_exist(page):
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = page.read_text(encoding="utf-8")
    shown = [line for b in blocks(text) if b.language in ("", "bash") for line in b.lines]
    shown += re.findall(r"`(make [^`]+)`", text)
    lines = [line.partition("#")[0].split() for line in shown if line.startswith("make ")]
    asked = {word for words in lines for word in words[1:] if "=" not in word and word[0] != "."}
    assert asked - {"..."} <= targets


def missing(text: str) -> list[str]:
    """What a page names that is not there: modules, functions, classes, files."""
    groups = {f"deqcert.{r.plural}" for r in (*REGISTRIES.values(), AUGMENTATIONS)}
    unknown = [name for name in names(text) if name not in groups and pydoc.locate(name) is None]
    return unknown + [path for path in paths(text) if not (ROOT / path).exists()]


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_module_function_and_file_named_on_a_page_exists(page):
    assert missing(page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_a_page_uses_the_fields_words(page):
    ours = r"\bknobs?\b|\bimage index\b|\bnobody votes\b|\b(?:ms|evaluations) an? (?:row|vote)\b"
    assert re.findall(ours, page.read_text(encoding="utf-8")) == []


def test_the_checks_see_what_they_are_for(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# Page\n\n```python\na = 1\n```\n\n<!-- no-run: planted -->\n```python\na.b\n```\n\n"
        "```python\nprint(a)\n```\n\n"
        "```\ndeqcert certify --model digits \\\n    --sigmo 0.25 ... # said\n"
        "deqcert report $runs --json > file\n```\n\n    deqcert bench solvers --threads 1\n"
    )
    assert python(page) == "\n\n\na = 1\n" + "\n" * 8 + "print(a)\n"
    found = dict(commands(page.read_text()))
    asked = [words for _, words in commands(page.read_text())]
    assert asked[0] == ["certify", "--model", "digits", "--sigmo", "0.25"]
    assert asked[1] == ["report", "--json"]
    assert len(found) == 2
    assert asked[2][:2] == ["bench", "solvers"]
    with pytest.raises(click.NoSuchOption, match="sigmo"):
        refuse_unknown(asked[0])
    with pytest.raises(click.UsageError, match="old name"):
        refuse_unknown(["train", "--preset", "tiny"])
    with pytest.raises(click.UsageError, match="no command nix"):
        refuse_unknown(["nix"])
    refuse_unknown(asked[1])
    refuse_unknown(asked[2])
    good = "`deqcert.solvers.solve(f, z)` `deqcert.gradients` `deqcert/solvers/` `tests/*.py`"
    assert missing(good) == []
    bad = ["deqcert.certify.get_certifier", "deqcert.solvers.solv", "deqcert/certify/bounds.py"]
    assert missing("`{}` `{}()` `{}`".format(*bad)) == bad
