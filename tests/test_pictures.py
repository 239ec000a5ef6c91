"""Pictures: what is in the legend can be seen, whatever lies on top of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import colors, image
from matplotlib.figure import Figure
from matplotlib.text import Text

from deqcert.bench import pictures
from deqcert.bench.pictures import draw_bench, draw_solver_bench
from deqcert.bench.solvers import SolverBench, Timing
from deqcert.bench.starts import Bench, Measurement
from deqcert.report import draw_curves, picture, read_results
from deqcert.report.attacks import Attacked, draw_attacks
from deqcert.report.picture import COLOURS, dashes
from deqcert.training import curve

NAN = float("nan")


def run(path: Path, *, step: float = 0.0, sound: bool = True) -> Any:
    lines = ["idx\tlabel\tpredict\tradius\tcorrect\ttime\tsound"]
    lines += [f"{i}\t1\t1\t{i / 40 + step}\t1\t1\t{int(sound)}" for i in range(40)]
    path.write_text("\n".join(lines) + "\n")
    return read_results(path)


def pixels(path: Path, colour: str) -> int:
    """Count the pixels of a colour, anti-aliased ones left out, the lower half (legends) too."""
    seen = image.imread(path)[..., :3]
    seen = seen[: len(seen) // 2]
    return int((np.abs(seen - colors.to_rgb(colour)).max(axis=-1) < 0.02).sum())


def measured(start: str, depth: str, nfe: float, agreement: float) -> Measurement:
    return Measurement(
        solver="anderson",
        start=start,
        depth=depth,
        method="standard",
        baseline=start == "cold",
        nfe=nfe,
        nfe_total=nfe,
        agreement=agreement,
        shift=0.02,
        shift_most=0.1,
        residual=0.01,
        milliseconds=1.0,
        accuracy=0.9,
        silent=0.0,
        certified=(0.9,),
        acr=0.4,
    )


@pytest.mark.parametrize("sound", [True, False])
def test_curves_that_coincide_are_all_seen(tmp_path: Path, sound: bool) -> None:
    # so many runs that the legend is below the curves, out of the half that is counted
    runs = [run(tmp_path / f"{i}.tsv", step=1e-4 * (i % 3), sound=sound) for i in range(5)]
    path = draw_curves(runs, tmp_path / "curves.png")
    seen = [pixels(path, colour) for colour in COLOURS[:5]]
    assert min(seen) > 0.3 * max(seen) > 0


def test_an_unsound_curve_and_a_sound_one_below_it_are_both_seen(tmp_path: Path) -> None:
    runs = [run(tmp_path / f"{i}.tsv", sound=i != 0) for i in range(2)]
    runs += [run(tmp_path / f"{i}.tsv", step=0.3) for i in range(2, 4)]
    path = draw_curves(runs, tmp_path / "curves.png")
    assert min(pixels(path, colour) for colour in COLOURS[:4]) > 100


def test_certified_and_attacked_accuracy_that_coincide_are_both_seen(tmp_path: Path) -> None:
    radius, count = np.linspace(0.1, 1, 40), 40
    yes = np.ones(count, dtype=bool)
    found = Attacked(
        idx=np.arange(count),
        correct=yes,
        certified=yes,
        base_correct=yes,
        radius=radius,
        norm={"pgd": radius + 1e-6},
        base={"pgd": radius},
        lead={"pgd": radius},
        alarms={},
    )
    path = draw_attacks(found, tmp_path / "attacks.png", reach=1.0)
    assert min(pixels(path, colour) for colour in COLOURS[:3]) > 100


def test_dashes_of_a_group_cover_the_line_once_between_them() -> None:
    flat, other = np.full(9, 50.0), np.full(9, 80.0)
    found = dashes([flat, other, flat, None, flat])
    assert found[1] is None
    assert found[3] is None
    covered: list[float] = []
    for style in (found[0], found[2], found[4]):
        assert style is not None
        offset, (dash, gap) = style
        assert gap == 2 * dash
        covered.append(-offset % (dash + gap) / dash)
    assert sorted(covered) == [0, 1, 2]


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Figures that are saved, as they are."""
    kept: list[Figure] = []

    def keep(figure: Figure, path: Path) -> Path:
        kept.append(figure)
        return picture_saved(figure, path)

    picture_saved = picture.save_figure
    monkeypatch.setattr(pictures, "save_figure", keep)
    monkeypatch.setattr(picture, "save_figure", keep)
    return kept


