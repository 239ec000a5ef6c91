"""The seed: certificates do not hold for inputs that were chosen by it, and it can be a secret."""

from __future__ import annotations

import json
import math
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from deqcert import SmoothedClassifier, kernels
from deqcert.certifiers.bounds import lower_confidence_bound
from deqcert.cli import main
from deqcert.data import load_dataset
from deqcert.errors import ConfigError, RunError
from deqcert.report import join_parts, read_results, table
from deqcert.report.tables import entry
from deqcert.runs import Manifest, Run
from deqcert.smoothing import noisy_copies
from deqcert.smoothing.seed import draw_seed, noise_key, seed_text

QUICK: dict[str, Any] = {"sigma": 0.25, "n": 60, "n0": 10, "batch": 60, "threads": 1}
OPTIONS = [f"--{key}={value}" for key, value in QUICK.items()]


def normals(seed: int, n: int, index: int = 0, stage: int = 1) -> np.ndarray:
    """Return n standard normals as certificates draw them."""
    x = torch.zeros(1, 1, 1)
    place = {"seed": seed, "index": index, "stage": stage}
    return noisy_copies(x, np.arange(n), sigma=1.0, **place).numpy().ravel()


# The statement: why x must not depend on the seed.


def test_whoever_knows_the_seed_finds_false_certificates_and_nobody_else_does() -> None:
    # f answers A right of 0, so that at x > 0 the true radius is x itself.
    n, alpha, seeds = 300, 0.01, 1000
    bounds = np.array([lower_confidence_bound(k, n, alpha) for k in range(n + 1)])
    line = np.linspace(0.0, 2.5, 126)

    def false(seed: int) -> np.ndarray:
        """Return where on the line the certified radius is too large."""
        votes = n - np.searchsorted(np.sort(normals(seed, n)), -line)
        return stats.norm.ppf(np.maximum(bounds[votes], 0.5)) > line

    found = np.array([false(seed) for seed in range(seeds)])
    # At a point that was fixed before, alpha is kept: three standard errors are allowed for.
    assert found.mean(axis=0).max() <= alpha + 3 * math.sqrt(alpha / seeds)
    # Along a line somebody finds a false one far more often.
    assert found.any(axis=1).mean() > 5 * alpha


# Keys.


@pytest.mark.parametrize("seed", [0, 7, 2**64 - 1])
def test_a_seed_of_64_bits_is_the_generators_key(seed: int) -> None:
    direct = torch.empty(50, 1)
    kernels.philox_normal(direct, seed=seed, index=3, stage=1, first=0)
    np.testing.assert_array_equal(normals(seed, 50, index=3), direct.numpy().ravel())
    assert seed_text(seed) == str(seed)


def test_a_longer_seed_has_another_key_for_every_input_and_stage() -> None:
    seeds = (2**64, 2**64 + 1, 2**127, 2**128 - 1)
    keys = [noise_key(s, i, g) for s in seeds for i in (0, 1, 2**32 - 1) for g in (0, 1, 2**24)]
    assert len(set(keys)) == len(keys)
    assert all(0 <= key < 2**64 for key in keys)
    assert noise_key(2**64, 0, 1) == 0x44DB6C3211EAE31A  # kept runs can be repeated for ever
    assert stats.kstest(normals(2**128 - 1, 20_000), "norm").pvalue > 0.01


def test_a_hash_stands_for_a_longer_seed_and_tells_one_from_another() -> None:
    first, second = draw_seed(), draw_seed()
    assert first != second
    assert min(first, second) >= 2**64
    assert max(first, second) < 2**128
    assert seed_text(first) == seed_text(first) != seed_text(second)
    assert str(first) not in seed_text(first)


@pytest.mark.parametrize("seed", [-1, 2**128, "secret", 0.5, None])
def test_what_is_no_seed_is_refused(seed: Any) -> None:
    with pytest.raises(ConfigError, match=r"seed is .* from 0 to 2\^128 - 1 or random"):
        SmoothedClassifier("digits", seed=seed)


# Runs with a secret.


