"""An evaluation: corruptions, metrics, parts that fail alone, a page that says what was found."""

from __future__ import annotations

import html
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from browser import needs_chromium, opened
from sklearn.metrics import roc_auc_score

from deqcert.certifiers.confidence import (
    brier,
    certified_brier,
    log_loss,
    reliability,
    share_bounds,
)
from deqcert.cli import main
from deqcert.data import load_dataset
from deqcert.errors import ConfigError
from deqcert.evaluation import PARTS, parse_parts
from deqcert.evaluation.calibrated import vote_shares
from deqcert.evaluation.config import spread
from deqcert.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupt, fitting, is_picture
from deqcert.evaluation.corruptions.blur import disc
from deqcert.evaluation.corruptions.light import plasma
from deqcert.evaluation.detected import tell_apart
from deqcert.evaluation.foreign import fit
from deqcert.evaluation.run import name_models
from deqcert.files import Lock
from deqcert.report.certified import band, describe_run
from deqcert.report.evaluation import summary_table, text
from deqcert.report.page import percent
from deqcert.report.sections.certified import certified_section

SHAPES = {"grey": (1, 28, 28), "colour": (3, 32, 32), "odd": (3, 21, 30), "small": (1, 8, 8)}


def pictures(shape: tuple[int, ...], count: int) -> np.ndarray:
    """Smooth random pictures: something that blur and compression take from."""
    draw = np.random.default_rng(0)
    small = draw.random((count, *shape)).astype(np.float32)
    for axis in (2, 3):
        small = (small + np.roll(small, 1, axis) + np.roll(small, 2, axis)) / 3
    low, high = small.min(), small.max()
    return (small - low) / (high - low)


def test_there_are_fourteen_corruptions_of_five_severities() -> None:
    assert len(CORRUPTIONS.names()) == 14
    assert all(len(CORRUPTIONS.get(name).strengths) == 5 for name in CORRUPTIONS)
    assert len(fitting((1, 8, 8))) == 13  # saturation of grey is nothing
    assert len(fitting((3, 8, 8))) == 14


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_corruptions_keep_shape_range_and_type_and_repeat_themselves(shape) -> None:
    image = pictures(shape, 1)[0]
    before = image.copy()
    for name in fitting(shape):
        for severity in SEVERITIES:
            found = corrupt(image, name, severity, index=3)
            assert (found.shape, found.dtype) == (shape, np.float32)
            assert np.isfinite(found).all() and found.min() >= 0 and found.max() <= 1
            np.testing.assert_array_equal(found, corrupt(image, name, severity, index=3))
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("name", ["gaussian-noise", "shot-noise", "impulse-noise", "fog"])
def test_what_is_drawn_depends_on_image_severity_and_seed(name) -> None:
    image = pictures((3, 16, 16), 1)[0]
    found = [
        corrupt(image, name, severity, index=index, seed=seed)
        for severity, index, seed in ((1, 0, 0), (1, 1, 0), (1, 0, 1), (2, 0, 0))
    ]
    assert len({one.tobytes() for one in found}) == 4


@pytest.mark.parametrize("name", CORRUPTIONS.names())
def test_a_severer_corruption_goes_farther_on_average(name) -> None:
    images = pictures((3, 32, 32), 6)
    distance = [
        np.mean(
            [np.linalg.norm(corrupt(x, name, severity, index=i) - x) for i, x in enumerate(images)]
        )
        for severity in SEVERITIES
    ]
    if name == "saturate":  # two are paler, three are stronger
        assert distance[0] < distance[1] and distance[2] < distance[3] < distance[4]
    elif name == "glass-blur":  # blur and rounds of moving take turns
        assert distance[1] < distance[3] and distance[2] < distance[4]
    elif name == "pixelate":  # which pixels share an edge depends on the size
        assert distance[0] < distance[2] < distance[4]
    else:
        assert np.all(np.diff(distance) > 0), distance