def test_what_has_no_point_has_no_legend(tmp_path: Path, figures: list[Figure]) -> None:
    rows = [measured("cold", str(d), d, 0.8 + 0.02 * d) for d in (1, 2, 4)]
    rows += [measured("previous", str(d), d, 0.8 + 0.02 * d) for d in (1, 2, 4)]
    rows += [measured("mean", "1", NAN, NAN), measured("cold", "tol 0.01", NAN, NAN)]
    rows += [measured("clean", "tol 0.01", 3.0, 0.9)]
    draw_bench(Bench(tuple(rows), (0.0,), {}, 1.0), tmp_path / "bench.png")
    drawn = figures[0].axes[0]
    legend = drawn.get_legend()
    assert legend is not None
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ["cold, anderson", "previous, anderson", "clean, anderson, tol 0.01"]
    for line in drawn.get_lines():
        assert np.isfinite(line.get_xydata()).all()
    # the two that coincide differ in their dashes and in the size of their markers
    assert len({line.get_markersize() for line in drawn.get_lines()[:2]}) == 2
    none = (measured("mean", "1", NAN, NAN),)
    draw_bench(Bench(none, (0.0,), {}, 0.0), tmp_path / "bench.png")
    assert figures[1].axes[0].get_legend() is None


@pytest.mark.parametrize("name", ["_under", "$x", r"$\frac{$", "a$b$", "%s{}"])
def test_any_name_is_shown_as_it_is(
    name: str, tmp_path: Path, figures: list[Figure], recwarn: pytest.WarningsRecorder
) -> None:
    found = run(tmp_path / "a.tsv")
    draw_curves([read_results(tmp_path / "a.tsv", name)], tmp_path / "a.png", title=name)
    assert found
    legend = figures[0].axes[0].get_legend()
    assert legend is not None
    assert len(legend.get_texts()) == 1
    assert not recwarn.list


def timed(solver: str, size: int, ours: float, torchdeq: float, floor: float) -> Timing:
    return Timing(solver, 8, size, 4, 1, ours, torchdeq, NAN, floor, 3.0, 1e9)


def test_solvers_that_cost_the_same_are_all_seen_and_others_have_no_legend(
    tmp_path: Path, figures: list[Figure]
) -> None:
    rows = [timed(name, d, d / 9, NAN, NAN) for name in ("one", "two") for d in (8, 64, 512)]
    rows += [timed("three", d, NAN, d / 9, NAN) for d in (8, 64, 512)]
    rows += [timed("lost", d, NAN, NAN, NAN) for d in (8, 64)]  # nothing was measured
    rows += [timed("once", 8, 1.0, 1.0, 1.0)]  # no curve
    rows += [timed("below", d, -1.0, 0.0, NAN) for d in (8, 64)]  # no place on a logarithmic axis
    path = draw_solver_bench([SolverBench(tuple(rows))], tmp_path / "solvers.png")
    (legend,) = figures[0].legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ["one", "two", "three", "ours", "torchdeq"]
    (panel,) = figures[0].axes
    assert len(panel.get_lines()) == 3
    assert min(pixels(path, colour) for colour in COLOURS[:3]) > 100
    nothing = SolverBench((timed("once", 8, 1.0, 1.0, 1.0),))
    draw_solver_bench([nothing], tmp_path / "solvers.png")
    assert not figures[1].legends


def entry(epoch: float, loss: float, **more: float) -> dict[str, float]:
    return {"epoch": epoch, "loss": loss, "unrolled": 0.0, **more}


def test_loss_and_accuracy_of_a_training_are_both_seen_however_few(tmp_path: Path) -> None:
    """One entry, entries without a look, and a loss that has the course of the accuracy."""
    alike = [entry(i, i / 9, noisy_accuracy=i / 9) for i in range(10)]
    few = [entry(1.0, 0.5, noisy_accuracy=0.9)]
    lost = [entry(1.0, NAN), entry(2.0, 0.5), entry(3.0, 0.5, noisy_accuracy=0.5)]
    for number, rows in enumerate((alike, few, lost)):
        path = tmp_path / f"{number}.png"
        curve.draw(path, rows)
        seen = image.imread(path)[..., :3]
        for colour in COLOURS[:2]:
            assert (np.abs(seen - colors.to_rgb(colour)).max(axis=-1) < 0.02).sum() > 10


def test_pictures_can_be_read_400_pixels_wide(tmp_path: Path, figures: list[Figure]) -> None:
    """Letters of 8 points in a picture of 6.8 inches are then 6.5 pixels high; less is a blur."""
    rows = [timed(name, d, d / 9, d / 8, d / 7) for name in ("one", "two") for d in (8, 64)]
    draw_solver_bench([SolverBench(tuple(rows))], tmp_path / "solvers.png")
    draw_bench(Bench((measured("cold", "1", 1.0, 0.9),), (0.0,), {}, 1.0), tmp_path / "bench.png")
    assert len(figures) == 2
    for figure in figures:
        width = figure.get_size_inches()[0]
        texts = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
        assert len(texts) > 3
        assert min(text.get_fontsize() for text in texts) / 72 * 400 / width > 6.5
