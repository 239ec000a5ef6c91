"""A watch of a service's record: certificates on record, labels that come later."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deqcert.cli import main
from deqcert.errors import ConfigError, RunError
from deqcert.serve.alarms import claim_alarms, read_alarms
from deqcert.serve.labels import Label
from deqcert.serve.records import Record, Records
from deqcert.watch import Observation, Watch, make_reference, open_source, reference_of

ABOUT = {"checkpoint_sha256": "0" * 64, "evaluation": {"sigma": 0.25}, "settings": {}}
ASKED = {"n0": 10, "n": 100, "alpha": 0.001, "goal": "budget", "deadline": None}


def give(
    folder: Path,
    seed: int,
    count: int,
    abstain: float,
    *,
    asked: dict[str, Any] = ASKED,
    fitted: str | None = None,
    **changed: Any,
) -> list[str]:
    """Put answers on record; return their ids."""
    draw, ids = np.random.default_rng(seed), []
    records = Records(folder, ABOUT | changed)
    try:
        for _ in range(count):
            silent = bool(draw.random() < abstain)
            answer = {
                "class": None if silent else 1,
                "radius": 0.0 if silent else 0.5,
                "clean": {"class": 1},
                "votes": [1, 99],
                "n": 100,
                "p_lower": 0.9,
                "alpha": 0.001,
                "sigma": 0.25,
                "changed": fitted,
            }
            pixels = draw.random((1, 2, 2), dtype=np.float32)
            ids.append(records.add(Record("certify", pixels, 7, asked, answer)).id)
            records.add(Record("predict", pixels, None, {}, {"class": 1}))
    finally:
        records.close()
    return ids


def test_a_service_is_watched_from_where_its_reference_ends(tmp_path: Path) -> None:
    service = tmp_path / "service"
    service.mkdir()
    labels = tmp_path / "labels.tsv"
    known = give(service, 0, 120, 0.05)
    labels.write_text("".join(f"{id}\t1\n" for id in known))
    reference = reference_of(open_source(service, labels), 0.25, clean=False)
    assert reference.events["error"] == (0, 120)
    assert reference.events["abstention"][1] == 120

    later = give(service, 1, 60, 0.9)
    with labels.open("a") as file:  # in another order, one twice, one of nobody's
        file.write("".join(f"{id}\t2\n" for id in [*reversed(later), later[0], "nobody"]))
    for _ in range(2):  # the second time there is nothing new
        with Watch(reference, open_source(service, labels), tmp_path / "state") as watch:
            watch.go_on()
            rows = {row["alarm"]: row for row in watch.rows()}
    assert watch.state.answers == 60
    assert rows["abstention"]["answers"] == rows["error"]["answers"] == 60
    assert rows["abstention"]["standing"]
    text = next((tmp_path / "state" / "incidents").glob("abstention*")).read_text()
    assert "deqcert replay " in text


def test_what_is_not_like_the_reference_is_passed_over_and_counted(tmp_path: Path) -> None:
    parameters = {"checkpoint_sha256": "0" * 64, "sigma": 0.25, "method": "independent"}
    parameters |= {"n0": 10, "n": 100, "alpha": 0.001}  # of a run, which names no goal
    seen = [Observation(key=str(i), predict=1, radius=0.5) for i in range(120)]
    reference = make_reference(seen, parameters, 0.25)
    labels = tmp_path / "labels"
    other = give(tmp_path, 0, 3, 0.0, asked=ASKED | {"n": 50})
    other += give(tmp_path, 1, 4, 0.0, fitted="scaled from 9 x 9 to 2 x 2 pixels")
    labels.write_text("".join(f"{id}\t1\n" for id in other))
    for count in (5, 10):  # each answer once, however often one looks
        give(tmp_path, 2, 5, 0.0)
        source = open_source(tmp_path, labels, reference.parameters)
        with Watch(reference, source, tmp_path / "state") as watch:
            watch.go_on()
        assert (watch.state.answers, watch.skipped) == (count, 7)
        assert not list(source.labelled())


def test_the_service_hands_on_what_the_watch_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service, file = tmp_path / "service", tmp_path / "reference.json"
    service.mkdir()
    give(service, 0, 120, 0.05)
    reference_of(open_source(service), 0.25, clean=False).write(file)
    given = ["watch", str(service), "--reference", str(file), "--quiet", "--json"]
    for count, abstain, code in ((40, 0.05, 0), (60, 0.9, 1)):
        give(service, code + 1, count, abstain)
        assert main(given) == code
        told = read_alarms(service)
        assert told["watched"]
        assert told["state"]["sentence"].startswith(("No alarm was raised.", "An alarm")[code])
        shown = json.loads(capsys.readouterr().out)
        assert {k: v for k, v in told["state"].items() if k in shown} == {
            k: v for k, v in shown.items() if k != "new"
        }
    give(service, 3, 400, 0.0)
    assert main(given) == 0
    assert "some were before (abstention" in read_alarms(service)["state"]["sentence"]
    # A second watch would overwrite what the page shows of the first.
    before = read_alarms(service)
    capsys.readouterr()
    second = [*given, "--state", str(tmp_path / "second")]
    assert main(second) == 2
    assert "is watched with another --state" in capsys.readouterr().err
    assert read_alarms(service) == before
    (service / "alarms.json").unlink()
    assert main(second) in (0, 1)
    with claim_alarms(service, read_alarms(service)["state"]["watch"]):
        assert main(second) == 2
    assert "another process watches" in capsys.readouterr().err


def test_what_clients_tell_the_service_counts_without_a_file(tmp_path: Path) -> None:
    def tell(ids: list[str], label: int) -> None:
        records = Records(tmp_path, ABOUT)
        for id in ids:
            records.tell(Label(id, label))
        records.close()

    tell(give(tmp_path, 0, 120, 0.0), 1)
    reference = reference_of(open_source(tmp_path), 0.25, clean=False)
    assert reference.events["error"] == (0, 120)
    later = give(tmp_path, 1, 60, 0.0)
    for count, part in ((30, later[30:]), (60, later)):  # those that were told before stay
        tell(part, 2)
        source = open_source(tmp_path, like=reference.parameters)
        with Watch(reference, source, tmp_path / "state") as watch:
            watch.go_on()
        (row,) = (row for row in watch.rows() if row["alarm"] == "error")
        assert (row["answers"], row["mean"], row["standing"]) == (count, 1.0, True)
    assert watch.state.answers == 60


def test_another_model_behind_the_same_record_is_refused(tmp_path: Path) -> None:
    give(tmp_path, 0, 3, 0.0)
    give(tmp_path, 1, 3, 0.0, checkpoint_sha256="1" * 64)
    with pytest.raises(ConfigError, match="another model"):
        list(open_source(tmp_path).observations())


def test_labels_of_runs_and_damaged_labels_are_one_sentence(tmp_path: Path) -> None:
    give(tmp_path, 0, 1, 0.0)
    (tmp_path / "labels").write_text("what\n")
    with pytest.raises(RunError, match="line 1"):
        list(open_source(tmp_path, tmp_path / "labels").labelled())
    with pytest.raises(ConfigError, match="leave --labels out"):
        open_source(tmp_path / "elsewhere", tmp_path / "labels")