def test_corruptions_at_hand_computed_strengths() -> None:
    flat = np.full((1, 16, 16), 0.5, dtype=np.float32)
    for name, kept in (("gaussian-blur", 0.5), ("defocus-blur", 0.5), ("zoom-blur", 0.5)):
        np.testing.assert_allclose(corrupt(flat, name, 5, index=0), kept, atol=1e-6)
    np.testing.assert_allclose(corrupt(flat, "brightness", 5, index=0), 0.8, atol=1e-6)
    step = flat.copy()
    step[:, :, 8:] = 1.0
    np.testing.assert_allclose(
        np.unique(corrupt(step, "contrast", 2, index=0)), [0.625, 0.875], atol=1e-6
    )
    noisy = corrupt(np.full((1, 200, 200), 0.5, dtype=np.float32), "gaussian-noise", 5, index=0)
    assert abs(noisy.std() - 0.1) < 0.002
    hit = corrupt(np.full((1, 200, 200), 0.5, dtype=np.float32), "impulse-noise", 5, index=0) != 0.5
    assert abs(hit.mean() - 0.07) < 0.005
    assert abs(disc(1.5, 0.1).sum() - 1.0) < 1e-12
    assert np.count_nonzero(disc(1.5, 0.1) > 1e-6) == 9
    cloud = plasma(32, 2.0, np.random.default_rng(0))
    assert (cloud.shape, cloud.min(), cloud.max()) == ((32, 32), 0.0, 1.0)


def test_what_is_no_picture_is_told() -> None:
    assert not is_picture((1, 1, 100)) and not is_picture((2, 8, 8)) and not is_picture((10,))
    assert is_picture((3, 4, 4))


def test_reliability_and_calibration_error_by_hand() -> None:
    confidence = [0.95, 0.95, 0.95, 0.55]
    correct = [True, True, False, False]
    found = reliability(confidence, correct, bins=10)
    assert found.count.tolist() == [0, 0, 0, 0, 0, 1, 0, 0, 0, 3]
    assert found.error == pytest.approx(0.75 * abs(2 / 3 - 0.95) + 0.25 * 0.55)
    assert reliability([1.0, 0.0], [True, False]).error == 0.0
    assert reliability([0.5], [True], bins=2).count.tolist() == [1, 0]  # an edge is below


def test_brier_and_log_loss_by_hand() -> None:
    p = [[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]]
    assert brier(p, [0, 2]) == pytest.approx((0.09 + 0.04 + 0.01 + 0.01 + 0.64 + 0.81) / 2)
    assert brier([[0.0, 1.0]], [0]) == 2.0
    assert log_loss(p, [0, 2]) == pytest.approx(-(np.log(0.7) + np.log(0.1)) / 2)
    assert log_loss([[0.0, 1.0]], [0]) == np.inf


def test_certified_brier_is_what_the_worst_perturbation_of_a_linear_model_does() -> None:
    sigma, radius, margin = 0.5, 0.3, 0.4  # votes for A where x + noise is above -margin
    c = scipy.stats.norm.cdf(margin / sigma)
    away, near = (scipy.stats.norm.cdf((margin + s * radius) / sigma) for s in (-1, 1))
    both = [c, c]
    found = certified_brier(both, both, [True, False], radius, sigma)
    assert found == pytest.approx(((1 - away) ** 2 + near**2) / 2)
    assert certified_brier(both, both, [True, False], 0.0, sigma) == pytest.approx(
        ((1 - c) ** 2 + c**2) / 2
    )
    unknown = certified_brier([c], [c], [True], radius, sigma, known=[False])
    assert unknown == pytest.approx(max((1 - away) ** 2, near**2))
    assert certified_brier([0.0, 1.0], [0.0, 1.0], [False, True], 9.0, sigma) == 0.0


