"""A headless Chromium for tests: the system's own, driven by playwright.

    with Chromium() as browser:
        page = browser.open("file:///tmp/report.html", width=400, dark=True)
        assert page.errors == [] and page.run("document.title") == "..."

A page that logs an error, throws, asks for anything beyond its own address or shows a broken image says so in
``errors``.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pytest
from playwright.sync_api import ConsoleMessage, Frame, Request, Response, sync_playwright
from playwright.sync_api import Page as Tab

NAMES = ("chromium", "chromium-browser", "google-chrome")
_START_S = 60.0
_MOST_PIXELS = 12_000
_BROKEN = "Array.from(document.images).filter(i => !i.complete || !i.naturalWidth).map(i => i.src.slice(0, 80))"
_CARRIED = ("data", "blob", "about")
"""Addresses of what a page holds itself."""


def find() -> str:
    """The program; the test is skipped where there is none."""
    for name in NAMES:
        if path := shutil.which(name):
            return path
    pytest.skip(
        "no Chromium: `apt-get install chromium` (or set it on PATH) to run the browser tests"
    )


class Chromium:
    """One browser process, ended with the block."""

    def __enter__(self) -> Chromium:
        program = find()
        self._playwright = sync_playwright().start()
        try:
            self._browser = self._playwright.chromium.launch(
                executable_path=program,
                # As in a container: its sandbox refuses to start for root.
                chromium_sandbox=os.getuid() != 0,
                args=["--disable-gpu"],
                timeout=1000 * _START_S,
            )
        except BaseException:
            self._playwright.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._browser.close()
        self._playwright.stop()

    def open(
        self,
        url: str,
        *,
        width: int = 1100,
        height: int = 900,
        dark: bool = False,
        until: str = "true",
    ) -> Page:
        """Open ``url`` in a window of that many pixels; returns once it is loaded and ``until`` holds."""
        tab = self._browser.new_page(
            viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light"
        )
        tab.set_default_timeout(1000 * _START_S)
        page = Page(tab, url)
        tab.goto(url)
        page.wait(until)
        return page


class _View:
    """A document: a page's own, or that of a frame in it."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        return self._frame.evaluate(expression)

    def wait(self, until: str) -> None:
        """Until a JavaScript expression holds. Asked from here: a page's policy may forbid playwright's own waiting."""
        deadline = time.monotonic() + _START_S
        while not self.run(f"Boolean({until})"):
            assert time.monotonic() < deadline, f"{self._frame.url}: never came to {until}"
            self._frame.wait_for_timeout(50)

    def _broken_images(self) -> list[str]:
        return [f"broken image {source}" for source in self.run(_BROKEN)]


class Inside(_View):
    """The document of a frame; ``errors`` are its own, and its page has them, too."""

    def __init__(self, frame: Frame, heard: list[tuple[str, str]]) -> None:
        super().__init__(frame)
        self._heard = heard

    @property
    def errors(self) -> list[str]:
        broken = self._broken_images()
        own = [said for place, said in self._heard if urlparse(place).scheme in _CARRIED]
        return own + broken


class Page(_View):
    """An open page; ``errors`` holds what a developer's console would show in red."""

    def __init__(self, tab: Tab, url: str) -> None:
        super().__init__(tab.main_frame)
        self._tab, self._url = tab, url
        self._heard: list[tuple[str, str]] = []
        """(address that it is about or was said at, error)"""
        tab.on("pageerror", lambda error: self._heard.append(("", f"exception: {error}")))
        tab.on("console", self._hear_console)
        tab.on("request", self._hear_request)
        tab.on("response", self._hear_response)

    @property
    def errors(self) -> list[str]:
        """Console errors, exceptions, foreign requests and broken images so far."""
        broken = self._broken_images()  # events come with answers
        return [said for _, said in self._heard] + broken

    def hover(self, x: float, y: float) -> None:
        """Move the pointer to a place in the window."""
        self._tab.mouse.move(x, y)

    def inside(self, until: str) -> Inside:
        """The document of this page's frame, once ``until`` holds in it."""
        deadline = time.monotonic() + _START_S
        while len(self._tab.frames) < 2:
            assert time.monotonic() < deadline, f"{self._url}: no frame in it"
            self._tab.wait_for_timeout(50)
        frame = Inside(self._tab.frames[1], self._heard)
        frame.wait(until)
        return frame

    def screenshot(self, path: Path, *, window: bool = False) -> bytes:
        """The whole page as PNG, up to 12000 pixels high, or its ``window``; also written to ``path``.

        For the whole page the window is another for a moment. A page that builds itself anew when that happens, as
        MLflow's does, is then pictured with placeholders.
        """
        if window:
            return self._tab.screenshot(path=path)
        root = "document.documentElement"
        width, height = self.run(f"[{root}.scrollWidth, {root}.scrollHeight]")
        clip = {"x": 0, "y": 0, "width": width, "height": min(height, _MOST_PIXELS)}
        return self._tab.screenshot(path=path, full_page=True, clip=clip)  # type: ignore[arg-type]

    # ------------------------------------------------------------------ what playwright tells

    def _hear_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "assert"):
            place = message.location["url"]
            self._heard.append((place, f"console: {message.text!r} {place}"))

    def _hear_request(self, request: Request) -> None:
        asked = urlparse(request.url)
        is_pages = request.is_navigation_request() or request.frame.parent_frame is None
        own = urlparse(self._url).netloc if is_pages else ""
        if asked.scheme not in _CARRIED and asked.netloc != own:
            self._heard.append(("blob:" * (not is_pages), f"foreign request: {request.url}"))

    def _hear_response(self, response: Response) -> None:
        if response.status >= 400:
            self._heard.append((response.url, f"status {response.status}: {response.url}"))
