"""Damaged files of every kind that a command reads: read as they are, or one sentence."""

from __future__ import annotations

import contextlib
import io
import os
import random
import re
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import pytest
import torch
from mutations import mutated, reworded
from wrong_calls import make_files

from deqcert.cli import main
from deqcert.conformal import Calibration
from deqcert.conformal.votes import read_votes
from deqcert.errors import DeqcertError
from deqcert.models import ARCHITECTURES, file_hash, load_model
from deqcert.report.attacks import read_attacks
from deqcert.report.sets import read_sets
from deqcert.starts.file import StartFile, load_start, save_start
from deqcert.starts.network import build_start

SEEDS = int(os.environ.get("DEQCERT_FUZZ", "1"))
"""How many times as many files are damaged."""

SECONDS = 10
"""In which a file must have been read or refused."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with good files, which is the current one meanwhile."""
    folder = tmp_path_factory.mktemp("good")
    with contextlib.chdir(folder):
        make_files(folder)
        model = ARCHITECTURES.get("contractive").build()
        torch.save(model.state_dict(), folder / "contractive.pth")
        (folder / "contractive.yaml").write_text(model.config.to_yaml())
        architecture = {"kind": "low-rank", "inputs": 64, "outputs": 32, "rank": 2}
        net = build_start(architecture)
        hashed = file_hash("ok.pth")
        start = StartFile(net, architecture, hashed, 0.25, 0.1, 2, None, None, 0.1)
        save_start(folder / "ok.start.pth", start)
        attack = "attack run --attack square:steps=1 --n 200 --alpha 0.05 --search 5 --out attacks"
        assert main(attack.split()) == 0
        sets = "conformal sets held --data npz:data.npz --images 6:9 --alpha 0.3 --out sets"
        assert main(sets.split()) == 0
        (folder / "settings.yaml").write_text(
            "sigma: 0.25\nn: 60\nsolver_options: {damping: 0.8}\n"
        )
        (folder / "settings.toml").write_text('sigma = 0.25\nn = 60\nstart = "cold"\n')
        yield folder


def calls(line: str) -> Callable[[Path], str]:
    """Return what makes a command of a damaged file and returns its sentence, "" for none."""

    def call(file: Path) -> str:
        streams = io.StringIO(), io.StringIO()
        given = [word.format(file=file, folder=file.parent) for word in line.split()]
        with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
            code = main(given)
        said = streams[1].getvalue()
        lines = [line for line in said.splitlines() if not line.startswith("deqcert: note:")]
        assert code in (0, 2), said
        assert len(lines) == (code == 2), said
        assert all(line.startswith("deqcert: ") for line in lines), said
        return "\n".join(lines)

    return call


def loads(load: Callable[[Path], object]) -> Callable[[Path], str]:
    """Return what reads a damaged file and returns the sentence, "" for none."""

    def call(file: Path) -> str:
        try:
            load(file)
        except DeqcertError as error:
            return str(error)
        return ""

    return call


PLAN = calls("plan --radii 0.1 --config {file}")
REPORT = calls("report {folder} --json")
CERTIFY = calls(
    "certify --model ok.pth --data npz:data.npz --sigma 0.01 --images 0:1 --n0 10 --n 60 --tol 0 "
    "--depth 2 --quiet --out {folder}"
)

READERS: dict[str, tuple[str, Callable[[Path], str]]] = {
    "journal": ("run/certificates.tsv", REPORT),
    "journal, continued": ("run/certificates.tsv", CERTIFY),
    "manifest, report": ("run/manifest.json", REPORT),
    "manifest, continued": ("run/manifest.json", CERTIFY),
    "manifest, settings": ("run/manifest.json", PLAN),
    "manifest, attack": ("run/manifest.json", calls("attack {folder} --images 9:3 --out attacked")),
    "attacks": ("attacks/attacks.tsv", loads(lambda file: read_attacks(file.parent))),
    "calibration": ("held/calibration.json", loads(Calibration.read)),
    "sets": ("sets/sets.tsv", loads(lambda file: read_sets(file.parent))),
    "sets, manifest": ("sets/manifest.json", loads(lambda file: read_sets(file.parent))),
    "votes": ("run/certificates.tsv", loads(lambda file: read_votes(file.parent).evidence(0, 10))),
    "configuration": ("ok.yaml", loads(lambda file: load_model("ok.pth", file))),
    "configuration, contractive": (
        "contractive.yaml",
        loads(lambda file: load_model("contractive.pth", file)),
    ),
    "settings, YAML": ("settings.yaml", PLAN),
    "settings, TOML": ("settings.toml", PLAN),
    "weights": ("ok.pth", loads(lambda file: load_model(file, "ok.yaml"))),
    "start": ("ok.start.pth", loads(lambda file: load_start(file, "ok.pth"))),
    "arrays": ("data.npz", calls("predict --data npz:{file} --images 9:3")),
    "image": ("picture.png", calls("predict --sigma 0.25 --n 5 {file}")),
}
"""By kind: a good file, and how it is read."""


class TooSlow(BaseException):
    """A reader took too long; no handler of errors catches it."""


def _slow(number: int, frame: FrameType | None) -> None:
    raise TooSlow


@pytest.mark.fuzz
@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("kind", READERS)
def test_a_damaged_file_is_read_or_one_sentence(place: Path, kind: str, seed: int) -> None:
    name, read = READERS[kind]
    text = not name.endswith((".pth", ".npz", ".png"))
    folder, draw = place / "damaged", random.Random(f"{kind} {seed}")
    refused = 0
    signal.signal(signal.SIGALRM, _slow)
    for _ in range(10 if "continued" in kind else 40):  # those go on to certify
        shutil.rmtree(folder, ignore_errors=True)
        source = place / name
        if source.parent == place:
            folder.mkdir()
        else:
            shutil.copytree(source.parent, folder)
        good = source.read_bytes()
        bad = (reworded if text and draw.random() < 0.7 else mutated)(good, draw)
        file = folder / source.name
        file.write_bytes(bad)
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                said = read(file)
        except BaseException as error:
            (place / "bad").write_bytes(bad)
            raise AssertionError(f"{kind}: {error!r}, {place / 'bad'}: {bad[:500]!r}") from error
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        refused += said != ""
        assert not warned, [str(warning.message) for warning in warned]
        assert "\n" not in said
        assert len(said) < 1000
        assert not re.search(r"\b[A-Z]\w*(Error|Exception)\b|<class|object at", said), said
    assert refused > 0 or kind == "manifest, report"  # which only has the captions
