"""Trainings that are stopped again and again at random moments, each in a process of its own.

Run as a program, so that one process imports torch and forks everything else: a training that is
forked is at work at once, and where there is a GPU, it must not be touched before a fork.
"""

from __future__ import annotations

import csv
import io
import json
import os
import random
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SAID = {
    "safe": r"deqcert: interrupted; what was trained is safe in (\S+), and the same command .*\n",
    "nothing yet": r"deqcert: interrupted before anything was saved in (\S+)\.\n",
    "done": r"deqcert: interrupted when the training was done; (\S+) is whole\.\n",
    "not begun": r"(?:deqcert: interrupted\.\n)?",
}
"""What Ctrl-C may leave on standard error, by its meaning; what it calls safe or whole is there."""


def commands(folder: Path) -> dict[str, list[str]]:
    """Make what both trainings need; return their command lines, all but the place to write to."""
    import torch
    from trainings import small_training

    from deqcert.models import MDEQ, read_config

    config = small_training(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(MDEQ(read_config(config.model_config)).state_dict(), folder / "tiny.pth")
    train = f"train --data {config.data} --test-data {config.test_data} --epochs 2 --ema 0.9"
    train += f" --model-config {config.model_config} --batch 32 --max-nfe 8 --test-draws 2"
    start = f"train-start --data {config.data} --model {folder / 'tiny.pth'} --steps 24 --batch 16"
    start += " --reuse 2 --tune-images 40 --most 3 --max-nfe 8"
    given = {"train": train, "train-start": start}
    return {name: [*line.split(), "--threads", "1", "--quiet"] for name, line in given.items()}


def save_after_every_step(put: Callable[[Any, str, Any], None] = setattr) -> None:
    """Let trainings save all the time, and give them a clock that gives the same bytes again."""
    from deqcert.training import loop
    from deqcert.training.starts import fit
    from deqcert.training.starts import train as starts

    for module in (loop, fit):
        put(module, "SAVE_EVERY", 0.0)
        put(module, "SAVE_AT_END", 0.0)
    put(starts, "costs", lambda *_, **__: (0.5, 0.25))


def import_all(model: Path) -> None:
    """Import what a training does, so that a fork need not."""
    import matplotlib.figure  # noqa: F401
    import torch

    from deqcert.models import load_model

    for optimizer in (torch.optim.Adam, torch.optim.AdamW):  # imports most of torch
        optimizer(load_model(model).parameters())


def out(name: str, folder: Path) -> list[str]:
    """Return the option that says where a training writes."""
    return ["--out", str(folder if name == "train" else folder / "tiny.start.pth")]


def forked(arguments: list[str], said: Path) -> int:
    """Give a command in a process of its own, its standard error in a file; return its id."""
    # A signal must not come while Python puts itself in order after the fork.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    child = os.fork()
    if child:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        return child
    code = 1
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        with said.open("wb") as file:
            os.dup2(file.fileno(), 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        from deqcert.cli import main

        code = main(arguments)
    except KeyboardInterrupt:  # before or after the command
        code = 130
    except BaseException:
        import traceback

        said.write_text(traceback.format_exc())
    finally:
        os._exit(code)


def waited(child: int) -> int:
    """Return the exit code of a child, its signal's number below zero."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def essence(folder: Path) -> dict[str, Any]:
    """Return what a training left, without its clocks and interruptions."""
    found: dict[str, Any] = {}
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        found[path.name] = content.hex()
        if path.suffix == ".json":
            record = json.loads(content)
            for clock in ("seconds", "seconds_fitting", "resumed", "command"):
                record.pop(clock, None)
            record["parameters"].pop("out")
            record["history"] = [row | {"seconds": 0.0} for row in record["history"]]
            found[path.name] = record
        if path.suffix == ".csv":
            rows = csv.DictReader(io.StringIO(content.decode()))
            found[path.name] = [row | {"seconds": ""} for row in rows]
    return found


def stop_at_random(name: str, given: list[str], folder: Path, times: int) -> dict[str, Any]:
    """Stop a training by kill -9 and by Ctrl-C, each that many times; begin anew when it is done.

    Returns:
        How often it came to its end, the seconds that an undisturbed one takes, and by signal what
        was there after a stop, counted.
    """
    folder.mkdir()
    draw, said = random.Random(name), folder / "said"
    whole, place = folder / "whole", folder / "out"
    began = time.monotonic()
    assert waited(forked([*given, *out(name, whole)], said)) == 0, said.read_text()
    seconds, wanted = time.monotonic() - began, essence(whole)
    waiting = [signal.SIGKILL, signal.SIGINT] * times
    draw.shuffle(waiting)
    counts: dict[str, dict[str, int]] = {number.name: {} for number in waiting}
    ends, hidden = 0, set[str]()  # what a kill leaves half written
    while True:
        child = forked([*given, *out(name, place)], said)
        if waiting:
            time.sleep(draw.uniform(0.0, 0.8 * seconds))
            os.kill(child, waiting[-1])
        code, text = waited(child), said.read_text() if said.exists() else ""
        if code == 0:
            assert essence(place) == wanted, f"{name}: other bytes, {len(waiting)} stops to come"
            ends += 1
            shutil.rmtree(place)
            if not waiting:
                return {"ends": ends, "seconds": round(seconds, 2), "found": counts}
            continue
        number = waiting.pop()
        left = {path.name: path.suffix for path in place.iterdir()} if place.exists() else {}
        if number == signal.SIGKILL:
            assert code == -number, f"{name} ended with {code}: {text}"
            done, state = ".pth" in left.values(), ".unfinished" in left.values()
            meaning = ("done, not tidied up" if done else "safe") if state else "nothing yet"
        else:
            assert code == 130, f"{name} ended with {code}: {text}"
            matches = {key: re.fullmatch(words, text) for key, words in SAID.items()}
            meaning = next((key for key, match in matches.items() if match), "")
            assert meaning, text
            named = matches[meaning]
            assert named is not None
            assert meaning not in ("safe", "done") or Path(named[1]).exists(), text
            assert {path for path in left if path.startswith(".")} <= hidden, left
        hidden = {path for path in left if path.startswith(".")}
        found = counts[number.name]
        found[meaning] = found.get(meaning, 0) + 1


def main() -> None:
    """Stop each training again and again; print what came of it as JSON."""
    root, times = Path(sys.argv[1]), int(sys.argv[2])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    given = commands(root)
    import_all(root / "tiny.pth")
    save_after_every_step()
    told = {name: stop_at_random(name, line, root / name, times) for name, line in given.items()}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