def test_bounds_of_shares_hold_as_often_as_they_promise() -> None:
    draw, alpha = np.random.default_rng(0), 0.1
    for p in (0.02, 0.5, 0.97):
        votes = draw.binomial(50, p, size=4000)
        low, high = share_bounds(votes, np.full(4000, 50), alpha)
        assert np.mean((low > p) | (high < p)) <= alpha
        if p == 0.5:  # a bound that spends alpha four times over would be noticed
            low, high = share_bounds(votes, np.full(4000, 50), 4 * alpha)
            assert np.mean((low > p) | (high < p)) > alpha
    low, high = share_bounds([0, 50], [50, 50], alpha)
    assert (low[0], high[1]) == (0.0, 1.0) and high[0] < 0.07 and low[1] > 0.93


def test_the_band_holds_for_all_radii_at_once() -> None:
    draw, n = np.random.default_rng(0), 60
    width = band(n, 0.0)
    worst = []
    for _ in range(2000):
        radii = np.sort(draw.exponential(size=n))
        truth = np.exp(-radii)
        above = (n - np.arange(n)) / n  # share with at least this radius
        worst.append(max(np.max(above - truth), np.max(truth - (above - 1 / n))))
    failed = np.mean(np.array(worst) > width["above"])
    assert 0.01 < failed <= width["delta"]
    assert band(n, 0.001)["below"] == pytest.approx(width["below"] + 0.001)


def test_detection_against_scikit_learn_and_by_hand() -> None:
    own, foreign = np.array([0.0, 1.0, 2.0, 3.0]), np.array([2.5, 4.0, np.inf])
    found = tell_apart(own, foreign)
    scores = np.concatenate([own, [2.5, 4.0, 9.0]])
    assert found["auroc"] == pytest.approx(roc_auc_score([0] * 4 + [1] * 3, scores))
    assert found["auroc"] == pytest.approx(11 / 12)
    assert found["fpr95"] == pytest.approx(1 / 3)  # all own pass at 3, and so does 2.5
    assert found["roc"][0] == [0.0, 0.0] and found["roc"][-1] == [1.0, 1.0]
    same = tell_apart(np.zeros(5), np.zeros(7))
    assert (same["auroc"], same["fpr95"]) == (0.5, 1.0)


def test_shares_of_votes_are_probabilities_and_lost_votes_are_nobodys() -> None:
    found = vote_shares(np.array([[10, 0], [4, 0]]), 10)
    np.testing.assert_allclose(found.sum(axis=1), 1.0)
    np.testing.assert_allclose(found[1], [(4 + 3 + 0.5) / 11, (3 + 0.5) / 11])


def test_foreign_images_are_brought_into_shape_by_the_stated_rule() -> None:
    colour = np.zeros((3, 10, 12), dtype=np.float32)
    colour[1] = 1.0
    np.testing.assert_allclose(fit(colour, (1, 5, 5)), 0.587, atol=1e-6)
    grey = np.random.default_rng(0).random((1, 9, 7)).astype(np.float32)
    found = fit(grey, (3, 9, 7))
    assert found.shape == (3, 9, 7)
    np.testing.assert_allclose(found, np.repeat(grey, 3, axis=0), atol=1e-6)
    assert fit(grey, (1, 9, 7)) is grey
    from deqcert.evaluation.foreign import short_name

    assert [short_name(s) for s in ("digits", "mnist:a/b", "folder:a/birds", "npz:x/y.npz")] == [
        "digits",
        "mnist",
        "birds",
        "y",
    ]


def test_few_images_are_spread_evenly_over_all() -> None:
    assert list(spread(range(10), 3)) == [0, 4, 8]
    assert spread(range(5, 50, 5), 100) == range(5, 50, 5)


def test_names_of_models_and_parts() -> None:
    assert name_models(["a/mdeq.pth.tar", "x=b/mdeq.pth"]) == {
        "mdeq": "a/mdeq.pth.tar",
        "x": "b/mdeq.pth",
    }
    for wrong in (["digits", "digits"], ["a="], ["..=x"], ["=x"], [""]):
        with pytest.raises(ConfigError):
            name_models(wrong)
    assert parse_parts("cost, clean") == ("clean", "cost")
    with pytest.raises(ConfigError, match="did you mean clean"):
        parse_parts("claen")


