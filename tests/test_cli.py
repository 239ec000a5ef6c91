"""The command line: what it prints, and one sentence for everything a user can get wrong."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from deqcert.api import SmoothedClassifier
from deqcert.attacks import ATTACKS
from deqcert.certifiers import CERTIFIERS
from deqcert.cli import COMMANDS, main
from deqcert.data import dataset_names
from deqcert.data.indices import parse_images
from deqcert.models import ARCHITECTURES, MDEQ, MDEQConfig
from deqcert.options import options_of, read_options
from deqcert.runs import COLUMNS
from deqcert.solvers import SOLVERS
from deqcert.solvers.gradients import GRADIENTS
from deqcert.starts import start_names
from deqcert.training import AUGMENTATIONS, OBJECTIVES


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A tiny model with random weights and images that it was never trained for."""
    folder = tmp_path_factory.mktemp("files")
    torch.manual_seed(0)
    model = MDEQ(ARCHITECTURES.get("tiny"))
    torch.save(model.state_dict(), folder / "ok.pth")
    (folder / "ok.yaml").write_text(model.config.to_yaml())
    draw = np.random.default_rng(0)

    def images(name: str, shape: tuple[int, ...], classes: int = 10, count: int = 12) -> str:
        x = draw.integers(0, 256, (count, *shape), dtype=np.uint8)
        np.savez(folder / name, x=x, y=np.arange(count) % classes)
        return f"npz:{folder / name}"

    return SimpleNamespace(
        folder=folder,
        model=folder / "ok.pth",
        images=images("ok.npz", (1, 8, 8)),
        others=images("others.npz", (1, 8, 8)),
        large=images("large.npz", (1, 16, 16)),
        classes=images("classes.npz", (1, 8, 8), 12),
        many=images("many.npz", (1, 8, 8), count=5000),
    )


def certify(files: SimpleNamespace, out: Path, *more: str) -> list[str]:
    """A short certification; later options win."""
    fixed = f"certify --model {files.model} --data {files.images} --sigma 0.25 --images 0:3"
    fixed += f" --n0 10 --n 60 --batch 20 --tol 0 --depth 3 --threads 1 --seed 0 --out {out}"
    return [*fixed.split(), *more]


def without_time(journal: Path) -> list[list[str]]:
    lines = [line.split("\t") for line in journal.read_text().splitlines()]
    at = COLUMNS.index("time")
    return [line[:at] + line[at + 1 :] for line in lines]


