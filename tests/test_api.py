"""The front door: one object that predicts and certifies, and files that hold its settings."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import deqcert
from deqcert.api import SmoothedClassifier
from deqcert.cli import main
from deqcert.cli.options import read_settings
from deqcert.errors import ConfigError, DataError
from deqcert.options import options_of
from deqcert.presets import PRESETS
from deqcert.report import read_results
from deqcert.settings import Settings

QUICK = {"sigma": 0.25, "n": 200, "n0": 20, "alpha": 0.01, "batch": 100}


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    return deqcert.load_dataset("digits").batch(range(3))


def test_import_is_light() -> None:
    code = (
        "import sys, time; began = time.process_time(); import deqcert; "
        "spent = time.process_time() - began; heavy = {'torch', 'numpy', 'scipy', 'click'}; "
        "print(spent, sorted(heavy & set(sys.modules)))"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        for _ in range(3)
    ]
    spent, heavy = zip(*(run.stdout.split(" ", 1) for run in runs), strict=True)
    assert {text.strip() for text in heavy} == {"[]"}
    assert min(map(float, spent)) < 0.05


def test_everything_at_the_door_is_there() -> None:
    for name in deqcert.__all__:
        assert getattr(deqcert, name) is not None
    with pytest.raises(AttributeError):
        deqcert.nothing_of_the_kind  # noqa: B018


def test_one_input_gives_a_certificate_and_several_give_a_list(digits: np.ndarray) -> None:
    smooth = SmoothedClassifier("digits", **QUICK)
    many = smooth.certify(digits)
    assert [type(one) for one in many] == [deqcert.Certificate] * 3
    for i in (0, 2):
        alone = SmoothedClassifier("digits", **QUICK).certify(digits[i], i)
        assert (alone.prediction, alone.radius) == (many[i].prediction, many[i].radius)
    assert repr(many[0]).startswith(f"Certificate(prediction={many[0].prediction}, radius=")


def test_predictions_are_classes_or_none(digits: np.ndarray) -> None:
    smooth = SmoothedClassifier("digits", **QUICK)
    found = smooth.predict(digits, n=100)
    assert found == [smooth.predict(x, i, n=100) for i, x in enumerate(digits)]
    assert all(answer is None or 0 <= answer < 10 for answer in found)


def test_an_input_of_another_shape_is_refused(digits: np.ndarray) -> None:
    smooth = SmoothedClassifier("digits", **QUICK)
    for wrong in (digits[0, 0], digits[:, :, :7], digits[None]):
        with pytest.raises(DataError, match="shape"):
            smooth.certify(wrong)


def test_a_data_set_becomes_the_run_folder_that_the_command_line_makes(tmp_path: Path) -> None:
    smooth = SmoothedClassifier("digits", **QUICK)
    results = smooth.certify_dataset("digits", images="0:4", out=tmp_path / "here")
    options = [f"--{key.replace('_', '-')}={value}" for key, value in QUICK.items()]
    there = tmp_path / "there"
    assert main(["certify", "--images", "0:4", "--out", str(there), "--quiet", *options]) == 0
    here, theirs = (read_results(place) for place in (tmp_path / "here", there))
    np.testing.assert_array_equal(here.radius, theirs.radius)
    np.testing.assert_array_equal(results.predict, theirs.predict)
    first, second = (
        json.loads((place / "manifest.json").read_text()) for place in (tmp_path / "here", there)
    )
    assert first["parameters"] == second["parameters"]
    again = smooth.certify_dataset("digits", images="0:4", out=there)
    np.testing.assert_array_equal(again.radius, theirs.radius)


def test_every_setting_is_an_option_with_the_same_default(capsys: pytest.CaptureFixture) -> None:
    assert main(["certify", "--help"]) == 0
    text = capsys.readouterr().out
    for name, option in options_of(SmoothedClassifier).items():
        assert f"--{name.replace('_', '-')}" in text
        assert option.help, name
    from deqcert.cli.certify import command

    defaults = {p.name: p.default for p in command.params}
    for field in dataclasses.fields(Settings):
        if field.default is not dataclasses.MISSING:
            assert defaults[field.name] == field.default, field.name


def test_no_radius_exceeds_the_ceiling_that_is_said_before_the_run() -> None:
    smooth = SmoothedClassifier("digits", sigma=0.25, n=1000, n0=20, depth=2, tol=0.0)
    radii = [c.radius for c in smooth.certify(deqcert.load_dataset("digits").batch(range(4)))]
    assert smooth.ceiling is not None
    most = re.match(r"no radius can exceed ([0-9.]+), .* n=1000,", smooth.ceiling)
    assert most is not None
    assert float(most[1]) == max(radii), "an easy digit's vote is unanimous"


@pytest.mark.parametrize("name", PRESETS.names())
def test_every_preset_is_made_of_settings(name: str) -> None:
    smooth = SmoothedClassifier.from_preset(name, "digits", sigma=0.25)
    for key, value in PRESETS.get(name).settings.items():
        assert getattr(smooth, key) == value
    assert SmoothedClassifier.from_preset(name, sigma=0.25, n=500).n == 500


@pytest.mark.parametrize("suffix", ["yaml", "toml", "json"])
def test_a_file_holds_settings_and_options_override_it(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"run.{suffix}"
    texts = {
        "yaml": "preset: cohen\nn: 300\nsigma: 0.25\nsolver_options:\n  damping: 0.9\n",
        "toml": 'preset = "cohen"\nn = 300\nsigma = 0.25\n[solver_options]\ndamping = 0.9\n',
        "json": json.dumps(
            {"preset": "cohen", "n": 300, "sigma": 0.25, "solver_options": {"damping": 0.9}}
        ),
    }
    file.write_text(texts[suffix])
    out = tmp_path / "out"
    given = ["certify", "--config", str(file), "--images", "0:2", "--out", str(out), "--quiet"]
    assert main([*given, "--n0", "30"]) == 0
    found = json.loads((out / "manifest.json").read_text())["parameters"]
    assert (found["n"], found["n0"], found["method"]) == (300, 30, "standard")
    assert found["predictor"]["solver_options"]["damping"] == 0.9


def test_the_manifest_of_a_run_repeats_it(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    smooth = SmoothedClassifier("digits", **QUICK, start="previous", steps=2, audit=50)
    smooth.certify_dataset("digits", images="0:2", out=first)
    given = ["certify", "--config", str(first / "manifest.json"), "--out", str(second), "--quiet"]
    assert main(given) == 0
    np.testing.assert_array_equal(read_results(first).radius, read_results(second).radius)
    assert read_settings(first / "manifest.json")["steps"] == 2


def test_a_preset_beside_a_file_comes_before_it_and_options_before_both(tmp_path: Path) -> None:
    from deqcert.cli.certify import command

    file = tmp_path / "run.yaml"
    file.write_text("preset: paper-srs\nn: 300\nmethod: enclosed\nn0: 7\n")
    given = ["--config", str(file), "--preset", "cohen", "--alpha", "0.01"]
    for words in (given, [*given[2:], *given[:2]]):
        with command.make_context("certify", list(words)) as context:
            found = context.params
        assert (found["n"], found["method"], found["n0"]) == (100_000, "standard", 100)
        assert (found["audit"], found["alpha"], found["steps"]) == (1000, 0.01, 3)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nn: 5", "did you mean n"),
        ("- 5", "holds no settings"),
        ("n: [", "neither YAML nor TOML"),
        ("n: many", "n is 'many'"),
        ("solver_options: 5", "must be a mapping"),
        ("preset: cohn", "did you mean cohen"),
    ],
)
def test_a_wrong_settings_file_is_one_sentence(
    text: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(text)
    assert main(["certify", "--config", str(file)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert says in said


def test_an_old_model_configuration_still_works_with_a_note(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    config = Path(deqcert.__file__).parent / "zoo" / "digits.yaml"
    given = ["certify", "--config", str(config), "--sigma", "0.25", "--n", "50", "--alpha", "0.1"]
    assert main([*given, "--images", "0", "--out", str(tmp_path / "out"), "--quiet"]) == 0
    assert "--model-config" in capsys.readouterr().err


class Toy(torch.nn.Module):
    """z* = tanh(A z* + B x) / 2, and a linear readout."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = torch.nn.Linear(64, 12)
        self.layer = torch.nn.Linear(12, 12)
        self.head = torch.nn.Linear(12, 10)

    def step(self, z: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return 0.5 * torch.tanh(self.layer(z) + u)


def test_functions_of_another_library_become_a_model(digits: np.ndarray, tmp_path: Path) -> None:
    toy = Toy()
    model = deqcert.ImplicitClassifier(
        toy.step,
        toy.head,
        inject=lambda x: toy.embed(x.flatten(1)),
        state_shape=(12,),
        input_shape=(1, 8, 8),
        num_classes=10,
    )
    assert {id(p) for p in toy.layer.parameters()} <= {id(p) for p in model.parameters()}
    smooth = SmoothedClassifier(model, **QUICK)
    certificate = smooth.certify(digits[0])
    assert certificate.prediction is None or certificate.radius > 0
    results = smooth.certify_dataset("digits", images="0:2", out=tmp_path / "out")
    assert len(results) == 2
    with torch.no_grad():
        toy.head.bias[3] += 100
    other = SmoothedClassifier(model, **QUICK)
    with pytest.raises(deqcert.errors.RunError, match="weights_sha256"):
        other.certify_dataset("digits", images="0:2", out=tmp_path / "out")


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor, lambda x: x.astype(np.uint8)])
def test_pixels_outside_0_to_1_are_refused(digits: np.ndarray, kind) -> None:
    smooth = SmoothedClassifier("digits", **QUICK)
    for inputs in (digits[0], digits[:2]):
        with pytest.raises(DataError, match=r"pixels from 0 to 2\d\d, .* divide bytes by 255"):
            smooth.certify(kind(255 * inputs))
    with pytest.raises(DataError, match="pixels from -1 to"):
        smooth.predict(2 * digits[0] - 1)


def test_what_is_no_model_is_refused(digits: np.ndarray) -> None:
    with pytest.raises(ConfigError, match="ImplicitClassifier"):
        SmoothedClassifier(torch.nn.Linear(2, 2), **QUICK).certify(digits[0])
    with pytest.raises(ConfigError, match="n is -3"):
        SmoothedClassifier("digits", n=-3)
    with pytest.raises(ConfigError, match="sigma"):
        SmoothedClassifier("digits", sigma="much")
