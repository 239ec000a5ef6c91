"""A real browser for the tests of pages: the distribution's Chromium, driven by Playwright."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Page, sync_playwright

CHROMIUM = next((p for p in map(shutil.which, ("chromium", "chromium-browser")) if p), None)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium found: apt-get install chromium"
)
WIDTHS = {"desktop": (1280, 900), "phone": (390, 844)}


@contextmanager
def opened(address: str, width: str = "desktop", *, scheme: str = "light") -> Iterator[Page]:
    """Open a page; on leaving, fail if its console said anything or it asked another host.

    Args:
        address: A file:// or http:// address.
        width: "desktop" (1280 pixels) or "phone" (390).
        scheme: "light" or "dark", as the reader's system would ask for.
    """
    said: list[str] = []
    asked: list[str] = []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        try:
            wide, high = WIDTHS[width]
            page = browser.new_page(
                viewport={"width": wide, "height": high},
                color_scheme="dark" if scheme == "dark" else "light",
            )
            page.on(
                "console", lambda line: said.extend([line.text] if line.type == "error" else [])
            )
            page.on("pageerror", lambda error: said.append(str(error)))
            page.on("request", lambda request: asked.append(request.url))
            page.goto(address)
            yield page
        finally:
            browser.close()
    assert not said, f"the page's console says {said}"
    home = address.split("/", 3)[2]
    strangers = [a for a in asked if a.startswith("http") and a.split("/", 3)[2] != home]
    assert not strangers, f"the page asks {strangers}"