def test_certify_leaves_a_table_a_curve_and_a_run_folder(
    files: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, alone = tmp_path / "run", ("--agreement", "0")
    assert main(certify(files, out, *alone)) == 0
    said = capsys.readouterr()
    assert "r>=0" in said.out
    assert "ACR" in said.out
    assert said.err.startswith("deqcert: note: no radius can exceed 0.308302,")
    assert said.err.count("\n") == 1 + 3  # and one plain line an image
    assert "\x1b" not in said.err + said.out
    assert {path.name for path in out.iterdir()} == {
        "manifest.json",
        "certificates.tsv",
        "summary.json",
        "curve.png",
    }
    summary = json.loads((out / "summary.json").read_text())
    assert summary["images"] == 3
    assert "anderson" in summary["assumptions"]
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["parameters"]["predictor"]["stop"]["max_nfe"] == 3
    assert {"torch", "numpy", "scipy", "deqcert", "python", "cpu", "cores"} <= set(
        manifest["environment"]
    )

    before = (out / "certificates.tsv").read_bytes()
    assert main(certify(files, out, "--quiet", *alone)) == 0  # finished: the table again
    assert capsys.readouterr().err == ""
    assert (out / "certificates.tsv").read_bytes() == before

    assert main(["report", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"][0]["method"] == "standard"
    picture = tmp_path / "both.png"
    assert main(["report", f"first={out}", f"second={out}", "--picture", str(picture)]) == 0
    assert "second (standard sigma=0.25 n=60)" in capsys.readouterr().out
    assert picture.stat().st_size > 10_000
    assert main(["report", f"both={out}", f"both={out}"]) == 2
    assert "is in two parts of both" in capsys.readouterr().err


@pytest.mark.parametrize("start", start_names())
def test_every_start_can_be_certified_by_default(
    files: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str], start: str
) -> None:
    assert main(certify(files, tmp_path / "run", "--start", start)) == 0
    method = "standard" if start == "cold" else "serialized"
    assert f"({method} " in capsys.readouterr().out


def test_a_goal_chooses_the_method_and_stays_with_the_run(
    files: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    goal = ["--goal", "radii=0,0.1"]
    for start, method in (("cold", "independent"), ("mean", "serialized-strata")):
        out = tmp_path / start
        assert main(certify(files, out, *goal, "--start", start)) == 0
        said = capsys.readouterr().out
        assert f"({method} " in said
        assert "r>=0.1" in said  # the goal's radii are those of the table
        manifest = json.loads((out / "manifest.json").read_text())
        assert manifest["parameters"]["goal"] == "radii=0,0.1"
        assert manifest["parameters"]["n"] == 60  # as asked; the journal says what was drawn
        drawn = [
            int(line[COLUMNS.index("n") - 1]) for line in without_time(out / "certificates.tsv")[1:]
        ]
        assert all(0 < n <= 60 for n in drawn)
        assert main(certify(files, out, *goal, "--start", start, "--quiet")) == 0  # finished
    assert main(certify(files, tmp_path / "cold", "--goal", "radii=0")) == 2
    assert "goal" in capsys.readouterr().err


@pytest.mark.parametrize(
    "method", [name for name in CERTIFIERS if "audit" in options_of(CERTIFIERS.get(name))]
)
def test_unsound_methods_say_so(
    files: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str
) -> None:
    more = ["--start", "previous", "--method", method, "--images", "0:1", "--warmup", "4"]
    assert main(certify(files, tmp_path / "run", *more)) == 0
    assert ("UNSOUND" in capsys.readouterr().out) == (method == "serialized-released")


@pytest.mark.parametrize(
    ("given", "used"),
    [({}, "3000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")],
)
def test_idle_threads_wait_briefly_unless_told_otherwise(given: dict[str, str], used: str) -> None:
    kept = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    code = "import os, deqcert.cli; print(os.environ.get('GOMP_SPINCOUNT'))"
    told = subprocess.run(
        [sys.executable, "-c", code], env=kept | given, capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == used


def test_help_names_everything_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    for command in COMMANDS:
        assert main([command, "--help"]) == 0
    text = re.sub(r"-\s+", "-", capsys.readouterr().out)  # help wraps at hyphens, too
    training = (*GRADIENTS, *OBJECTIVES, *AUGMENTATIONS, *ARCHITECTURES)
    certifying = (*start_names(), *SOLVERS, *dataset_names(), *CERTIFIERS)
    for name in (*training, *certifying, *ATTACKS):
        assert name in text
    assert main([]) == 0
    assert main(["--version"]) == 0
    assert "deqcert 0." in capsys.readouterr().out


def bad_inputs() -> list[tuple[str, str]]:
    """Options that change a good command into a bad one, and what must be said."""
    return [
        ("--model {folder}/missing.pth", "cannot read checkpoint"),
        ("--model {folder}/truncated.pth --model-config {folder}/ok.yaml", "damaged"),
        ("--model {folder}/empty.pth --model-config {folder}/ok.yaml", "empty"),
        ("--model {folder}/code.pth --model-config {folder}/ok.yaml", "never executed"),
        ("--model {folder}/nan.pth --model-config {folder}/ok.yaml", "not finite"),
        ("--model {folder}/ok.npz --model-config {folder}/ok.yaml", "checkpoint"),
        ("--model-config {folder}/other.yaml", "YAML configuration that this checkpoint was"),
        ("--model-config {folder}/missing.yaml", "cannot read the configuration"),
        ("--config {folder}/missing.yaml", "give another --config"),
        ("--data {large}", "images of npz:{folder}/large.npz are 1x16x16, but the model takes"),
        ("--data {classes} --images :", "has label 10, but the model has 10 classes (0 to 9)"),
        ("--data npz:{folder}/missing.npz", "missing.npz"),
        ("--data cifar100", "no data set 'cifar100'"),
        ("--split validation", "split is 'validation', but it must be one of test, train"),
        ("--images 5:5", "selects no image"),
        ("--images 900:", "reaches outside"),
        ("--images 0:13", "reaches outside the 12 images"),
        ("--images -3", "reaches outside"),
        ("--images 0:9:0", "step must be at least 1"),
        ("--images some", "must read START:STOP[:STEP]"),
        ("--sigma 0", "sigma is 0, but it must be a number above 0"),
        ("--sigma -1", "sigma is -1, but"),
        ("--sigma nan", "sigma is 'nan'"),
        ("--alpha 0", "alpha is 0, but it must be a number above 0 to below 1"),
        ("--alpha 1", "alpha is 1, but"),
        ("--n 9", "n must be at least 10"),
        ("--n 0", "n is 0"),
        ("--n0 0", "n0 is 0"),
        ("--n many", "n is 'many', but it must be a whole number from 1"),
        ("--n", "requires an argument"),
        ("--start warm", "no start policy 'warm'"),
        ("--start mean --audit 61", "audit is 61"),
        ("--start mean --audit 5", "can certify nothing"),
        ("--start mean --method standard", "needs independent samples"),
        ("--start mean --steps 0", "steps is 0"),
        ("--start mean --refresh -1", "refresh is -1"),
        ("--refresh 2", "has no chain"),
        ("--audit 10", "has no option 'audit'"),
        ("--goal best", "goal is 'best', but it must read budget"),
        ("--goal radii=0,x", "must read budget, radii=0.25,0.5 or relative=0.02"),
        ("--goal relative=2", "must lie strictly between 0 and 1"),
        ("--goal radii=0,5", "the goal asks for radius 5, but not even a unanimous vote"),
        ("--goal radii=3 --start mean", "raise audit or ask for less"),
        ("--goal radii=0 --method standard", "has no option 'goal'"),
        ("--method best", "method is 'best', but it must be one of auto, standard"),
        ("--solver newton", "solver is 'newton', but it must be one of picard"),
        ("--solver-option windw=3", "there is no solver option 'windw'; did you mean window"),
        ("--solver-option window", "must read KEY=VALUE"),
        ("--solver-option window=many", "must be a whole number"),
        ("--solver-option window=2 --window 3", "given twice"),
        ("--window 0", "window is 0"),
        ("--depth 0", "depth is 0"),
        ("--tol -1", "tol is -1, but"),
        ("--batch 0", "batch is 0"),
        ("--shape 0", "shape is 0"),
        ("--seed -1", "seed"),
        ("--threads 0", "threads is 0"),
        ("--device tpu", "device 'tpu' cannot be used"),
        ("--radii a,b", "radii is 'a,b'"),
        ("--radii -1", "must be numbers from 0 with commas between"),
        ("--out {folder}/ok.yaml", "is a file"),
        ("--out {folder}", "is not a run folder"),
        ("--sigm 0.5", "did you mean --sigma"),
        ("surplus", "unexpected extra argument"),
    ]


@pytest.fixture(scope="module")
def bad_files(files: SimpleNamespace) -> SimpleNamespace:
    folder, whole = files.folder, files.model.read_bytes()
    (folder / "truncated.pth").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.pth").write_bytes(b"")
    torch.save({"function": print, "weights": torch.zeros(1)}, folder / "code.pth")
    weights = torch.load(files.model, weights_only=True)
    next(iter(weights.values())).view(-1)[0] = torch.nan
    torch.save(weights, folder / "nan.pth")
    (folder / "other.yaml").write_text(ARCHITECTURES.get("small").to_yaml())
    return files


@pytest.mark.parametrize(("options", "says"), bad_inputs(), ids=[o for o, _ in bad_inputs()])
def test_bad_input_is_one_sentence_and_exit_code_2(
    bad_files: SimpleNamespace,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: str,
    says: str,
) -> None:
    names = vars(bad_files)
    assert main(certify(bad_files, tmp_path / "run", *options.format(**names).split())) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("deqcert: ")
    assert said.err.count("\n") == 1
    assert said.err.endswith((".\n", "?\n"))
    assert says.format(**names) in said.err


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("certifi", "did you mean certify?"),
        ("dance", "there are train, train-start"),
        ("--models", "there is no option --models"),
        ("report", "no run is given"),
        ("report /nowhere/run", "no such file"),
        ("report {images} --json", "no such file"),
        ("report {folder}/ok.npz", "is not text"),
        ("report {folder} --radii 1", "no certificates.tsv"),
        ("certify --model {model} --data {images}", "sigma is not given; add the noise"),
        ("certify --model digitz", "there is no model digitz; give the path of a state_dict"),
        ("predict --model {model} --data {images} --sigma 0.25 --n 5", "n is 5"),
        ("predict --model {model} --data {images} --sigma 0.25 --alpha 2", "alpha is 2"),
        ("bench --model {model} --data {images} --sigma 0.25 --depths two", "depths is 'two'"),
        ("bench --model {model} --data {images} --sigma 0.25 --tol 0", "tolerances above 0"),
        ("bench --model {model} --data {images} --sigma 0.25 --solver a:b=1", "no solver 'a'"),
        ("bench --model {model} --data {images} --sigma 0.25 --n 50", "larger n"),
        ("bench --model {model} --data {images} --picture a.doc", "must end in .png"),
        ("doctor --jsn", "did you mean --json"),
        ("train", "missing option '--out'"),
        ("train --out {folder} --name ok", "ok.pth exists already"),
        ("train --out {folder} --epochs 0", "epochs is 0"),
        ("train --out {folder}/ok.yaml", "ok.yaml"),
    ],
)
def test_other_commands_refuse_in_one_sentence(
    files: SimpleNamespace, capsys: pytest.CaptureFixture[str], command: str, says: str
) -> None:
    assert main(command.format(**vars(files)).split()) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert says in said.err


def test_other_parameters_are_refused_by_name(
    files: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(certify(files, tmp_path / "run", "--quiet")) == 0
    more = ["--sigma", "0.5", "--window", "3", "--depth", "4", "--seed", "1"]
    assert main(certify(files, tmp_path / "run", *more)) == 2
    said = capsys.readouterr().err
    for difference in (
        "sigma was 0.25 and is now 0.5",
        "solver_options.window was 5 and is now 3",
        "stop.max_nfe was 3 and is now 4",
        "seed was 0 and is now 1",
    ):
        assert difference in said
    assert "n was" not in said


def test_a_moved_model_and_moved_data_are_the_same_run(
    files: SimpleNamespace, tmp_path: Path
) -> None:
    assert main(certify(files, tmp_path / "run", "--quiet")) == 0
    for name in ("ok.pth", "ok.yaml", "ok.npz"):
        (tmp_path / name).write_bytes((files.folder / name).read_bytes())
    more = ["--model", str(tmp_path / "ok.pth"), "--data", f"npz:{tmp_path / 'ok.npz'}"]
    assert main(certify(files, tmp_path / "run", "--quiet", *more)) == 0


def test_a_full_disk_is_one_sentence_and_loses_nothing(
    files: SimpleNamespace,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert main(certify(files, tmp_path / "whole", "--quiet")) == 0
    out, real = tmp_path / "run", os.write

    def full(descriptor: int, data: Any) -> int:
        if bytes(data).startswith(b"2\t"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data)

    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        assert main(certify(files, out, "--quiet")) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "the disk is full; 2 of 3 images are safe" in said
    assert main(certify(files, out, "--quiet")) == 0
    assert without_time(out / "certificates.tsv") == without_time(
        tmp_path / "whole" / "certificates.tsv"
    )


def started(arguments: list[str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "deqcert", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_for_lines(process: subprocess.Popen[bytes], journal: Path, lines: int) -> None:
    while process.poll() is None:
        if journal.exists() and journal.read_bytes().count(b"\n") > lines:
            return
        time.sleep(0.002)


def test_killed_at_any_moment_it_ends_with_the_same_bytes(
    files: SimpleNamespace, tmp_path: Path
) -> None:
    more = ["--start", "previous", "--images", ":", "--n", "120", "--quiet"]
    assert main(certify(files, tmp_path / "whole", *more)) == 0
    out, draw, kills = tmp_path / "run", random.Random(0), 0
    for lines in (1, 4):
        process = started(certify(files, out, *more))
        wait_for_lines(process, out / "certificates.tsv", lines)
        time.sleep(0.1 * draw.random())
        process.kill()
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
    assert kills >= 1
    with (out / "certificates.tsv").open("ab") as journal:
        journal.write(b"7\t7\t1\t0.3")  # and a torn line on top
    assert main(certify(files, out, *more)) == 0
    assert without_time(out / "certificates.tsv") == without_time(
        tmp_path / "whole" / "certificates.tsv"
    )


def test_ctrl_c_says_what_is_safe_and_exits_130(files: SimpleNamespace, tmp_path: Path) -> None:
    out = tmp_path / "run"
    # So many that a busy machine cannot finish them before the signal comes.
    given = ["--data", files.many, "--images", ":", "--n", "2000", "--quiet"]
    process = started(certify(files, out, *given))
    wait_for_lines(process, out / "certificates.tsv", 1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130
    text = said.decode()
    assert text.count("\n") == 1
    assert "of 5000 images are safe" in text
    assert "the same command goes on" in text


def test_predict_answers_or_abstains(
    files: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    given = f"predict --model {files.model} --data {files.images} --sigma 0.25 --images 2:4"
    given += " --n 40 --tol 0 --depth 2"
    assert main(given.split()) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "idx\tlabel\tpredict\tname"
    assert [line.split("\t")[0] for line in lines[1:]] == ["2", "3"]
    assert main([*given.split(), "--json"]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for line, answer in zip(lines[1:], answers, strict=True):
        predicted = int(line.split("\t")[2])
        assert answer["predict"] == (None if predicted == -1 else predicted)


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """One image in three formats that keep its pixels, and in a name that a table must survive."""
    pixels = np.random.default_rng(5).integers(0, 256, (8, 8), dtype=np.uint8)
    paths = [tmp_path / name for name in ("a.png", "b.npy", "c.npy", "d\te\n\u00e9.bmp")]
    Image.fromarray(pixels).save(paths[0])
    np.save(paths[1], pixels)
    np.save(paths[2], (pixels[None] / np.float32(255)).astype(np.float32))
    Image.fromarray(pixels).save(paths[3])
    return paths


def test_predict_takes_image_files(
    files: SimpleNamespace, pictures: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """As the Python front door answers for the same arrays."""
    given = f"predict --model {files.model} --sigma 0.25 --n 60 --tol 0 --depth 2 --batch 20"
    assert main([*given.split(), *map(str, pictures)]) == 0
    said = capsys.readouterr()
    assert "the answers are those of the 2-evaluation classifier, smoothed" in said.err
    lines = said.out.splitlines()
    assert lines[0] == "file\tpredict"
    assert [line.split("\t")[0] for line in lines[1:4]] == [str(path) for path in pictures[:3]]
    assert lines[4].split("\t")[0] == str(pictures[3]).replace("\t", r"\t").replace("\n", r"\n")
    assert len(lines) == 5
    assert main([*given.split(), "--json", *map(str, pictures)]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["file"] for answer in answers] == [str(path) for path in pictures]
    smooth = SmoothedClassifier(str(files.model), sigma=0.25, tol=0, depth=2, batch=20)
    x = np.asarray(Image.open(pictures[0]), np.float32)[None] / np.float32(255)
    expected = smooth.predict(np.stack([x] * 4), n=60)
    assert [answer["predict"] for answer in answers] == expected
    printed = [int(line.split("\t")[1]) for line in lines[1:]]
    assert printed == [-1 if found is None else found for found in expected]


def test_predict_refuses_files_before_the_first_answer(
    files: SimpleNamespace, pictures: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = pictures[0].parent
    Image.new("RGB", (8, 8)).save(folder / "colour.png")
    Image.new("L", (9, 8)).save(folder / "wide.png")
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(folder / "deep.png")
    (folder / "broken.png").write_bytes(pictures[0].read_bytes()[:30])
    np.save(folder / "large.npy", np.full((8, 8), 2.0))
    np.save(folder / "nan.npy", np.full((8, 8), np.nan))
    np.save(folder / "whole.npy", np.zeros((8, 8), np.int64))
    np.save(folder / "objects.npy", np.array([{}]), allow_pickle=True)
    (folder / "broken.npy").write_bytes(pictures[1].read_bytes()[:100])
    given = f"predict --model {files.model} --sigma 0.25 --n 20"
    for name, says in {
        "none.png": "there is no file",
        ".": "there is no file",
        "x" * 300: "there is no file",
        "colour.png": "has shape (3, 8, 8), but the model takes (1, 8, 8)",
        "wide.png": "has shape (1, 8, 9)",
        "deep.png": "more than 8 bits",
        "broken.png": "cannot be read as an image",
        "broken.npy": "is not an array of numbers",
        "objects.npy": "is not an array of numbers",
        "large.npy": "outside [0, 1]",
        "nan.npy": "outside [0, 1]",
        "whole.npy": "is of type int64",
    }.items():
        assert main([*given.split(), str(pictures[0]), str(folder / name)]) == 2
        said = capsys.readouterr()
        assert said.out == "", name
        assert says in said.err
        assert said.err.count("\n") == 1
    assert main([*given.split(), str(pictures[0]), "--images", "0:3"]) == 2
    assert "--images chooses images of a data set" in capsys.readouterr().err


def test_bench_measures_warm_starts_against_honest_baselines(
    files: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = f"bench --model {files.model} --data {files.images} --sigma 0.25 --images 0:2"
    given += " --n 50 --n0 10 --batch 10 --depths 1,2 --depth 12 --tol 0.3 --reference-tol 0.3"
    given += f" --reference-depth 12 --solver anderson:window=5 --picture {tmp_path / 'bench.png'}"
    assert main([*given.split(), "--json"]) == 0
    said = capsys.readouterr()
    assert "evaluations per vote" in said.err
    found = json.loads(said.out)
    names = {(row["solver"], row["start"], row["depth"]) for row in found["rows"]}
    assert names == {
        ("anderson:window=5", start, depth)
        for start in start_names()
        for depth in ("1", "2", *(("12", "tol 0.3") if start == "cold" else ()))
    }
    for row in found["rows"]:
        assert row["method"] == ("standard" if row["start"] == "cold" else "serialized")
        assert row["baseline"] == (row["start"] == "cold")
        if not row["depth"].startswith("tol"):
            assert row["nfe"] == int(row["depth"])
            # Warm-ups and tolerances may find nobody to vote for; a cold fixed depth never does.
            assert row["nfe_total"] > row["nfe"] or row["start"] != "cold"
        assert 0 <= row["accuracy"] <= 1
        assert 0 <= row["agreement"] <= 1
        assert 0 <= row["shift"] <= row["shift_most"] <= 1
        if row["depth"] == "tol 0.3":  # the reference itself, whatever order its rows ended in
            assert row["agreement"] == 1
            assert row["shift_most"] == 0
    assert (tmp_path / "bench.png").stat().st_size > 10_000
    assert main([*given.split(), "--quiet", "--starts", "cold", "--depths", "1"]) == 0
    said = capsys.readouterr()
    # its baseline with a tolerance leaves samples without a vote: quiet or not, that is said
    assert re.fullmatch(r"deqcert: note: .*had no vote.*\n", said.err)
    assert "agree %" in said.out


def test_train_leaves_a_model_that_can_be_certified(
    files: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = f"train --out {tmp_path} --name mine --epochs 1 --batch 6 --quiet"
    given += f" --data {files.images} --test-data {files.others} --threads 1"
    assert main(given.split()) == 0
    assert capsys.readouterr().out == f"checkpoint: {tmp_path / 'mine.pth'}\n"
    assert main(given.split()) == 2
    assert "exists already" in capsys.readouterr().err
    given = f"predict --model {tmp_path / 'mine.pth'} --data {files.images} --images 0:1 --n 20"
    assert main(given.split()) == 0  # sigma is in the training's record


def test_doctor_says_what_is_live(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kernels"]["path"] in ("native", "torch")
    assert found["kernels"]["reason"]
    assert found["versions"]["torch"] == torch.__version__
    assert set(found["solvers"]) == set(SOLVERS)
    assert main(["doctor"]) == 0
    assert found["kernels"]["reason"] in capsys.readouterr().out


def test_a_reader_that_leaves_is_no_error(files: SimpleNamespace, tmp_path: Path) -> None:
    file = tmp_path / "many.tsv"
    file.write_text("".join(f"{i}\t1\t1\t0.5\t1\t1\n" for i in range(9)))
    command = f"{sys.executable} -m deqcert report {' '.join([str(file)] * 400)} --json | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, check=False)
    assert done.stderr == b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_output_on_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "theirs.tsv").write_text("0\t1\t1\t0.5\t1\t1\n")
    command = [sys.executable, "-m", "deqcert", "report", str(tmp_path / "theirs.tsv")]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 2
    assert done.stderr == b"deqcert: cannot use the output: No space left on device.\n"


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        (":", range(10)),
        ("3", range(3, 4)),
        ("2:5", range(2, 5)),
        ("::4", range(0, 10, 4)),
        ("5:", range(5, 10)),
        (":2:1", range(2)),
    ],
)
def test_images_are_chosen_as_python_slices(text: str, chosen: range) -> None:
    assert list(parse_images(text, 10)) == list(chosen)


def test_every_option_of_every_solver_can_be_given_as_text() -> None:
    for name in SOLVERS:
        known = options_of(SOLVERS.get(name))
        texts = {key: str(option.default) for key, option in known.items()}
        found = read_options("solver option", texts, known)
        assert found == {key: option.default for key, option in known.items()}


def test_the_yaml_config_is_part_of_what_a_run_is(
    files: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(certify(files, tmp_path / "run", "--quiet")) == 0
    text = MDEQConfig.from_yaml(files.folder / "ok.yaml").to_yaml().replace("0.305", "0.31")
    (tmp_path / "shifted.yaml").write_text(text)
    more = ["--config", str(tmp_path / "shifted.yaml")]
    assert main(certify(files, tmp_path / "run", *more)) == 2
    assert "model_config.mean was [0.305] and is now [0.31]" in capsys.readouterr().err
