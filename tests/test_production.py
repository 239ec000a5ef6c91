"""The walk of docs/production.md, as it stands there: a model is certified, served and watched."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import Process
from snippets import ROOT, blocks, python

from deqcert.watch import delay

PAGE = ROOT / "docs" / "production.md"
ADDRESS, ID = "http://127.0.0.1:8000", "5b47c283fb06de5b"
SERVE = "deqcert serve digits "


def shell_blocks() -> list[str]:
    """The commands of the walk, one a block, in order."""
    return [
        "\n".join(block.lines)
        for block in blocks(PAGE.read_text(encoding="utf-8"))
        if block.language == "bash" and not block.skipped
    ]


class Terminal:
    """A shell in a folder, where ``deqcert`` is this one."""

    def __init__(self, folder: Path) -> None:
        self.folder, programs = folder, folder / "bin"
        programs.mkdir()
        program = programs / "deqcert"
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m deqcert "$@"\n')
        program.chmod(0o755)
        path = os.pathsep.join([str(programs), os.environ["PATH"]])
        self._environment = {
            **os.environ,
            "PATH": path,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "OMP_NUM_THREADS": "1",
            "MPLBACKEND": "agg",
        }

    def __call__(self, command: str, code: int = 0) -> str:
        """Give a command; return what it prints on standard output."""
        done = subprocess.run(
            ["bash", "-euc", command],
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == code, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout


def answers_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]


def counted(told: dict[str, Any]) -> dict[str, tuple[int, float]]:
    """Per alarm how many answers it has counted, and the sum of their losses."""
    return {
        row["alarm"]: (row["answers"], row["answers"] * (row["mean"] or 0.0))
        for row in told["alarms"]
    }


@pytest.mark.long
def test_the_walk_to_a_watched_service_holds_and_a_change_is_found_in_time(tmp_path: Path) -> None:
    """Every command as it stands on the page; the port and the answer's id are of this test."""
    terminal, commands = Terminal(tmp_path), shell_blocks()
    assert len(commands) == 10 + 2  # ten, and two where something changes
    (serve,) = (i for i, command in enumerate(commands) if command.startswith(SERVE))
    (tmp_path / "page.py").write_text(python(PAGE), encoding="utf-8")
    terminal(f"{sys.executable} page.py")
    for command in commands[:serve]:
        terminal(command)
    options = commands[serve].removeprefix(SERVE)
    assert options.endswith(" --out runs/service")
    options = options.removesuffix(" --out runs/service")
    with Process(tmp_path / "runs", *options.split()) as service:

        def give(command: str, code: int = 0) -> str:
            return terminal(command.replace(ADDRESS, service.address), code)

        ask, replay, watch, account, verify, ask_on, watch_on = commands[serve + 1 :]
        give(ask)
        answers = answers_of(tmp_path)
        assert len(answers) == 80
        assert ID in replay
        assert "mode certify: equal" in give(replay.replace(ID, answers[0]["id"]))
        assert "abstention" in give(watch)
        quiet = httpx.get(f"{service.address}/v1/alarms").json()["state"]
        assert quiet["sentence"].startswith("No alarm was raised. 80 answers")
        give(account)
        assert "verified" in give(verify)
        card = (tmp_path / "runs" / "case" / "safety_case.md").read_text()
        assert "a service, up to number 80 of its record" in card

        give(ask_on)
        assert len(answers_of(tmp_path)) == 160
        shown = give(watch_on, code=1)
        loud = httpx.get(f"{service.address}/v1/alarms").json()["state"]
        assert service.stop() == 0
    assert loud["standing"]
    assert loud["sentence"].startswith("An alarm is raised")
    # Each alarm has a bound of its own on the average delay, for the mean that was seen since.
    before, after, in_time = counted(quiet), counted(loud), []
    for row in loud["alarms"]:
        if row["raised"] is None:
            continue
        (known, sum_before), (whole, sum_after) = before[row["alarm"]], after[row["alarm"]]
        mean = (sum_after - sum_before) / (whole - known)
        bound = delay(row["tolerated"], mean, 1.0 / row["threshold"], known)
        print(row["alarm"], row["raised"] - known, round(bound))  # -s shows the figures
        in_time.append(row["raised"] - known <= bound)
    assert any(in_time)
    # The incident names the command that casts the votes of each of its inputs again.
    incident = re.search(r"incident: (\S+)", shown)
    assert incident is not None
    found = json.loads((tmp_path / incident[1]).read_text())
    assert "mode certify: equal" in terminal(found["inputs"][-1]["replay"])


def test_the_page_has_ten_commands_in_order() -> None:
    page = PAGE.read_text(encoding="utf-8")
    numbers = [int(number) for number in re.findall(r"^\*\*(\d+)\. ", page, re.MULTILINE)]
    assert numbers == list(range(1, 11))
    words = [re.search(r"deqcert ([a-z-]+)|(curl)", block) for block in shell_blocks()]
    named = [word[1] or word[2] for word in words if word is not None]
    assert named == [
        *("certify", "attack", "report", "watch-reference", "serve", "curl", "replay", "watch"),
        *("safety-case", "safety-case", "curl", "watch"),
    ]
