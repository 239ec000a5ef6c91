"""The service: every route and refusal, equal votes, kept records."""

from __future__ import annotations

import io
import json
import queue
import socket
import sqlite3
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deqcert.api import SmoothedClassifier
from deqcert.cli import main
from deqcert.conformal.predictor import SetPredictor
from deqcert.data import load_dataset
from deqcert.errors import ConfigError, DataError, RunError
from deqcert.serve.app import make_app
from deqcert.serve.batches import Batches, Clean, Job, SharedEngine
from deqcert.serve.goals import Deadline
from deqcert.serve.images import Upload, read_upload
from deqcert.serve.keys import Keys
from deqcert.serve.labels import Label
from deqcert.serve.limits import Admission, Refused, Serving
from deqcert.serve.records import NAME, Record, RecordReader, Records
from deqcert.serve.replay import replay
from deqcert.serve.server import listen
from deqcert.serve.service import Service
from deqcert.smoothing import Input, SmoothingEngine, Stage

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of what the client itself is made with
    from fastapi.testclient import TestClient

PNG, KEY = {"content-type": "image/png"}, "0123456789abcdef"
SHAPE = (1, 8, 8)


def picture(index: int = 0) -> bytes:
    pixels = load_dataset("digits").image(index)[0]
    return encoded(np.round(255 * pixels).astype(np.uint8))


def encoded(pixels: np.ndarray, form: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, **options)
    return file.getvalue()


