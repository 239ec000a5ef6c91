"""Safety cases: what they claim is what the runs show, and one byte that changed is found."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from contextlib import chdir
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from browser import WIDTHS, needs_chromium, opened
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import deqcert
from deqcert.cli import main
from deqcert.docstrings import guarantee
from deqcert.errors import ConfigError, RunError
from deqcert.models import MonotoneConfig
from deqcert.runs import Manifest
from deqcert.safety_case import verify_case, write_case
from deqcert.safety_case.checksums import NAME, write_sums
from deqcert.safety_case.kinds.watched import chain
from deqcert.safety_case.measures import ITEMS
from deqcert.safety_case.run_folder import sha256_of

ZOO_RECORD = Path(deqcert.__file__).parent / "zoo" / "digits.json"

COMMANDS = {
    "certified": "certify --images 0:4 --n 200 --sigma 0.25",
    "attacked": "attack certified --attack square:steps=2 --images 1:3 --n 200 --search 20",
    "held": "conformal calibrate --images 0:40 --sigma 0.25",
    "sets": "conformal sets held --images 40:60 --radius 0.1 --attack smoothadv-pgd:steps=1",
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of each kind, and the case that they make."""
    folder = tmp_path_factory.mktemp("runs")
    with chdir(folder):
        for name, command in COMMANDS.items():
            assert main([*command.split(), "--out", name, "--quiet"]) == 0
        assert main(["safety-case", *COMMANDS, "--out", "case", "--license", "mit"]) == 0
    return folder


@pytest.fixture
def case(runs: Path, tmp_path: Path) -> Path:
    """A copy of the case that a test may spoil."""
    return Path(shutil.copytree(runs / "case", tmp_path / "case"))


def content(case: Path) -> dict:
    return json.loads((case / "case.json").read_text())


def figures(case: Path) -> list[list[dict]]:
    return [claim["figures"] for claim in content(case)["claims"]]


