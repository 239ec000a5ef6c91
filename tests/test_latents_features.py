"""Heads on features of any encoder: ``deqcert fit-latent --features``, no model needed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from deqcert.cli import main
from deqcert.data import load_dataset
from deqcert.errors import DataError
from deqcert.latents import LatentRadius, fit_head, fit_mixture, read_head


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with features of digits, 0 to 3, made by a torch module of random weights."""
    folder = tmp_path_factory.mktemp("features")
    data = load_dataset("digits", "train")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 24), torch.nn.Tanh())
    with torch.no_grad():
        z = encoder(torch.from_numpy(data.batch(np.flatnonzero(data.labels() < 4))))
    np.savez(folder / "digits.npz", z=z.numpy(), y=data.labels()[data.labels() < 4])
    return folder


@pytest.mark.parametrize("head", ["lda", "qda", "robust-lda"])
def test_a_head_is_fitted_to_features_alone(
    place: Path, head: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["fit-latent", "--features", str(place / "digits.npz"), "--head", head]
    assert main([*given, "--reach", "0.1"]) == 0
    said = capsys.readouterr().out
    file = place / f"digits-{head}.npz"
    assert f"head: {file}" in said and "radii are of latents" in said
    record = json.loads(file.with_suffix(".json").read_text())
    assert record["measured"]["accuracy"] > 0.75
    assert len(record["measured"]["normality"]) == 4
    assert "lipschitz" not in record["measured"] and "model" not in record["parameters"]
    assert file.with_suffix(".png").stat().st_size > 1000
    # The file is the head: what is read has the accuracy and the radii of the record.
    found = np.load(place / "digits.npz")
    reach = LatentRadius(read_head(file)).at(torch.from_numpy(found["z"][4::5]).double())
    right = reach.best.numpy() == found["y"][4::5]
    assert right.mean() == pytest.approx(record["measured"]["accuracy"], abs=1e-5)
    curves = record["measured"]["curves"]
    half = curves["radius"][20]
    share = np.mean(right & (reach.radius.numpy() >= half))
    assert share == pytest.approx(curves["measured"][20], abs=5e-3)


def test_a_head_is_read_as_it_was_written(place: Path) -> None:
    found = np.load(place / "digits.npz")
    rest = np.arange(len(found["z"])) % 5 != 4
    mixture = fit_mixture(found["z"][rest], found["y"][rest], shared=False)
    made, read = fit_head("qda", mixture), place / "again.npz"
    given = ["fit-latent", "--features", str(place / "digits.npz"), "--head", "qda", "--quiet"]
    assert main([*given, "--out", str(read)]) == 0
    again = read_head(read)
    assert made.precisions is not None and again.precisions is not None
    for name in ("means", "precisions", "offsets"):
        assert torch.equal(getattr(made, name), getattr(again, name))


def broken(folder: Path) -> None:
    """Write files of features that cannot be used."""
    z, y = np.random.default_rng(0).standard_normal((40, 3)), np.arange(40) % 2
    np.savez(folder / "no-y.npz", z=z)
    np.savez(folder / "flat.npz", z=z[:, 0], y=y)
    np.savez(folder / "long.npz", z=np.zeros((2, 5000)), y=np.array([0, 1]))
    np.savez(folder / "short.npz", z=z, y=y[:9])
    np.savez(folder / "float.npz", z=z, y=y / 2)
    np.savez(folder / "gap.npz", z=z, y=np.where(y == 1, 10**9, 0))
    np.savez(folder / "nan.npz", z=np.where(z > 2, np.nan, z), y=y)
    np.savez(folder / "rare.npz", z=z, y=np.where(np.arange(40) == 4, 2, y))
    np.savez(folder / "one.npz", z=z, y=np.zeros(40, dtype=int))
    np.savez(folder / "none.npz", z=z[:0], y=y[:0])
    np.savez(folder / "same.npz", z=np.column_stack([z, z[:, 0]]), y=y)
    (folder / "text.npz").write_text("z")


@pytest.mark.parametrize(
    ("file", "more", "sentence"),
    [
        ("missing.npz", "", "there is no file"),
        ("text.npz", "", "not an .npz file"),
        ("no-y.npz", "", "lacks z or y"),
        ("flat.npz", "", "shape (N, m)"),
        ("long.npz", "", "at most 4096"),
        ("short.npz", "", "as many as z has rows"),
        ("float.npz", "", "needs integers"),
        ("gap.npz", "", "number them from 0"),
        ("nan.npz", "", "not finite"),
        ("rare.npz", "", "class 2"),
        ("one.npz", "", "two classes or more"),
        ("none.npz", "", "images"),
        ("same.npz", "--shrinkage 0", "larger shrinkage"),
        ("digits.npz", "--model other.pth", "model has no use"),
        ("digits.npz", "--sigma 0.25", "sigma has no use"),
        ("digits.npz", "--head robust-lda --reach 1", "smaller reach"),
        ("digits.npz", "--out head.pth", "must end in .npz"),
        ("digits.npz", "--images 0:6", "needs at least two"),
    ],
)
def test_bad_features_are_one_sentence(
    place: Path,
    file: str,
    more: str,
    sentence: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(place)
    broken(place)
    given = ["fit-latent", "--features", file, "--out", "new.npz", "--quiet", *more.split()]
    assert main(given) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1
    assert not Path("new.npz").exists()


def test_what_is_no_head_is_refused(place: Path) -> None:
    np.savez(place / "odd.npz", means=np.zeros((2, 3)), linear=np.zeros((2, 4)), offsets=np.ones(2))
    for name in ("odd.npz", "digits.npz", "missing.npz"):
        with pytest.raises(DataError):
            read_head(place / name)
