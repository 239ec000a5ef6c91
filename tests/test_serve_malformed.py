"""Ten thousand malformed requests: each 4xx with one sentence, never 5xx, and memory stays."""

from __future__ import annotations

import gc
import json
import os
import random
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
from test_serve import JSON, MALFORMED, NPY, check_refusal, picture

from deqcert.api import SmoothedClassifier
from deqcert.serve.app import make_app
from deqcert.serve.limits import Serving
from deqcert.serve.service import Service

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of what the client itself is made with
    from fastapi.testclient import TestClient

COUNT = int(os.environ.get("DEQCERT_MALFORMED", "10000"))
"""Requests of each kind."""

GROWTH = 64e6
"""Bytes by which the process may grow over them."""


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    smooth = SmoothedClassifier("digits", sigma=0.25, n=60, n0=10, batch=20)
    serving = Serving(out=tmp_path_factory.mktemp("served"), largest_n=100, largest_body=50_000)
    with TestClient(make_app(Service(smooth, serving)), raise_server_exceptions=False) as made:
        yield made


def resident() -> float:
    gc.collect()
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return 1024.0 * int(line.split()[1])
    return 0.0


def damaged(body: bytes, draw: random.Random) -> bytes:
    """Change, cut or repeat some bytes."""
    found = bytearray(body)
    for _ in range(draw.randint(1, 8)):
        if found:
            found[draw.randrange(len(found))] = draw.randrange(256)
    if draw.random() < 0.3:
        found = found[: draw.randrange(len(found) + 1)]
    return bytes(found)


@pytest.mark.long
def test_thousands_of_malformed_requests_are_refused_and_leave_nothing(client: TestClient) -> None:
    draw, names = random.Random(0), list(MALFORMED)
    bodies = {
        kind: [body for k, body, _ in MALFORMED.values() if k == kind] for kind in (NPY, JSON)
    }
    begun = 0.0
    for turn in range(COUNT):
        if turn == COUNT // 10:
            begun = resident()
        kind, body, status = MALFORMED[draw.choice(names)]
        if draw.random() < 0.5:
            kind = draw.choice(["image/png", "image/jpeg", NPY, JSON])
            body = damaged(draw.choice([picture(), *bodies.get(kind, [])]), draw)
            status = 0  # damage may leave an image
        mode = draw.choice(["predict", "certify?deadline=0.01", "set", "certify?n=101"])
        answer = client.post(f"/v1/{mode}", content=body, headers={"content-type": kind})
        if status or answer.status_code != 200:
            check_refusal(answer)
    assert resident() - begun < GROWTH
    assert client.get("/readyz").status_code == 200


@pytest.mark.long
def test_requests_made_from_its_own_words_never_fail(client: TestClient) -> None:
    from hypothesis import HealthCheck, Phase, given, settings

    schema = schemathesis.openapi.from_asgi("/openapi.json", client.app)
    asked: list[int] = []
    for operation in schema.get_all_operations():
        strategy = operation.ok().as_strategy()

        @settings(
            max_examples=COUNT // 20,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(strategy)
        def ask(case: schemathesis.Case) -> None:
            answer = case.call()
            asked.append(answer.status_code)
            assert answer.status_code < 500, answer.text
            if answer.status_code >= 400:
                assert json.loads(answer.text)["error"]

        ask()
    assert len(asked) > COUNT // 20