EVALUATE = (
    "evaluate digits again=digits --data digits --images 0:360:15 --certify-images 3 "
    "--attack-images 2 --attack pgd-implicit:steps=2 --votes 12 --fit-images 150 --ood-images 10 "
    "--n 300 --n0 20 --batch 60 --threads 1 --quiet"
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with foreign data and an evaluation of two models, all parts."""
    place = tmp_path_factory.mktemp("evaluation")
    draw = np.random.default_rng(0)
    foreign = draw.integers(0, 256, (12, 3, 16, 20), dtype=np.uint8)
    np.savez(place / "foreign.npz", x=foreign, y=np.zeros(12, dtype=int))
    words = [*EVALUATE.split(), f"--ood=npz:{place}/foreign.npz", f"--out={place}/e"]
    assert main(words) == 0
    return place


def again(made: Path, *more: str) -> list[str]:
    return [*EVALUATE.split(), f"--ood=npz:{made}/foreign.npz", f"--out={made}/e", *more]


def read(folder: Path) -> dict:
    return json.loads((folder / "evaluation.json").read_text())


def test_every_part_of_every_model_is_found(made) -> None:
    found = read(made / "e")
    assert [model["name"] for model in found["models"]] == ["digits", "again"]
    for model in found["models"]:
        states = {name: part["state"] for name, part in model["parts"].items()}
        assert states == dict.fromkeys(PARTS.names(), "done"), model["parts"]
        scores = {row["score"] for row in model["parts"]["ood"]["found"]["sets"][0]["rows"]}
        assert {"residual", "evaluations", "mahalanobis", "vote entropy"} <= scores
        assert len(model["parts"]["corruptions"]["found"]["rows"]) == 13
    same = ("clean", "corruptions", "calibration", "ood")
    first, second = (
        {part: model["parts"][part]["found"] for part in same} for model in found["models"]
    )
    assert first == second  # the same model under two names


def cells(page: str, anchor: str) -> list[list[str]]:
    """The table rows of a section, as text."""
    section = re.search(rf'<section id="{anchor}">.*?</section>', page, re.DOTALL)
    assert section is not None
    rows = re.findall(r"<tr>(.*?)</tr>", section[0], re.DOTALL)
    return [
        [html.unescape(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL)]
        for row in rows
    ]


def test_page_and_json_agree(made) -> None:
    found, page = read(made / "e"), (made / "e" / "page.html").read_text()
    for model in found["models"]:
        parts = {name: part["found"] for name, part in model["parts"].items()}
        name = model["name"]
        assert [name, "24", percent(parts["clean"]["accuracy"])] in [
            row[:3] for row in cells(page, "clean")
        ]
        run = parts["certified"]["runs"][0]
        certified = next(row for row in cells(page, "certified") if row[0] == name)
        assert certified[1] == str(run["images"])
        assert certified[2] == percent(run["certified_accuracy"][0])
        bad = [row for row in cells(page, "corruptions") if row[0] == "fog"]
        fog = next(row for row in parts["corruptions"]["rows"] if row["name"] == "fog")
        assert [*map(percent, fog["accuracy"]), percent(fog["mean"])] in [row[1:7] for row in bad]
        softmax = parts["calibration"]["sources"][0]
        assert f"{softmax['error']:.4f}" in [
            row[4] for row in cells(page, "calibration") if row[0].startswith(name)
        ]
        residual = next(r for r in parts["ood"]["sets"][0]["rows"] if r["score"] == "residual")
        shown = [row[1:3] for row in cells(page, "ood") if row[0] == "residual"]
        assert [percent(residual["auroc"]), percent(residual["fpr95"])] in shown
        evaluations = next(row for row in cells(page, "cost") if row[0] == "evaluations, mean")
        assert f"{parts['cost']['nfe']['mean']:.1f}" in evaluations


def test_the_page_needs_nothing_and_every_figure_has_its_command(made) -> None:
    page = (made / "e" / "page.html").read_text()
    links = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert all(link.startswith("#") for link in links)
    assert "@import" not in page and "url(http" not in page
    marks = re.findall(r'\bid="([^"]*)"', page)
    assert len(marks) == len(set(marks))
    for section in re.findall(r"<section .*?</section>", page, re.DOTALL):
        command = re.search(r'<code class="command">(.*?)</code>', section, re.DOTALL)
        assert command is not None
        words = html.unescape(re.sub(r"</?span>", "", command[1]))
        assert words.startswith("deqcert evaluate digits again=digits --data digits")


def test_a_command_of_the_page_makes_its_figures_again(made, tmp_path) -> None:
    import shlex

    command = read(made / "e")["commands"]["corruptions"]
    words = shlex.split(command)[1:]
    words[words.index("--out") + 1] = str(tmp_path / "other")
    assert main([*words, "--quiet"]) == 0
    both = (read(made / "e"), read(tmp_path / "other"))
    first, second = (found["models"][0]["parts"]["corruptions"]["found"] for found in both)
    assert first == second
    assert list(both[1]["models"][0]["parts"]) == ["corruptions"]


def test_the_same_command_measures_only_what_is_missing(made, capsys) -> None:
    file = made / "e" / "evaluation.json"
    before = read(made / "e")
    damaged = json.loads(file.read_text())
    damaged["models"][1]["parts"]["clean"] = {"state": "missing", "why": "planted."}
    file.write_text(json.dumps(damaged))
    words = [word for word in again(made) if word != "--quiet"]
    assert main(words) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "note:" not in line]
    assert len(told) == 1 and told[0].startswith("again: clean (")
    after = read(made / "e")
    for found in (before, after):
        found["models"][1]["parts"]["clean"].pop("seconds")
    assert before == after


def test_another_evaluation_is_not_mixed_in(made, capsys) -> None:
    assert main(again(made, "--votes", "13")) == 2
    assert "votes was 12 and is now 13" in capsys.readouterr().err
    assert main([*EVALUATE.split(), "--out", str(made)]) == 2
    assert "holds" in capsys.readouterr().err
    assert main([*EVALUATE.split(), "--out", str(made / "e" / "digits" / "certified")]) == 2
    assert "holds a run and no evaluation" in capsys.readouterr().err


def test_a_folder_that_another_process_writes_is_left_alone(made, capsys) -> None:
    with Lock(made / "e", "busy"):
        assert main(again(made)) == 2
    assert "another process is writing" in capsys.readouterr().err


def test_a_part_that_fails_costs_no_other(made, monkeypatch, capsys, tmp_path) -> None:
    def broken(subject: object) -> dict:
        raise ZeroDivisionError("planted")

    monkeypatch.setitem(PARTS._entries, "corruptions", broken)
    words = "evaluate digits --images 0:4 --votes 0 --threads 1 --parts"
    asked = [*words.split(), "clean,corruptions,calibration", "--out", str(tmp_path / "e")]
    assert main(asked) == 0
    said = capsys.readouterr()
    parts = read(tmp_path / "e")["models"][0]["parts"]
    assert [part["state"] for part in parts.values()] == ["done", "missing", "done"]
    assert "planted" in parts["corruptions"]["why"] and "planted" in said.out
    page = (tmp_path / "e" / "page.html").read_text()
    assert "not measured, because it ended in ZeroDivisionError: planted." in page
    assert "--votes is 0" in page


def test_runs_that_are_there_are_not_certified_again(made, tmp_path, capsys) -> None:
    run = made / "e" / "digits" / "certified"
    words = "evaluate digits --data digits --parts certified --threads 1 --quiet"
    assert main([*words.split(), "--run", str(run), "--out", str(tmp_path / "e")]) == 0
    found = read(tmp_path / "e")["models"][0]["parts"]["certified"]["found"]["runs"][0]
    assert found["folder"] == str(run)
    assert not (tmp_path / "e" / "digits").exists()
    capsys.readouterr()
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["parameters"]["checkpoint_sha256"] = "0" * 64
    (copy / "manifest.json").write_text(json.dumps(manifest))
    assert main([*words.split(), "--run", str(copy), "--out", str(tmp_path / "f")]) == 2
    assert "another model" in capsys.readouterr().err
    manifest["parameters"]["data_hash"] = "0" * 64
    (copy / "manifest.json").write_text(json.dumps(manifest))
    assert main([*words.split(), "--run", str(copy), "--out", str(tmp_path / "f")]) == 2
    assert "other images" in capsys.readouterr().err
    assert not (tmp_path / "f").exists()


def test_a_run_says_what_its_votes_are_worth(made) -> None:
    found = describe_run(made / "e" / "digits" / "certified", "mine")
    assert found["name"] == "mine"
    assert sum(found["shares"]["images"]) == found["images"] == 3
    bounds = found["brier"]["bounds"]
    assert bounds == sorted(bounds) and bounds[0] > 0 and bounds[-1] <= 1
    assert found["curve"]["shares"][0] == found["certified_accuracy"][0]


def test_anybodys_file_is_described_without_votes(tmp_path) -> None:
    file = tmp_path / "theirs.tsv"
    file.write_text("0\t3\t3\t1.53\t1\t0:00:14\n1\t3\t4\t0.2\t0\t0:00:14\n")
    found = describe_run(file)
    assert "shares" not in found and "does not hold the votes" in found["no_shares"]
    assert found["certified_accuracy"][0] == 0.5


def test_a_report_writes_the_page_of_runs_alone(made, tmp_path, capsys) -> None:
    runs = [made / "e" / name / "certified" for name in ("digits", "again")]
    theirs = tmp_path / "theirs.tsv"
    theirs.write_text("0\t3\t3\t1.53\t1\t0:00:14\n1\t3\t4\t0.2\t0\t0:00:14\n")
    words = ["report", f"a={runs[0]}", f"b={runs[1]}", str(theirs), "--html"]
    assert main([*words, str(tmp_path / "runs.html")]) == 0
    page = (tmp_path / "runs.html").read_text()
    run = describe_run(runs[0])
    rows = cells(page, "certified")
    assert [row[0] for row in rows[1:]] == ["a", "b", "theirs"]
    assert rows[1][2] == percent(run["certified_accuracy"][0])
    assert 'id="brier"' in page and 'id="attacks"' not in page
    assert "theirs: no shares of votes" not in page  # nothing says that it drew noise
    parts = ["report", *(f"all={file}" for file in halves(runs[0], tmp_path)), "--html"]
    assert main([*parts, str(tmp_path / "all.html")]) == 0
    joined = cells((tmp_path / "all.html").read_text(), "certified")
    assert joined[1][1:4] == rows[1][1:4]
    capsys.readouterr()
    for wrong in ("page.txt", "missing/page.html"):
        assert main([*words, str(tmp_path / wrong)]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_the_short_table_calls_unsound_what_no_theorem_supports(made) -> None:
    found = read(made / "e")
    found["models"][1]["parts"]["certified"]["found"]["runs"][0]["sound"] = False
    assert summary_table(found).head == ["", "digits", "again UNSOUND"]
    assert text(found).startswith(" ") and "again UNSOUND" in text(found).splitlines()[0]


def test_no_band_holds_for_radii_that_no_theorem_supports(made) -> None:
    run = read(made / "e")["models"][0]["parts"]["certified"]["found"]["runs"][0]
    for sound in (True, False):
        section = certified_section({"digits": {"runs": [{**run, "sound": sound}]}})
        assert ("the band holds" in section.figures[0].caption) is sound
        assert any("The band" in note for note in section.notes) is sound


def test_the_short_table_of_attacks_alone_has_their_figure(made) -> None:
    found = read(made / "e")
    whole = {row[0]: row[1:] for row in summary_table(found).rows}
    for model in found["models"]:
        model["parts"] = {"attacks": model["parts"]["attacks"]}
    (row,) = summary_table(found).rows
    assert row[0].startswith("right, left by attacks at r = ")
    assert row[1:] == whole[row[0]]


def halves(run: Path, place: Path) -> list[Path]:
    """Split a run's certificates into two files."""
    header, *lines = (run / "certificates.tsv").read_text().splitlines(keepends=True)
    files = [place / "first.tsv", place / "second.tsv"]
    for file, part in zip(files, (lines[:1], lines[1:]), strict=True):
        file.write_text("".join([header, *part]))
    return files


WRONG = {
    "no model": ("evaluate", "name at least one"),
    "unknown part": ("evaluate digits --parts clean,speed", "no evaluation part 'speed'"),
    "ood without data": ("evaluate digits --parts ood", "--ood mnist:DIR"),
    "own data": ("evaluate digits --ood digits", "is the data set itself"),
    "twice": ("evaluate digits --ood npz:{there} --ood npz:{there}", "given twice"),
    "two names": ("evaluate digits digits", "two models are called digits"),
    "one configuration": ("evaluate digits a=digits --model-config x.yaml", "for one model"),
    "no run": ("evaluate digits --run {there}", "no run folder"),
    "no picture": (
        "evaluate {vectors} --data npz:{flat} --sigma 0.25 --parts corruptions",
        "corruptions are made for pictures",
    ),
    "not empty": ("evaluate digits --out {folder}", "and no evaluation"),
    "no attack": ("evaluate digits --attack nosuch", "no attack"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_cannot_be_is_one_sentence(wrong, made, tmp_path, monkeypatch, capsys) -> None:
    import torch

    from deqcert.models import ARCHITECTURES

    monkeypatch.chdir(tmp_path)
    words, said = WRONG[wrong]
    if "{vectors}" in words:
        import dataclasses

        config = dataclasses.replace(
            ARCHITECTURES.get("monotone"),
            image_size=(1, 30),
            input_channels=1,
            mean=(0.0,),
            std=(1.0,),
        )
        torch.save(config.build().state_dict(), "vectors.pth")
        Path("vectors.yaml").write_text(config.to_yaml())
        np.savez("flat.npz", x=np.zeros((4, 1, 1, 30), dtype=np.float32), y=np.arange(4))
    places = {"there": made / "foreign.npz", "folder": made, "vectors": "vectors.pth"}
    before = sorted(tmp_path.iterdir())
    code = main(words.format(flat="flat.npz", **places).split())
    captured = capsys.readouterr()
    assert code == 2 and said in captured.err, captured.err
    assert captured.err.count("\n") == 1 and captured.out == ""
    assert sorted(tmp_path.iterdir()) == before


@needs_chromium
def test_the_page_in_a_browser_at_both_widths_and_in_both_schemes(made) -> None:
    grounds = set()
    for width in ("desktop", "phone"):
        for scheme in ("light", "dark"):
            with opened((made / "e" / "page.html").as_uri(), width, scheme=scheme) as page:
                wide = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
                assert wide[0] <= wide[1], f"{width}: {wide}"
                assert page.locator("section").count() == 9
                drawn = page.locator("figure svg")
                assert drawn.count() >= 7
                for box in [one.bounding_box() for one in drawn.all()]:
                    assert box is not None and box["width"] > 250 and box["height"] > 150
                grounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(grounds) == 2


def test_certifying_by_the_page_is_certifying_by_hand(made, tmp_path) -> None:
    words = (
        "certify --model digits --data digits --images 0:360:120 --n 300 --n0 20 --batch 60 "
        "--threads 1 --quiet"
    )
    assert main([*words.split(), "--out", str(tmp_path / "run")]) == 0
    files = (made / "e" / "digits" / "certified", tmp_path / "run")
    both = [
        [line.split("\t")[:5] for line in (f / "certificates.tsv").read_text().splitlines()]
        for f in files
    ]
    assert both[0] == both[1]
    assert len(load_dataset("digits")) == 360