def change(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def refused(*arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main([*arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("deqcert: ")
    assert said.count("\n") == 1
    return said


def test_a_case_verifies_here_and_by_sha256sum_and_elsewhere(case, capsys):
    assert main(["safety-case", "--verify", str(case)]) == 0
    found = verify_case(case)
    assert found.faults == ()
    assert f"{found.claims} claims" in (said := capsys.readouterr().out)
    assert found.sha256 in said
    if tool := shutil.which("sha256sum"):
        subprocess.run([tool, "--check", "--strict", "--quiet", NAME], cwd=case, check=True)


def every_byte(case: Path) -> list[tuple[Path, int]]:
    files = sorted(path for path in case.rglob("*") if path.is_file())
    return [(path, path.stat().st_size) for path in files]


@pytest.mark.parametrize(("forged", "examples"), [(False, 150), (True, 40)])
def test_one_bit_that_changed_in_any_file_at_any_place_fails(case, forged, examples):
    """Forged: even where the checksums were made anew."""
    chosen = [(path, size) for path, size in every_byte(case) if not forged or path.name != NAME]
    assert len(chosen) > 20
    sums = (case / NAME).read_bytes()

    def flip(path: Path, place: int, bit: int) -> None:
        before = path.read_bytes()
        spoilt = bytearray(before)
        spoilt[place % len(before)] ^= 1 << bit
        path.write_bytes(spoilt)
        try:
            if forged:
                write_sums(case)
            faults = verify_case(case).faults
        except RunError:  # of another version, or no case at all
            faults = ("refused",)
        finally:
            path.write_bytes(before)
            (case / NAME).write_bytes(sums)
        assert faults
        if not forged and path.name != NAME:
            assert [fault.split(" ")[0] for fault in faults] == [path.relative_to(case).as_posix()]

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(st.sampled_from(chosen), st.integers(0, 10**9), st.integers(0, 7))
    def anywhere(one: tuple[Path, int], place: int, bit: int) -> None:
        flip(one[0], place, bit)

    anywhere()
    for path, _ in chosen:  # and in each of them once for certain
        flip(path, 7, 0)
    assert verify_case(case).faults == ()


@pytest.mark.parametrize("how", ["more", "less", "cut", "linked"])
def test_a_file_more_or_less_or_shorter_fails(case, how):
    file = case / "artefacts" / "certified" / "curve.png"
    if how == "more":
        (case / "artefacts" / "new").write_text("x")
    elif how == "less":
        file.unlink()
    elif how == "cut":
        file.write_bytes(file.read_bytes()[:-1])
    else:
        shutil.move(file, case.parent / "elsewhere")
        file.symlink_to(case.parent / "elsewhere")
    assert len(verify_case(case).faults) == 1
    assert main(["safety-case", "--verify", str(case)]) == 1


def test_a_figure_that_was_changed_with_its_checksum_is_found_all_the_same(case):
    acr = next(f for claim in figures(case) for f in claim if f["name"] == "ACR (l2)")
    change(case / "case.json", str(acr["value"]), "2.5")
    write_sums(case)
    (first, *more) = verify_case(case).faults
    assert f"ACR (l2) is {acr['value']} by the artefact and 2.5 in the case" in first
    assert any("case.json is not what follows" in fault for fault in more)


@pytest.mark.parametrize("document", ["index.html", "safety_case.md", "model_card.md"])
def test_a_document_that_was_changed_with_its_checksum_is_found(case, document):
    shown = next(f for claim in figures(case) for f in claim if f["name"] == "ACR (l2)")["shown"]
    change(case / document, shown, "9.876")
    write_sums(case)
    assert verify_case(case).faults == (f"{document} is not what follows from the artefacts",)


def test_a_journal_that_was_changed_with_its_checksum_contradicts_its_summary(case):
    journal = case / "artefacts" / "certified" / "certificates.tsv"
    header, first, *others = journal.read_text().splitlines()
    cells = first.split("\t")
    cells[header.split("\t").index("radius")] = "0.900000"
    journal.write_text("\n".join([header, "\t".join(cells), *others]) + "\n")
    write_sums(case)
    assert re.search("acr in summary.json is not what the journal gives|certified_accuracy in",
                     " ".join(verify_case(case).faults))  # fmt: skip


def test_limits_that_were_left_out_are_missed(case):
    change(case / "not_claimed.md", "- **Other norms.**", "- **Norms.**")
    write_sums(case)
    faults = verify_case(case).faults
    assert "not_claimed.md is not what follows from the artefacts" in faults
    assert any("(MEASURE 1.1, not_claimed.md)" in fault for fault in faults)


def test_claims_are_what_report_says(runs, capsys):
    assert main(["report", str(runs / "certified"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    row = told["runs"][0]
    claimed = next(c for c in content(runs / "case")["claims"] if c["item"] == "MEASURE 2.7")
    assert claimed["run"] == "certified"
    values = [figure["value"] for figure in claimed["figures"]]
    assert values == [*row["certified_accuracy"], row["acr"]]
    names = [figure["name"] for figure in claimed["figures"]]
    assert names[:-1] == [f"certified accuracy at r = {r:g} (l2)" for r in told["radii"]]


def test_claims_of_sets_and_attacks_are_those_of_their_summaries(runs):
    claims = content(runs / "case")["claims"]
    sets = json.loads((runs / "sets" / "summary.json").read_text())
    covered = [
        figure["value"]
        for claim in claims
        for figure in claim["figures"]
        if figure["name"].startswith("coverage found")
    ]
    assert covered == [row["coverage"] for row in sets["rows"]]
    attacks = json.loads((runs / "attacked" / "summary.json").read_text())
    left = next(row for row in attacks["rows"] if row["name"] == "all attacks")
    claimed = next(c for c in claims if c["item"] == "MEASURE 2.7" and c["run"] == "attacked")
    assert [figure["value"] for figure in claimed["figures"]] == left["accuracy"]


def test_statements_are_the_methods_own_with_the_runs_numbers(runs):
    from deqcert.certifiers import CERTIFIERS

    claim = next(c for c in content(runs / "case")["claims"] if c["item"] == "MEASURE 2.7")
    assert claim["ground"] == "guarantee"
    assert guarantee(CERTIFIERS.get("standard").__doc__) in claim["statement"]
    assert "at most 0.004 wrong certificates are to be expected among 4" in claim["statement"]
    stated = json.loads((runs / "certified" / "manifest.json").read_text())["notes"]["assumptions"]
    assert stated in claim["statement"]


def test_every_command_makes_its_evidence_again(case):
    commands = {c["run"]: c["command"] for c in content(case)["claims"] if c["run"] is not None}
    assert set(commands) == set(COMMANDS)
    with chdir(case):
        for command in commands.values():
            program, *arguments = shlex.split(command)
            assert program == "deqcert"
            assert main(arguments) == 0
    again = [case.parent / "again" / name for name in COMMANDS]
    write_case(again, case.parent / "second", "mit")
    assert figures(case.parent / "second") == figures(case)
    assert verify_case(case).faults == ()


def test_every_item_has_evidence_or_the_command_that_would_make_it(runs):
    text = (runs / "case" / "safety_case.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| **M")]
    without = content(runs / "case")["no_evidence"]
    assert {re.match(r"\| \*\*(.+?)\*\*", row)[1] for row in rows} == {i.name for i in ITEMS}
    for row in rows:
        assert ("no evidence given" in row) == any(f"**{name}**" in row for name in without)


def test_commands_for_missing_evidence_exist():
    import click

    from deqcert.cli import group

    for item in ITEMS:
        if item.wanting:
            command, context = group, click.Context(group)
            words = shlex.split(item.wanting)[1:]
            while isinstance(command, click.Group):
                command = command.get_command(context, words.pop(0))
            known = {name for parameter in command.params for name in parameter.opts}
            assert {word for word in words if word.startswith("--")} <= known


def files(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def test_the_same_runs_give_the_same_bytes(runs, tmp_path, monkeypatch):
    with chdir(runs):
        write_case([*COMMANDS], tmp_path / "again", "mit")
    assert files(tmp_path / "again") == files(runs / "case")
    assert "timestamp" not in (runs / "case" / "bom.cdx.json").read_text()
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    write_case([runs / "certified"], tmp_path / "dated")
    bill = (tmp_path / "dated" / "bom.cdx.json").read_text()
    assert '"timestamp": "2023-11-14T22:13:20+00:00"' in bill
    assert "2023-11-14 22:13 UTC" in (tmp_path / "dated" / "safety_case.md").read_text()
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    assert verify_case(tmp_path / "dated").faults == ()
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "now")
    with pytest.raises(ConfigError, match="seconds since 1970"):
        write_case([runs / "certified"], tmp_path / "never")


def test_the_bill_of_materials_is_valid_and_names_model_data_and_dependencies(runs):
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = (runs / "case" / "bom.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bill = json.loads(text)
    manifest = json.loads((runs / "certified" / "manifest.json").read_text())["parameters"]
    model = bill["metadata"]["component"]
    assert model["type"] == "machine-learning-model"
    assert model["hashes"] == [{"alg": "SHA-256", "content": manifest["checkpoint_sha256"]}]
    parts = {part["name"]: part for part in bill["components"]}
    assert {"deqcert", "torch", "numpy", "scipy", "digits (test)"} <= set(parts)
    assert parts["digits (test)"]["type"] == "data"
    needs = {entry["ref"]: entry.get("dependsOn", []) for entry in bill["dependencies"]}
    assert "pypi:torch" in needs["pypi:deqcert"]


def test_the_model_card_has_the_head_that_hubs_read(runs):
    text = (runs / "case" / "model_card.md").read_text()
    _, head, _ = text.split("---\n", 2)
    read = yaml.safe_load(head)
    assert read["license"] == "mit"
    assert read["datasets"] == ["digits"]
    (model,) = read["model-index"]
    (result,) = model["results"]
    assert result["task"]["type"] == "image-classification"
    summary = json.loads((runs / "certified" / "summary.json").read_text())
    assert result["metrics"][-1]["value"] == summary["acr"]


@needs_chromium
@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_opens_without_a_word_and_fits(runs, width):
    with opened((runs / "case" / "index.html").as_uri(), width, scheme="dark") as page:
        assert page.title() == "Safety case: digits"
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= WIDTHS[width][0]
        assert page.locator("article").count() == len(content(runs / "case")["claims"]) + len(
            content(runs / "case")["no_evidence"]
        )
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background != "rgb(255, 255, 255)"


@pytest.fixture
def certified(runs: Path, tmp_path: Path) -> Path:
    """A copy of the run of certificates that a test may spoil."""
    return Path(shutil.copytree(runs / "certified", tmp_path / "certified"))


def test_what_strangers_wrote_into_a_manifest_stays_text(certified, tmp_path):
    evil = "<script>alert(1)</script> | `x` \ud800"
    manifest = json.loads((certified / "manifest.json").read_text())
    manifest["notes"] |= {"classifier": evil, "assumptions": evil, "model": f"{evil}.pth"}
    manifest["parameters"]["model_config"] = {evil: evil}
    (certified / "manifest.json").write_text(json.dumps(manifest))
    write_case([certified], tmp_path / "case")
    assert verify_case(tmp_path / "case").faults == ()
    for name in ("index.html", "safety_case.md", "model_card.md"):
        body = (tmp_path / "case" / name).read_text().rpartition("---\n")[2]
        assert "<script>" not in body


@pytest.mark.parametrize(
    "forged",
    [{"parameters": {"alpha": "x"}}, {"parameters": {"data": ["x"]}}, {"count": "x", "images": ""}],
)
def test_a_forged_manifest_is_one_sentence(certified, tmp_path, forged, capsys):
    manifest = json.loads((certified / "manifest.json").read_text())
    for key, value in forged.items():
        manifest[key] = {**manifest[key], **value} if isinstance(value, dict) else value
    (certified / "manifest.json").write_text(json.dumps(manifest))
    code = main(["safety-case", str(certified), "--out", str(tmp_path / "case")])
    assert code in (0, 2)
    if code == 0:
        assert verify_case(tmp_path / "case").faults == ()


def test_a_run_of_an_unknown_kind_is_kept_without_a_claim(runs, certified, tmp_path):
    (certified / "certificates.tsv").rename(certified / "results.tsv")
    case = write_case([runs / "held", certified], tmp_path / "case")
    assert not [claim for claim in case.claims if claim.run == "certified"]
    assert "an artefact without a claim" in (tmp_path / "case" / "safety_case.md").read_text()
    assert (tmp_path / "case" / "artefacts" / "certified" / "results.tsv").exists()
    assert verify_case(tmp_path / "case").faults == ()


def test_runs_of_one_name_are_kept_apart(runs, certified, tmp_path):
    case = write_case([runs / "certified", certified], tmp_path / "case")
    assert [run.name for run in case.runs] == ["certified", "certified-2"]


def test_a_case_of_attacks_alone_says_that_the_certificates_are_not_there(runs, tmp_path):
    case = write_case([runs / "attacked"], tmp_path / "case")
    assert any("certificates not in this case" in claim.title for claim in case.claims)


def test_an_unfinished_run_is_refused(certified, tmp_path, capsys):
    out = str(tmp_path / "case")
    (certified / "summary.json").unlink()
    assert "is not finished" in refused("safety-case", str(certified), "--out", out, capsys=capsys)
    journal = certified / "certificates.tsv"
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:-1]))
    said = refused("safety-case", str(certified), "--out", out, capsys=capsys)
    assert "3 of 4 images are done" in said
    (certified / "seed.secret").write_text("1\n")
    said = refused("safety-case", str(certified), "--out", out, capsys=capsys)
    assert "its seed is still a secret" in said
    assert not Path(out).exists()


def test_runs_of_different_models_are_refused(runs, certified, tmp_path, capsys):
    manifest = Manifest.read(certified)
    digest = manifest.parameters["checkpoint_sha256"]
    change(certified / "manifest.json", digest, "0" * 64)
    out = str(tmp_path / "case")
    held = str(runs / "held")
    said = refused("safety-case", held, str(certified), "--out", out, capsys=capsys)
    assert "are of different models" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--out", "case"], "no run is given"),
        (["certified"], "no folder is given"),
        (["certified", "--out", "held"], "is not empty"),
        (["certified", "--out", "certified/manifest.json"], "is a file"),
        (["nosuch", "--out", "new"], "there is no nosuch"),
        (["certified/certificates.tsv", "--out", "new"], "is no record of a training"),
        (["hollow", "--out", "new"], "is no run folder"),
        (["certified", "--verify", "case"], "leave RUN"),
        (["--verify", "certified"], "no whole safety case"),
        (["--verify", "nosuch"], "is no folder"),
    ],
)
def test_what_cannot_be_is_one_sentence(runs, arguments, said, capsys):
    (runs / "hollow").mkdir(exist_ok=True)
    with chdir(runs):
        assert said in refused("safety-case", *arguments, capsys=capsys)
    assert not (runs / "new").exists()


def test_a_case_of_another_version_is_sent_to_that_version(case, capsys):
    change(case / "case.json", '"deqcert": "', '"deqcert": "9.')
    write_sums(case)
    said = refused("safety-case", "--verify", str(case), capsys=capsys)
    assert "verify it with the version that made it" in said


def test_a_link_in_a_run_is_not_followed(certified, tmp_path):
    os.symlink("/etc/hostname", certified / "more.txt")
    with pytest.raises(RunError, match="no regular file"):
        write_case([certified], tmp_path / "case")
    assert not (tmp_path / "case").exists()


def test_a_missing_library_is_one_sentence(runs, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cyclonedx.model.bom", None)
    with pytest.raises(ConfigError, match=r"pip install 'deqcert\[safety-case\]'"):
        write_case([runs / "certified"], tmp_path / "case")
    assert not (tmp_path / "case").exists()


def edit(file: Path, **changes: dict) -> None:
    """Change values of a manifest, section by section."""
    found = json.loads(file.read_text())
    for section, values in changes.items():
        found[section] |= values
    file.write_text(json.dumps(found))


def test_a_run_that_voted_for_a_changed_model_stands_beside_it(runs, certified, tmp_path):
    """The manifest of deqcert recertify names the run that voted by its certificates."""
    parent = {"certificates_sha256": sha256_of(runs / "certified" / "certificates.tsv")}
    changed = {"checkpoint_sha256": "1" * 64, "parent": parent, "method": "recertified"}
    edit(certified / "manifest.json", parameters=changed)
    journal = (certified / "certificates.tsv").read_text()
    (certified / "certificates.tsv").write_text(re.sub(r"0:00:0\d", "0:00:09", journal))
    changed_run = Path(shutil.move(certified, tmp_path / "changed"))
    case = write_case([runs / "certified", changed_run], tmp_path / "case")
    assert case.subject == ("checkpoint", "1" * 64)
    assert {claim.run for claim in case.claims} == {None, "changed"}
    command = next(claim.command for claim in case.claims if claim.item == "MEASURE 2.7")
    assert command.startswith("deqcert recertify artefacts/certified --method recertified")
    assert "of another model" in (tmp_path / "case" / "safety_case.md").read_text()
    assert verify_case(tmp_path / "case").faults == ()


@pytest.fixture
def evaluation(runs: Path, tmp_path: Path) -> Path:
    """A folder as deqcert evaluate writes it, with two runs inside."""
    folder = tmp_path / "evaluation"
    for name in ("certified", "attacked"):
        shutil.copytree(runs / name, folder / "digits" / name)
    digest = Manifest.read(runs / "certified").parameters["checkpoint_sha256"]
    about = {
        "evaluation": {"digits": {"checkpoint_sha256": digest}},
        "data": "digits",
        "data_hash": "0",
    }
    Manifest(about, tuple(range(10))).write(folder)
    summary = json.loads((runs / "certified" / "summary.json").read_text())
    found = {
        "clean": {
            "images": 10,
            "correct": 9,
            "accuracy": 0.9,
            "interval": [0.55, 1.0],
            "solve": "as certified",
        },
        "certified": {"runs": [summary]},
        "corruptions": {
            "images": 10,
            "severities": [1, 2],
            "clean": 0.9,
            "rows": [
                {"name": "fog", "accuracy": [0.8, 0.6], "mean": 0.7},
                {"name": "blur", "accuracy": [0.9, 0.8], "mean": 0.85},
            ],
            "mean": 0.775,
        },
        "ood": {
            "sets": [
                {
                    "name": "mnist",
                    "images": 5,
                    "own": 10,
                    "rows": [{"score": "energy", "auroc": 0.8, "fpr95": 0.4}],
                }
            ]
        },
    }
    parts = {name: {"state": "done", "found": one} for name, one in found.items()}
    parts["calibration"] = {"state": "missing", "why": "too few images."}
    whole = {
        "format": "deqcert-evaluation",
        "data": {"images": 10},
        "models": [{"name": "digits", "parts": parts}],
        "commands": {"all": "deqcert evaluate digits --data digits --out runs/x"},
        "summary": [],
    }
    (folder / "evaluation.json").write_text(json.dumps(whole))
    return folder


def test_an_evaluation_and_the_runs_inside_of_it_are_evidence(evaluation, tmp_path):
    case = write_case([evaluation], tmp_path / "case")
    assert verify_case(tmp_path / "case").faults == ()
    assert [run.name for run in case.runs] == [
        "evaluation",
        "evaluation/digits/attacked",
        "evaluation/digits/certified",
    ]
    mine = {claim.item: claim for claim in case.claims if claim.run == "evaluation"}
    assert [figure.value for figure in mine["MEASURE 2.3"].figures] == [0.9, 0.55, 1.0, 10]
    assert [figure.value for figure in mine["MEASURE 2.5"].figures] == [0.9, 0.775, 0.7]
    assert [figure.value for figure in mine["MEASURE 2.6"].figures] == [0.8, 0.4]
    assert mine["MEASURE 2.3"].command.endswith("--out ../again/evaluation")
    broken = next(claim for claim in case.claims if claim.item == "MEASURE 2.13")
    assert broken.title == "attacks contradict none of the certificates of " + (
        "evaluation/digits/certified"
    )


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"correct": 9', '"correct": 8', "the accuracy of digits"),
        ('"mean": 0.775', '"mean": 0.95', "on corrupted images"),
        ('"acr": ', '"acr": 9', "what is certified of digits"),
        (', "summary": []', "", "is not finished"),
        ('"accuracy": 0.9', '"accurate": 0.9', "no run would have written"),
    ],
)
def test_an_evaluation_that_contradicts_itself_is_refused(
    evaluation, tmp_path, old, new, said, capsys
):
    change(evaluation / "evaluation.json", old, new)
    out = str(tmp_path / "case")
    assert said in refused("safety-case", str(evaluation), "--out", out, capsys=capsys)


def test_an_evaluation_of_several_models_needs_a_run_of_one(evaluation, runs, tmp_path):
    path = evaluation / "manifest.json"
    models = json.loads(path.read_text())["parameters"]["evaluation"]
    models["other"] = {"checkpoint_sha256": "2" * 64}
    edit(path, parameters={"evaluation": models})
    with pytest.raises(ConfigError, match="of several models"):
        write_case([evaluation], tmp_path / "never")
    case = write_case([evaluation, runs / "certified"], tmp_path / "case")
    assert case.subject == ("checkpoint", models["digits"]["checkpoint_sha256"])


@pytest.fixture
def watch(runs: Path, tmp_path: Path) -> Path:
    """A folder as deqcert watch writes it, of the first three answers of a run."""
    folder = tmp_path / "watch"
    (folder / "incidents").mkdir(parents=True)
    (folder / "incidents" / "radius-1.json").write_text("{}")
    alarm = {"tolerated": 0.1, "count": 3, "total": 0.0, "raised": None, "standing": False}
    raised = {**alarm, "total": 2.0, "raised": 3, "standing": True}
    state = {
        "format": "deqcert-watch",
        "about": {
            "reference": "3" * 64,
            "delta": 0.01,
            "drift_budget": 0.0,
            "alarms": ["abstention", "radius"],
        },
        "position": {"certified": [3, chain(runs / "certified", 3)]},
        "answers": 3,
        "alarms": {
            "abstention": {**alarm, "incidents": []},
            "radius": {**raised, "incidents": ["radius-1.json"]},
        },
    }
    (folder / "state.json").write_text(json.dumps(state))
    return folder


def test_a_watch_is_evidence_of_the_very_answers_that_it_read(watch, runs, tmp_path):
    case = write_case([watch, runs / "certified"], tmp_path / "case")
    assert verify_case(tmp_path / "case").faults == ()
    assert not {"MEASURE 2.4", "MEASURE 3.1"} & set(case.content()["no_evidence"])
    claim = next(claim for claim in case.claims if claim.item == "MEASURE 2.4")
    figures = {figure.name: figure.value for figure in claim.figures}
    assert figures["alarms that were raised"] == 1
    assert figures["radius: mean"] == 2.0 / 3
    assert claim.title == "answers are watched, and ALARMS WERE RAISED"
    assert "3 images of certified" in claim.statement
    assert "With probability at least 0.99" in claim.statement
    assert "watch artefacts/certified --reference REFERENCE --delta 0.01" in claim.command
    alone = write_case([watch], tmp_path / "alone")
    claim = next(claim for claim in alone.claims if claim.item == "MEASURE 2.4")
    assert "3 images of certified, which is not in this case" in claim.statement


def test_an_incident_that_was_taken_away_is_missed(watch, tmp_path):
    (watch / "incidents" / "radius-1.json").unlink()
    with pytest.raises(RunError, match=r"the incident radius-1\.json of alarm radius is not there"):
        write_case([watch], tmp_path / "case")


def test_the_record_of_a_training_tells_how_and_on_what(runs, certified, tmp_path):
    case = write_case([runs / "certified", "digits"], tmp_path / "case")
    assert verify_case(tmp_path / "case").faults == ()
    record = json.loads(ZOO_RECORD.read_text())
    claim = next(claim for claim in case.claims if claim.run == "digits")
    assert (claim.item, claim.command) == ("MAP 4.1", record["command"])
    assert record["data_sha256"]["train"] in (tmp_path / "case" / "model_card.md").read_text()
    assert "digits (train)" in (tmp_path / "case" / "bom.cdx.json").read_text()
    assert not [heading for heading, _ in case.limits if heading == "NEW IMAGES"]
    edit(
        certified / "manifest.json",
        parameters={"data_hash": record["data_sha256"]["train"], "split": "train"},
    )
    learned = write_case([certified, ZOO_RECORD], tmp_path / "learned")
    assert learned.limits[0][0] == "NEW IMAGES"
    pruned = tmp_path / "pruned.json"  # as deqcert prune writes it
    told = {"how": "channels removed", "sparsity": 0.2, "parent_sha256": "5" * 64}
    pruned.write_text(json.dumps({"checkpoint_sha256": record["checkpoint_sha256"], **told}))
    write_case([certified, pruned], tmp_path / "changed")
    assert (
        "| changed by | channels removed |" in (tmp_path / "changed" / "model_card.md").read_text()
    )
    record["checkpoint_sha256"] = "4" * 64
    (tmp_path / "other.json").write_text(json.dumps(record))
    with pytest.raises(ConfigError, match="of different models"):
        write_case([runs / "certified", tmp_path / "other.json"], tmp_path / "never")


def test_radii_without_a_theorem_are_never_a_guarantee(tmp_path):
    unsound = "--method serialized-released --start previous --steps 1 --audit 50 --n 200"
    run = tmp_path / "unsound"
    assert main(f"certify --images 0:1 --sigma 0.25 {unsound} --out {run} --quiet".split()) == 0
    case = write_case([run], tmp_path / "case")
    claims = [claim for claim in case.claims if claim.run is not None]
    assert {claim.ground for claim in claims} == {"document", "measurement"}
    (claim,) = (claim for claim in claims if claim.ground == "measurement")
    assert claim.title.startswith("UNSOUND")
    assert all("UNSOUND" in figure.name for figure in claim.figures)
    assert "no theorem supports the radii" in claim.statement
    page = (tmp_path / "case" / "index.html").read_text()
    tiles = page.partition('<ul class="tiles">')[2].partition("</ul>")[0]
    assert "<li>" not in tiles
    assert "<polyline" not in page
    head = (tmp_path / "case" / "model_card.md").read_text().split("---\n")[1]
    assert yaml.safe_load(head)["model-index"][0]["results"] == []


def test_agreement_with_the_converged_model_is_a_measurement_with_its_interval(tmp_path):
    run = tmp_path / "three"
    given = "certify --tol 0 --depth 3 --images 0:2 --n 200 --sigma 0.25 --agreement 0.2"
    assert main([*given.split(), "--out", str(run), "--quiet"]) == 0
    case = write_case([run], tmp_path / "case")
    assert verify_case(tmp_path / "case").faults == ()
    (claim,) = (claim for claim in case.claims if claim.item == "MEASURE 2.5")
    told = json.loads((run / "summary.json").read_text())["agreement"]
    assert (claim.ground, claim.artefact) == ("measurement", "artefacts/three/agreement.tsv")
    assert [f.value for f in claim.figures] == [told["share"], *told["interval"], told["audited"]]


def test_proofs_state_their_norm_and_need_no_probability(tmp_path):
    torch.manual_seed(0)
    config = MonotoneConfig(
        width=8, num_classes=3, image_size=(4, 4), mean=(0.4,), std=(0.3,), monotone=0.5
    )
    torch.save(config.build().state_dict(), tmp_path / "net.pth")
    (tmp_path / "net.yaml").write_text(config.to_yaml())
    np.savez(tmp_path / "data.npz", x=np.full((2, 1, 4, 4), 99, np.uint8), y=np.array([0, 1]))
    with chdir(tmp_path):
        given = "certify --model net.pth --data npz:data.npz --method interval --form eager"
        assert main([*given.split(), "--out", "proof", "--quiet"]) == 0
        case = write_case(["proof"], "case")
    assert verify_case(tmp_path / "case").faults == ()
    claim = next(claim for claim in case.claims if claim.item == "MEASURE 2.7")
    assert claim.ground == "guarantee"
    assert claim.statement.startswith("Alpha = 0. ")
    assert "to be expected" not in claim.statement
    assert all("(linf)" in figure.name for figure in claim.figures)
    assert "Certificates here are in linf" in (tmp_path / "case" / "not_claimed.md").read_text()


LATER = {
    "recertify": [
        "certify --images 0:3 --n 200 --sigma 0.25 --keep-votes --quiet --out old",
        "recertify old --depth 12 --audit 150 --quiet --out evidence",
    ],
    "evaluate": [
        "evaluate digits --images 0:20 --sigma 0.25 --n 100 --certify-images 3 --out evidence "
        "--parts clean,certified",
    ],
    "watch": [
        "certify --images 0:70 --n 60 --sigma 0.25 --quiet --out normal",
        "watch-reference normal --no-clean --out reference.json",
        "certify --images 70:80 --n 60 --sigma 0.25 --quiet --out old",
        "watch old --reference reference.json --alarms abstention --quiet --state evidence",
    ],
}
"""Commands of other rooms whose folders are evidence, and what makes some by them."""


@pytest.mark.parametrize(
    "command", ["recertify", "watch", pytest.param("evaluate", marks=pytest.mark.long)]
)
def test_what_other_commands_write_is_evidence(command, tmp_path):
    with chdir(tmp_path):
        for line in LATER[command]:
            assert main(line.split()) == 0
        named = ["evidence", "old"] if Path("old").exists() else ["evidence"]
        case = write_case(named, "case")
    assert verify_case(tmp_path / "case").faults == ()
    made = [claim for claim in case.claims if claim.run == "evidence"]
    assert [claim for claim in made if claim.figures]
    program, *arguments = shlex.split(made[-1].command.replace("REFERENCE", "../reference.json"))
    with chdir(tmp_path / "case"):
        assert program == "deqcert"
        assert main(arguments) == 0
    again = [tmp_path / "again" / "evidence", *(tmp_path / name for name in named[1:])]
    second = write_case(again, tmp_path / "second")
    assert [c.figures for c in second.claims if c.run == "evidence"] == [c.figures for c in made]