def certify(out: Path, *more: str) -> list[str]:
    return ["certify", "--images", "0:3", "--out", str(out), "--quiet", *OPTIONS, *more]


def lines(out: Path) -> list[list[str]]:
    """Return the journal without its times."""
    rows = (out / "certificates.tsv").read_text().splitlines()
    return [[*cells[:5], *cells[6:]] for cells in (row.split("\t") for row in rows)]


@pytest.fixture
def stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run with a secret seed that was stopped after its first image."""
    out, append = tmp_path / "run", Run.append

    def once(run: Run, row: Any) -> None:
        append(run, row)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "append", once)
        assert main(certify(out, "--seed", "random")) == 130
    return out


def test_an_unfinished_run_keeps_its_seed_from_others(stopped: Path) -> None:
    secret = stopped / "seed.secret"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    seed = int(secret.read_text())
    assert json.loads((stopped / "manifest.json").read_text())["parameters"]["seed"] == "random"
    for path in stopped.iterdir():
        assert path == secret or str(seed) not in path.read_text()
    assert lines(stopped)[1][-1] == seed_text(seed)


def test_a_finished_run_tells_its_seed_and_can_be_repeated(stopped: Path, tmp_path: Path) -> None:
    seed = int((stopped / "seed.secret").read_text())
    assert main(certify(stopped, "--seed", "random")) == 0
    assert not (stopped / "seed.secret").exists()
    manifest = Manifest.read(stopped)
    assert manifest is not None
    assert manifest.parameters["seed"] == manifest.notes["settings"]["seed"] == seed
    assert json.loads((stopped / "summary.json").read_text())["seed"] == seed
    assert read_results(stopped).facts["seed"] == str(seed)
    for again in (["--seed", str(seed)], ["--config", str(stopped / "manifest.json")]):
        out = tmp_path / again[0].strip("-")
        assert main(certify(out, *again)) == 0
        assert lines(out) == lines(stopped)
    # The same command prints the table of what is finished, and so does the one with the number.
    for seeds in ("random", str(seed)):
        assert main(certify(stopped, "--seed", seeds)) == 0
    assert main(certify(stopped, "--seed", "7")) == 2


def test_a_process_that_died_at_any_moment_leaves_a_run_that_can_go_on(
    stopped: Path, tmp_path: Path
) -> None:
    secret = (stopped / "seed.secret").read_text()
    # Before the manifest was there.
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    (fresh / "seed.secret").write_text("12\n")
    assert main(certify(fresh, "--seed", "random")) == 0
    # After the seed was told, before its file was gone.
    assert main(certify(stopped, "--seed", "random")) == 0
    (stopped / "seed.secret").write_text(secret)
    assert main(certify(stopped, "--seed", "random")) == 0
    for out in (fresh, stopped):
        assert not (out / "seed.secret").exists()


@pytest.mark.parametrize("content", [None, "", "random\n", "-4\n", str(2**128), "ä"])
def test_without_its_seed_a_run_is_not_continued(
    stopped: Path, content: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    path, before = stopped / "seed.secret", lines(stopped)
    if content is None:
        path.unlink()
    else:
        path.write_text(content, encoding="utf-8")
    assert main(certify(stopped, "--seed", "random")) == 2
    assert "cannot read the secret seed" in capsys.readouterr().err
    assert lines(stopped) == before
    assert main(certify(stopped, "--seed", "3")) == 2


def test_parts_with_secrets_of_their_own_are_one_evaluation(tmp_path: Path) -> None:
    parts = []
    for images in ("0:1", "1:2"):
        out = tmp_path / images.replace(":", "-")
        assert main(certify(out, "--seed", "random", "--images", images)) == 0
        parts.append(read_results(out))
    assert len(join_parts(parts)) == 2
    assert main(certify(tmp_path / "public", "--images", "2:3")) == 0
    with pytest.raises(RunError, match="differ in seed"):
        join_parts([*parts, read_results(tmp_path / "public")])


def test_a_new_secret_is_drawn_for_every_answer() -> None:
    x = load_dataset("digits").batch([0, 1])
    smooth = SmoothedClassifier("digits", seed="random", **QUICK)
    found = [*smooth.certify(x), smooth.certify(x[0])]
    seeds = [certificate.details.seed for certificate in found]
    assert len(set(seeds)) == 3
    assert min(seeds) >= 2**64
    again = SmoothedClassifier("digits", seed=seeds[1], **QUICK).certify(x[1], 1)
    assert (again.radius, again.details) == (found[1].radius, found[1].details)
    assert smooth.predict(x[0], n=100) in (None, *range(10))


def test_a_secret_is_proposed_for_images_of_ones_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digits = load_dataset("digits")
    np.savez(tmp_path / "own.npz", x=digits.batch([0, 1, 2]), y=digits.labels()[:3])
    own = ["--data", f"npz:{tmp_path / 'own.npz'}"]
    for number, (more, proposed) in enumerate(
        [([], False), (own, True), ([*own, "--seed", "0"], False), ([*own, "--seed=random"], False)]
    ):
        out = tmp_path / str(number)
        assert main(certify(out, *more)) == 0
        assert ("--seed random" in capsys.readouterr().err) == proposed
        assert main(certify(out, *more)) == 0  # and once is enough
        assert "--seed random" not in capsys.readouterr().err


def test_certificates_from_noise_say_that_they_assume_it(tmp_path: Path) -> None:
    assert main(certify(tmp_path / "run")) == 0
    notes = json.loads((tmp_path / "run" / "manifest.json").read_text())["notes"]
    certificate = SmoothedClassifier("digits", **QUICK).certify(load_dataset("digits").image(0))
    for stated in (notes["assumptions"], certificate.assumptions):
        assert "do not depend on the noise's seed" in stated


# Alpha of a whole run.


def test_alpha_total_is_shared_by_the_images_of_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(certify(out, "--alpha-total", "0.03")) == 0
    said = capsys.readouterr().out
    assert "alpha is 0.01 per image, so at most 0.03 wrong" in said
    assert "the chance of any" in said
    manifest = Manifest.read(out)
    assert manifest is not None
    assert manifest.parameters["alpha"] == 0.03 / 3
    assert manifest.parameters["alpha_total"] == 0.03
    assert main(certify(tmp_path / "each", "--alpha", repr(0.03 / 3))) == 0
    assert "the chance of any" not in capsys.readouterr().out
    assert lines(out) == lines(tmp_path / "each")
    assert main(["certify", "--config", str(out / "manifest.json"), "--out", str(out)]) == 0
    both = ["--alpha-total", "0.03", "--alpha", "0.001"]
    assert main(certify(out, *both)) == 2
    assert "give one" in capsys.readouterr().err


def test_several_inputs_of_one_call_share_alpha_total() -> None:
    x = load_dataset("digits").batch([0, 1, 2])
    smooth = SmoothedClassifier("digits", alpha_total=0.03, **QUICK)
    assert [certificate.alpha for certificate in smooth.certify(x)] == [0.03 / 3] * 3
    assert smooth.certify(x[0]).alpha == 0.03
    with pytest.raises(ConfigError, match="both given"):
        SmoothedClassifier("digits", alpha_total=0.03, alpha=0.01)


def test_the_expected_number_of_wrong_certificates_counts_every_image(tmp_path: Path) -> None:
    columns = "idx\tlabel\tpredict\tradius\tcorrect\ttime\talpha\n"
    rows = [f"{i}\t0\t{0 if i < 2 else -1}\t0.0\t{int(i < 2)}\t1.0\t0.001\n" for i in range(500)]
    (tmp_path / "run.tsv").write_text(columns + "".join(rows))
    results = read_results(tmp_path / "run.tsv")
    assert entry(results, [0.0])["expected_wrong"] == pytest.approx(0.5)
    assert "at most 0.5 wrong certificates are to be expected among 500 images" in (
        table([results]).text()
    )
    # Three images, and a number that is rounded up to two digits.
    (tmp_path / "few.tsv").write_text(columns + "".join(rows[:3]).replace("0.001", "0.00123"))
    assert "at most 0.0037 wrong" in table([read_results(tmp_path / "few.tsv")]).text()
