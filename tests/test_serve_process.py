"""A service in a process of its own: killed under load, stopped in order, tried in a browser."""

from __future__ import annotations

import json
import signal
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from browser import needs_chromium, opened
from PIL import Image
from serving import Process

from deqcert.cli import main
from deqcert.data import load_dataset
from deqcert.serve.records import RecordReader

OPTIONS = ("--sigma", "0.25", "--batch", "50", "--n", "400", "--n0", "20")


def picture(folder: Path, index: int = 0) -> Path:
    pixels = np.round(255 * load_dataset("digits").image(index)[0]).astype(np.uint8)
    Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder / f"{index}.png"


def ask(address: str, mode: str, file: Path) -> dict[str, Any]:
    headers = {"content-type": "image/png"}
    answer = httpx.post(
        f"{address}/v1/{mode}", content=file.read_bytes(), headers=headers, timeout=60
    )
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_a_kill_under_load_loses_no_acknowledged_answer_and_a_stop_loses_none_at_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, acknowledged = picture(tmp_path), {}
    with Process(tmp_path, *OPTIONS) as service:

        def load() -> None:
            while True:
                for mode in ("predict", "certify?n=100"):
                    try:
                        answer = ask(service.address, mode, file)
                    except httpx.HTTPError:
                        return  # killed
                    acknowledged[answer["id"]] = answer

        threads = [threading.Thread(target=load) for _ in range(6)]
        for thread in threads:
            thread.start()
        began = time.monotonic()
        while len(acknowledged) < 40 and time.monotonic() - began < 60:
            time.sleep(0.01)
        assert service.stop(signal.SIGKILL) == -signal.SIGKILL
        for thread in threads:
            thread.join()
    reader = RecordReader(service.folder)
    for id, answer in acknowledged.items():
        record = reader.find(id)
        assert record is not None, id
        assert record.answer == answer
    assert reader.check() is None
    assert len(acknowledged) >= 40
    # It begins again in the same folder; a stop lets who is being answered have the answer.
    with Process(tmp_path, *OPTIONS) as service:
        answers: list[dict[str, Any]] = []
        late = threading.Thread(
            target=lambda: answers.append(ask(service.address, "certify?n=3000", file))
        )
        late.start()
        inside = 0.0
        while not inside:
            text = httpx.get(f"{service.address}/metrics").text
            inside = float(text.partition("\ndeqcert_requests_inside ")[2].split()[0])
        assert service.stop() == 0
        late.join()
    (answer,) = answers
    assert sum(answer["votes"]) == answer["n"] == 3000
    assert reader.check() is None
    assert main(["replay", answer["id"], "--service", str(service.folder), "--threads", "1"]) == 0
    assert "mode certify: equal" in capsys.readouterr().out
    lines = [json.loads(line) for line in service.errors.read_text().splitlines()]
    assert {line["event"] for line in lines} == {"started", "request", "stopped"}
    assert sum(line.get("status") == 200 for line in lines) >= len(acknowledged)


@needs_chromium
def test_the_page_answers_somebody_who_has_never_seen_a_terminal(tmp_path: Path) -> None:
    file = picture(tmp_path, 3)
    photo = tmp_path / "photo.jpg"
    Image.fromarray(np.full((90, 120, 3), 200, np.uint8)).save(photo)
    with Process(tmp_path, *OPTIONS) as service:
        (service.folder / "alarms.json").write_text('{"sentence": "No alarm was raised."}')
        for width, scheme in (("desktop", "light"), ("phone", "dark")):
            with opened(service.address, width, scheme=scheme) as page:
                page.get_by_text("No alarm was raised.").wait_for(timeout=30_000)
                # A picture is dropped.
                page.evaluate(
                    """async (address) => {
                        const bytes = Uint8Array.from(atob(address), (c) => c.charCodeAt(0));
                        const given = new DataTransfer();
                        given.items.add(new File([bytes], "digit.png", { type: "image/png" }));
                        document.getElementById("drop").dispatchEvent(
                            new DragEvent("drop", { dataTransfer: given, bubbles: true }));
                    }""",
                    _base64(file),
                )
                page.wait_for_selector("#answer:not([hidden])", timeout=30_000)
                label = load_dataset("digits").label(3)
                assert page.locator("#class").inner_text() == f"This is class {label}."
                assert float(page.locator("#radius").get_attribute("data-radius") or 0) > 0.1
                assert "stays the same" in page.locator("#radius").inner_text()
                assert "at most 0.1%" in page.locator("#chance").inner_text()
                assert "votes" in page.locator("#counted").inner_text()
                wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
                assert wide <= 0  # nothing to scroll to the side for, on a phone either
                # Another goal asks again; the record is there for whoever wants it.
                page.get_by_label("a little").check()
                page.wait_for_selector("#answer:not([hidden])", timeout=30_000)
                link = page.locator("#record").get_attribute("href")
                record = httpx.get(f"{service.address}/{link}").json()
                assert record["answer"]["class"] == label
                # A photograph is chosen, and the page says what was done to it.
                page.set_input_files("#file", photo)
                page.wait_for_selector("#changed:not([hidden])", timeout=30_000)
                assert "scaled from 120 x 90" in page.locator("#changed").inner_text()
                # Something that is no picture: one sentence.
                page.set_input_files("#file", tmp_path / "errors.txt")
                assert "choose another file" in page.locator("#problem").inner_text()
                assert not page.locator("#voting").is_visible()  # it was about another picture
                assert not page.locator("#preview").is_visible()
        assert service.stop() == 0


def _base64(file: Path) -> str:
    import base64

    return base64.b64encode(file.read_bytes()).decode()