def saved(array: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Service:
    folder = tmp_path_factory.mktemp("serve")
    smooth = SmoothedClassifier("digits", sigma=0.25, n=300, n0=20, batch=50, noise="float")
    sets = SetPredictor.calibrate(smooth, images="0:60", out=folder / "calibration")
    assert sets.alpha == 0.1
    return Service(
        smooth,
        Serving(
            out=folder / "service",
            calibration=folder / "calibration",
            largest_n=2000,
            largest_body=50_000,
            largest_pixels=250_000,
        ),
    )


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[TestClient]:
    with TestClient(make_app(service), raise_server_exceptions=False) as made:
        yield made


def test_predict_answers_with_the_clean_class(client: TestClient) -> None:
    answer = client.post("/v1/predict", content=picture(), headers=PNG)
    assert answer.status_code == 200
    assert answer.json()["class"] == load_dataset("digits").label(0)
    assert 0.5 < answer.json()["confidence"] <= 1.0


@pytest.mark.parametrize(
    ("query", "bound", "ended"),
    [
        ("", "fixed n", "samples"),
        ("?goal=radii=0.1", "time-uniform", "goal"),
        ("?deadline=0.000001", "time-uniform", "deadline"),
        ("?deadline=50", "time-uniform", "samples"),
    ],
)
def test_certify_says_which_bound_holds_and_what_ended_it(
    client: TestClient, query: str, bound: str, ended: str
) -> None:
    answer = client.post(f"/v1/certify{query}", content=picture(), headers=PNG).json()
    assert (answer["bound"], answer["ended"]) == (bound, ended)
    assert sum(answer["votes"]) <= answer["n"] <= 300
    assert answer["class"] == load_dataset("digits").label(0)
    assert answer["radius"] > 0
    assert answer["clean"]["class"] == answer["class"]
    if "radii" in query:
        assert answer["reached"] == {"0.1": True}


def test_votes_are_those_of_the_offline_engine_for_the_seed_on_record(
    client: TestClient, service: Service
) -> None:
    """Fifteen requests at once share batches; each one's votes are as if it had been alone."""
    answers: dict[int, dict[str, Any]] = {}

    def ask(index: int) -> None:
        mode = ("predict", "certify?n=80", "certify?n=130&goal=radii=0.2", "set", "certify")[
            index % 5
        ]
        answers[index] = client.post(f"/v1/{mode}", content=picture(index), headers=PNG).json()

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(15)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    smooth = service.smooth
    seeds = set()
    for answer in answers.values():
        record = service.reader.find(answer["id"])
        assert record is not None
        engine = SmoothingEngine(
            smooth.loaded.model, sigma=0.25, seed=record.seed or 0, batch=50, levels=None
        )
        for stage, votes in record.votes.items():
            alone = engine.votes(smooth.predictor, Input(record.pixels, 0), stage, len(votes))
            assert np.array_equal(alone.predictions, votes)
        seeds.add(record.seed)
    assert len(seeds) == 13  # one for each request that draws noise, and None
    assert min(seed for seed in seeds if seed) >= 2**64


def test_replay_computes_the_very_votes_and_notices_others(
    client: TestClient, service: Service, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    asked = ["predict", "certify?goal=radii=0.1", "certify?n=60", "set?radius=0.05"]
    ids = [client.post(f"/v1/{a}", content=picture(70), headers=PNG).json()["id"] for a in asked]
    folder = service.serving.out
    for id in ids:
        found = replay(id, folder, calibration=service.serving.calibration)
        assert found.equal, found.differences
        assert found.changes == ()
    assert main(["replay", ids[2], "--service", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["equal"] is True
    assert service.reader.check() is None
    # A record with one vote changed, in a copy whose triggers are gone.
    forged = tmp_path / NAME
    with sqlite3.connect(folder / NAME) as base, sqlite3.connect(forged) as copy:
        base.backup(copy)
        copy.executescript("DROP TRIGGER no_UPDATE_answers;")
        record = service.reader.find(ids[2])
        assert record is not None
        votes = record.votes[Stage.ESTIMATE].copy()
        votes[3] = (votes[3] + 1) % 10
        packed = {
            str(k): zlib.compress(v.astype("<i2").tobytes()).hex()
            for k, v in {**record.votes, int(Stage.ESTIMATE): votes}.items()
        }
        copy.execute("UPDATE answers SET votes = ? WHERE id = ?", (json.dumps(packed), ids[2]))
    assert main(["replay", ids[2], "--service", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "the votes of stage 1 differ" in said
    assert f"the record of {ids[2]} is not as it was written" in said
    assert RecordReader(tmp_path).check() == ids[2]
    assert main(["replay", "nobody", "--service", str(tmp_path)]) == 2


def test_sets_hold_classes_and_refuse_calibration_images(
    client: TestClient, service: Service
) -> None:
    answer = client.post("/v1/set?alpha=0.2&radius=0.05", content=picture(70), headers=PNG).json()
    assert answer["classes"] == sorted(answer["classes"])
    assert (answer["alpha"], answer["radius"]) == (0.2, 0.05)
    body = saved(load_dataset("digits").image(0))
    headers = {"content-type": "application/x-npy"}
    refused = client.post("/v1/set", content=body, headers=headers)
    assert refused.status_code == 422
    assert "calibrat" in refused.json()["error"]


def test_a_record_is_shown_and_can_be_followed(client: TestClient, service: Service) -> None:
    answer = client.post("/v1/certify?n=60", content=picture(), headers=PNG).json()
    shown = client.get(f"/v1/records/{answer['id']}").json()
    assert shown["answer"]["radius"] == answer["radius"]
    assert shown["votes"]["1"] == answer["votes"]
    assert shown["replay"].startswith(f"deqcert replay {answer['id']}")
    assert next(service.reader.since(shown["number"] - 1)).id == answer["id"]
    assert client.get("/v1/records/nope").status_code == 404


def test_the_true_class_of_an_answer_is_told_once(client: TestClient, service: Service) -> None:
    id = client.post("/v1/predict", content=picture(), headers=PNG).json()["id"]

    def tell(id: str, label: object) -> tuple[int, Any]:
        answer = client.post("/v1/feedback", params={"id": id, "class": str(label)})
        return answer.status_code, answer.json()

    for _ in range(2):  # who has not seen the answer tells it again
        assert tell(id, 3) == (200, {"id": id, "class": 3})
    assert service.reader.label(id) == 3
    status, said = tell(id, 4)
    assert (status, said["error"]) == (409, "class 3 was told before, and what was told stays.")
    assert tell("nobody", 3)[0] == 404
    assert [tell(id, label)[0] for label in (10, -1, "x", "")] == [422] * 4
    told = [row for row in service.reader.labels(0) if row[1] == id]
    assert [row[2] for row in told] == [3]
    base = sqlite3.connect(service.serving.out / NAME)
    for statement in ("UPDATE labels SET class = 1", "DELETE FROM labels"):
        with pytest.raises(sqlite3.DatabaseError, match="not changed"):
            base.execute(statement)
    base.close()


def test_events_bring_the_votes_as_they_are_cast(client: TestClient) -> None:
    headers = {**PNG, "accept": "text/event-stream"}
    text = client.post("/v1/certify?goal=radii=0.3", content=picture(), headers=headers).text
    events = [
        dict(line.split(": ", 1) for line in part.split("\n"))
        for part in text.split("\n\n")
        if part
    ]
    kinds = [event["event"] for event in events]
    assert kinds[:-1] == ["progress"] * (len(kinds) - 1)
    assert kinds[-1] == "answer"
    drawn = [json.loads(event["data"])["drawn"] for event in events[:-1]]
    assert drawn == sorted(drawn)
    assert drawn[-1] > 0
    assert json.loads(events[-1]["data"])["radius"] > 0
    bad = client.post("/v1/certify", content=b"no", headers=headers)
    assert bad.status_code == 422


def test_state_pages_answer(client: TestClient, service: Service) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ready"}
    said = client.get("/v1/model").json()
    assert said["limits"]["evaluations_per_copy"] == 30
    assert said["modes"] == ["predict", "certify", "set"]
    assert "deqcert_rows_total" in client.get("/metrics").text
    assert client.get("/v1/alarms").json() == {"watched": False, "state": None}
    (service.serving.out / "alarms.json").write_text('{"raised": []}')
    assert client.get("/v1/alarms").json() == {"watched": True, "state": {"raised": []}}
    words = client.get("/openapi.json").json()
    assert {"/v1/predict", "/v1/certify", "/v1/set", "/v1/records/{id}", "/v1/feedback"} <= set(
        words["paths"]
    )


def test_readiness_notices_other_votes(service: Service) -> None:
    kept, service._checked = service.known, -1e9
    service.known = (kept + 1).astype(np.int16)
    try:
        assert "other votes" in str(service.fault())
    finally:
        service.known, service._checked = kept, -1e9
    assert service.fault() is None


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def bomb(wide: int, high: int, depth: int = 8, rows: int = 0) -> bytes:
    """A PNG whose header promises more than it holds."""
    head = struct.pack(">IIBBBBB", wide, high, depth, 0, 0, 0, 0)
    data = zlib.compress(bytes((wide + 1) * rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def text_bomb() -> bytes:
    """A PNG with a compressed comment of 64 MB."""
    small = bomb(8, 8, rows=8)
    comment = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(64_000_000), 9))
    return small[:33] + comment + small[33:]


def header(shape: str, kind: str = "|u1") -> bytes:
    """An .npy file with a header alone."""
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}"
    text = text.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


NPY, JSON = "application/x-npy", "application/json"
NAN = np.full(SHAPE, np.nan)
MALFORMED: dict[str, tuple[str, bytes, int]] = {
    "empty": ("image/png", b"", 422),
    "truncated png": ("image/png", picture()[:60], 422),
    "truncated jpeg": ("image/jpeg", encoded(np.zeros((8, 8), np.uint8), "JPEG")[:200], 422),
    "jpeg as png": ("image/png", encoded(np.zeros((8, 8), np.uint8), "JPEG"), 422),
    "gif": ("image/png", encoded(np.zeros((8, 8), np.uint8), "GIF"), 422),
    "16 bits": ("image/png", encoded(np.zeros((8, 8), np.uint16)), 422),
    "16 bits colour": ("image/png", bomb(8, 8, 16), 422),
    "wrong channels": ("image/png", encoded(np.zeros((8, 8, 3), np.uint8)), 422),
    "wrong size": ("image/png", encoded(np.zeros((9, 8), np.uint8)), 422),
    "bomb": ("image/png", bomb(60_000, 60_000), 413),
    "large": ("image/png", bomb(2000, 2000), 413),
    "comment bomb": ("image/png", text_bomb()[:49_000], 422),
    "too long": ("image/png", bytes(50_001), 413),
    "nan": (NPY, saved(NAN), 422),
    "infinite": (NPY, saved(np.full(SHAPE, np.inf, np.float32)), 422),
    "negative": (NPY, saved(np.full(SHAPE, -0.1)), 422),
    "bytes as floats": (NPY, saved(np.full(SHAPE, 255.0)), 422),
    "pickle": (NPY, saved(np.array([print], dtype=object), allow_pickle=True), 422),
    "structured": (NPY, saved(np.zeros(SHAPE, [("a", "u1")])), 422),
    "text array": (NPY, saved(np.full(SHAPE, "1")), 422),
    "integers": (NPY, saved(np.zeros(SHAPE, np.int64)), 422),
    "complex": (NPY, saved(np.zeros(SHAPE, complex)), 422),
    "no array": (NPY, b"\x93NUMPY\x09\x00", 422),
    "cut array": (NPY, saved(np.zeros(SHAPE))[:-1], 422),
    "more than the array": (NPY, saved(np.zeros(SHAPE)) + b"x", 422),
    "huge header": (NPY, header("(1, 1000000, 1000000)"), 422),
    "overflowing header": (NPY, header("(1, 8, " + "9" * 40 + ")"), 422),
    "negative header": (NPY, header("(1, -8, -8)"), 422),
    "code in a header": (NPY, header("(__import__('os'),)"), 422),
    "deep header": (NPY, header("(" * 50 + ")" * 50), 422),
    "five dimensions": (NPY, saved(np.zeros((1, 1, 1, 8, 8), np.uint8)), 422),
    "no json": (JSON, b"{", 422),
    "deep json": (JSON, b"[" * 40_000, 422),
    "list": (JSON, b"[[1]]", 422),
    "unknown key": (JSON, b'{"pixel": [[0]]}', 422),
    "two keys": (JSON, b'{"pixels": [[0]], "bytes": [[0]]}', 422),
    "ragged": (JSON, b'{"pixels": [[0, 1], [0]]}', 422),
    "words": (JSON, b'{"pixels": [["0.5"]]}', 422),
    "booleans": (JSON, b'{"pixels": [[true]]}', 422),
    "null": (JSON, b'{"pixels": null}', 422),
    "json nan": (JSON, b'{"pixels": [[NaN]]}', 422),
    "huge number": (JSON, b'{"pixels": [[1' + b"0" * 400 + b"]]}", 422),
    "very huge number": (JSON, b'{"pixels": [[' + b"9" * 5000 + b"]]}", 422),
    "fractions as bytes": (JSON, b'{"bytes": [[0.5]]}', 422),
    "256": (JSON, b'{"bytes": [[256]]}', 422),
    "not utf-8": (JSON, b'{"pixels": "\xff"}', 422),
    "other kind": ("text/html", b"<p>", 415),
    "no kind": ("", b"x", 415),
    "multipart": ("multipart/form-data; boundary=x", b"--x--", 415),
}


def check_refusal(response: Any, status: int | None = None) -> None:
    assert 400 <= response.status_code < 500, response.text
    assert status in (None, response.status_code)
    sentence = response.json()["error"]
    assert sentence.endswith((".", "?", "!"))
    assert "\n" not in sentence
    assert len(sentence) < 400


@pytest.mark.parametrize("resize", ["", "?resize=true"])
@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_image_is_refused_in_one_sentence(
    client: TestClient, name: str, resize: str
) -> None:
    kind, body, status = MALFORMED[name]
    answer = client.post(f"/v1/predict{resize}", content=body, headers={"content-type": kind})
    if resize and name in ("wrong channels", "wrong size"):
        assert answer.status_code == 200
        return
    check_refusal(answer, status)


@pytest.mark.parametrize(
    "query",
    [
        *("n=0", "n=2001", "n=x", "n=1e3", "n=5", "alpha=0", "alpha=1", "alpha=nan", "goal=best"),
        *("goal=radii=9", "goal=radii=", "deadline=0", "deadline=-1", "deadline=inf"),
        *("deadline=1e9", "zz=1", "resize=maybe", "goal=" + "x" * 300, "n=" + "9" * 5000),
        *("alpha=%00", "%ff=1"),
    ],
)
def test_a_wrong_parameter_is_refused_in_one_sentence(client: TestClient, query: str) -> None:
    check_refusal(client.post(f"/v1/certify?{query}", content=picture(), headers=PNG), 422)


def test_wrong_addresses_and_methods_are_refused(client: TestClient) -> None:
    check_refusal(client.get("/v1/predict"))
    check_refusal(client.get("/v2"), 404)
    check_refusal(client.get("/../../etc/passwd"), 404)
    check_refusal(client.get("/v1/records/" + "x" * 5000), 404)


@pytest.mark.parametrize(("kind", "form"), [("image/png", "PNG"), ("image/jpeg", "JPEG")])
def test_a_picture_cut_anywhere_is_refused_or_is_the_very_picture(kind: str, form: str) -> None:
    """What is missing behind the last pixel, or follows it, says nothing about the image."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    body = encoded(pixels, form)
    whole, refused = read_upload(body, kind, SHAPE, Serving()).pixels, 0
    for end in range(len(body)):
        try:
            assert np.array_equal(read_upload(body[:end], kind, SHAPE, Serving()).pixels, whole)
        except DataError:
            refused += 1
    assert refused > len(body) // 2
    behind = read_upload(body + b"more", kind, SHAPE, Serving())
    assert np.array_equal(behind.pixels, whole)


def test_all_kinds_of_images_give_the_same_pixels() -> None:
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    floats = pixels[None] / np.float32(255)
    given = {
        "image/png": encoded(pixels),
        "application/octet-stream": saved(np.asfortranarray(pixels)),
        NPY: saved(floats),
    }
    for kind, body in given.items():
        read = read_upload(body, kind, SHAPE, Serving())
        assert np.array_equal(read.pixels, floats), kind
    for content in ({"bytes": pixels.tolist()}, {"pixels": floats.tolist()}):
        body = json.dumps(content).encode()
        assert np.array_equal(read_upload(body, JSON, SHAPE, Serving()).pixels, floats)
    # A photograph is made to fit, and that is said.
    photo = encoded(np.full((300, 400, 3), 128, np.uint8), "JPEG")
    fitted = read_upload(photo, "image/jpeg", SHAPE, Serving(), resize=True)
    assert fitted.changed == "scaled from 400 x 300 to 8 x 8 pixels and turned grey"
    assert np.allclose(fitted.pixels, 128 / 255, atol=0.01)
    red = encoded(np.full((8, 8, 3), (255, 0, 0), np.uint8))
    fitted = read_upload(red, "image/png", SHAPE, Serving(), resize=True)
    assert fitted.changed == "turned grey"


def test_an_answer_does_not_wait_for_the_network_to_fill_a_packet() -> None:
    # asyncio turns Nagle's algorithm off only for sockets that name their protocol.
    with listen(Serving(port=0)) as opened:
        assert opened.proto == socket.IPPROTO_TCP


def test_one_request_too_many_is_told_when_to_come_again(
    client: TestClient, service: Service
) -> None:
    most = service.admission.most
    for _ in range(most):
        service.admission.enter()
    try:
        refused = client.post("/v1/predict", content=picture(), headers=PNG)
    finally:
        for _ in range(most):
            service.admission.leave(0.1)
    check_refusal(refused, 429)
    assert int(refused.headers["retry-after"]) >= 1
    assert client.post("/v1/predict", content=picture(), headers=PNG).status_code == 200
    assert service.admission.inside == 0


def test_keys_are_asked_for_and_answers_are_their_owners(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# clients\nann {KEY}\nbob {KEY[::-1]}\n")
    smooth = SmoothedClassifier("digits", sigma=0.25, batch=20)
    service = Service(smooth, Serving(out=tmp_path / "service", keys=file))
    ann, bob = ({"authorization": f"Bearer {key}", **PNG} for key in (KEY, KEY[::-1]))
    with TestClient(make_app(service)) as client:
        for wrong in ("", "Bearer", f"Bearer {KEY[:-1]}", f"Basic {KEY}", "Bearer \u00e9"):
            headers = {"authorization": wrong.encode("latin-1"), **PNG}
            check_refusal(client.post("/v1/predict", content=picture(), headers=headers), 401)
        check_refusal(client.get("/v1/model"), 401)
        assert client.get("/healthz").status_code == 200
        id = client.post("/v1/predict", content=picture(), headers=ann).json()["id"]
        assert client.get(f"/v1/records/{id}", headers=ann).status_code == 200
        assert client.get(f"/v1/records/{id}", headers=bob).status_code == 404
        told = {"id": id, "class": "3"}
        for headers, status in ((PNG, 401), (bob, 404), (ann, 200)):
            found = client.post("/v1/feedback", params=told, headers=headers)
            assert found.status_code == status
        with pytest.raises(RunError, match="another service"):
            Service(smooth, Serving(out=tmp_path / "service"))
    record = RecordReader(tmp_path / "service").find(id)
    assert record is not None
    assert record.client == "ann"


@pytest.mark.parametrize("text", ["", "ann", "ann short", f"ann {KEY}\nann {KEY}", f"a b {KEY}"])
def test_a_wrong_file_of_keys_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "keys").write_text(text)
    with pytest.raises(ConfigError):
        Keys.read(tmp_path / "keys")


def test_records_cannot_be_changed_and_changes_are_found(tmp_path: Path) -> None:
    records = Records(tmp_path, {"what": "a test"})
    pixels = np.zeros(SHAPE, np.float32)
    made = [
        records.add(
            Record("predict", pixels, seed, {}, {"class": 1}, {0: np.array([1, -1], np.int16)})
        )
        for seed in (None, 2**127 + 1)
    ]
    assert [record.number for record in made] == [1, 2]
    reader = RecordReader(tmp_path)
    found = reader.find(made[1].id)
    assert found is not None
    assert found.seed == 2**127 + 1
    assert found.votes[0].tolist() == [1, -1]
    assert found.about == {"what": "a test"}
    assert found.digest == made[1].digest != made[0].digest
    base = sqlite3.connect(tmp_path / NAME)
    for statement in ("UPDATE answers SET mode = 'set'", "DELETE FROM answers"):
        with pytest.raises(sqlite3.DatabaseError, match="not changed"):
            base.execute(statement)
    assert base.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert records._base.execute("PRAGMA synchronous").fetchone() == (2,)
    base.close()
    records.close()
    assert (tmp_path / NAME).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "forgery",
    [
        "UPDATE labels SET class = 2 WHERE number = 1",
        "UPDATE labels SET class = 2 WHERE number = 3",
        "UPDATE labels SET id = 'b' WHERE number = 1",
        "DELETE FROM labels WHERE number = 1",
        "DELETE FROM answers WHERE number = 1",
        "UPDATE labels SET after = 0 WHERE number = 1",
    ],
)
def test_a_told_class_that_was_changed_or_removed_is_found(tmp_path: Path, forgery: str) -> None:
    for _ in range(2):  # the chain goes on where another service ended, after a told class too
        records = Records(tmp_path, {})
        made = [records.add(Record("predict", np.zeros(SHAPE, np.float32), None, {}, {}))]
        for label in (1, 3):  # the second is not taken
            records.tell(Label(made[0].id, label))
        made.append(records.add(Record("predict", np.zeros(SHAPE, np.float32), None, {}, {})))
        records.tell(Label(made[1].id, 1))
        records.close()
        assert RecordReader(tmp_path).check() is None
    with sqlite3.connect(tmp_path / NAME) as base:
        for what in ("UPDATE_labels", "DELETE_labels", "DELETE_answers"):
            base.execute(f"DROP TRIGGER no_{what}")
        base.execute(forgery)
    assert RecordReader(tmp_path).check() is not None


def test_an_answer_that_cannot_be_recorded_is_not_given(tmp_path: Path) -> None:
    service = Service(
        SmoothedClassifier("digits", sigma=0.25, batch=20), Serving(out=tmp_path / "service")
    )
    with TestClient(make_app(service)) as client:
        service.records._base.execute("PRAGMA query_only = ON")
        refused = client.post("/v1/predict", content=picture(), headers=PNG)
        assert refused.status_code == 503
        assert "record" in refused.json()["error"]
        assert client.get("/readyz").status_code == 503


def test_a_service_that_stops_refuses_what_waits() -> None:
    smooth = SmoothedClassifier("digits", sigma=0.25, batch=10)
    batches = Batches(smooth.engine, smooth.predictor)
    shared = SharedEngine(smooth.engine, batches)
    batches.close()
    with pytest.raises(Refused):
        shared.clean(Input(np.zeros(SHAPE), 0), lambda found: None)


def test_a_failing_model_fails_its_requests_alone() -> None:
    smooth = SmoothedClassifier("digits", sigma=0.25, batch=10)
    batches = Batches(smooth.engine, smooth.predictor)
    shared = SharedEngine(smooth.engine, batches)

    def broken(samples: np.ndarray) -> Any:
        raise RuntimeError("planted")

    with pytest.raises(RuntimeError, match="planted"):
        batches.submit(job := Job(broken, np.arange(3)))
        list(job.batches())
    assert batches.alive
    found: queue.SimpleQueue[Clean | Exception] = queue.SimpleQueue()
    shared.clean(Input(np.zeros(SHAPE), 0), found.put)
    assert isinstance(found.get(), Clean)
    batches.close()


def test_a_chained_start_and_wrong_names_are_refused(tmp_path: Path) -> None:
    chained = SmoothedClassifier("digits", sigma=0.25, start="previous")
    with pytest.raises(ConfigError, match="chains"):
        Service(chained, Serving(out=tmp_path / "a"))
    (tmp_path / "names").write_text("one\ntwo\n")
    smooth = SmoothedClassifier("digits", sigma=0.25, batch=20)
    with pytest.raises(ConfigError, match="10 classes"):
        Service(smooth, Serving(out=tmp_path / "b", names=tmp_path / "names"))


def test_exact_noise_takes_pictures_and_refuses_arrays_off_their_grid(tmp_path: Path) -> None:
    smooth = SmoothedClassifier("digits", sigma=0.25, n=100, n0=10, batch=20)
    service = Service(smooth, Serving(out=tmp_path))
    try:
        assert service.engine.levels == 255
        asked = service.question(None, None, None, None)
        with pytest.raises(DataError, match="1/255"):
            service.certify(Upload(np.full(SHAPE, 0.3001, np.float32)), asked, None, arrived=0.0)
    finally:
        service.close()


def test_a_deadline_bounds_hold_whenever_the_clock_ends_them() -> None:
    """A clock that stops at the luckiest look must still keep alpha; the fixed bound would not."""
    from deqcert.certifiers.bounds import beta_quantiles
    from deqcert.certifiers.sampling import Sampling, looks

    draw, p, n, alpha, rounds = np.random.default_rng(0), 0.8, 400, 0.1, 2000
    votes = np.cumsum(draw.random((rounds, n)) < p, axis=1)
    wrong, fixed = np.zeros((2, rounds), dtype=bool)
    for look in looks(n, 10):
        found, k = votes[:, look - 1], np.arange(look + 1)
        wrong |= (Sampling(n, alpha).p_lower(k, look) > p)[found]
        fixed |= (beta_quantiles(alpha, np.maximum(k, 1), look - k + 1) > p)[found]
    assert wrong.mean() <= alpha
    assert fixed.mean() > 1.5 * alpha  # the planted mistake


def test_a_deadline_ends_before_a_look_that_would_be_late() -> None:
    told: list[float] = []
    late = Deadline(None, 0.0, "now", told.append)
    assert late.settled(np.array(0.3), np.array(1.0)).all()
    assert (late.ended, late.looks, told) == ("deadline", 1, [0.3])
    open_end = Deadline(None, float("inf"), "never")
    assert not open_end.settled(np.array(0.3), np.array(1.0)).any()
    assert open_end.ended == "samples"


def test_admission_counts_and_learns_the_wait() -> None:
    places = Admission(1)
    places.enter()
    with pytest.raises(Refused) as caught:
        places.enter()
    assert (caught.value.status, caught.value.wait) == (429, 1)
    places.leave(100.0)
    places.enter()
    with pytest.raises(Refused) as caught:
        places.enter()
    assert caught.value.wait == 10
