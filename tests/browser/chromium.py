"""A headless Chromium for tests, driven over its DevTools protocol with aiohttp (which Ray brings along).

    with Chromium() as browser:
        page = browser.open("file:///tmp/report.html", width=400, dark=True)
        assert page.errors == [] and page.run("document.title") == "..."

A page that logs an error, throws, asks for anything beyond its own address or shows a broken image says so in
``errors``.
"""

from __future__ import annotations

import asyncio
import base64
import os
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import aiohttp
import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
_START_S = 60.0
_BROKEN = "Array.from(document.images).filter(i => !i.complete || !i.naturalWidth).map(i => i.src.slice(0, 80))"


def find() -> str:
    """The program; the test is skipped where there is none."""
    for name in NAMES:
        if path := shutil.which(name):
            return path
    pytest.skip(
        "no Chromium: `apt-get install chromium` (or set it on PATH) to run the browser tests"
    )


class Chromium:
    """One browser process with a profile of its own, ended with the block."""

    def __enter__(self) -> Chromium:
        program = find()
        self._loop = asyncio.new_event_loop()
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        options = ["--headless=new", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
        options += ["--remote-debugging-port=0", f"--user-data-dir={self._profile.name}"]
        options += [
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
        ]
        if os.getuid() == 0:  # as in a container: its sandbox refuses to start for root
            options.append("--no-sandbox")
        self._log = Path(self._profile.name) / "stderr.log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [program, *options, "about:blank"], stderr=log, stdout=log, start_new_session=True
            )
        try:
            self._address = self._wait_for_address()
            self._session = self._loop.run_until_complete(_session())
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if hasattr(self, "_session"):
            self._loop.run_until_complete(self._session.close())
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        self._loop.close()
        self._profile.cleanup()

    def _wait_for_address(self) -> str:
        until = time.monotonic() + _START_S
        while time.monotonic() < until:
            if found := re.search(r"DevTools listening on ws://([^/\s]+)", self._log.read_text()):
                return f"http://{found[1]}"
            assert self._process.poll() is None, self._log.read_text()[-2000:]
            time.sleep(0.05)
        raise AssertionError(f"Chromium did not start within {_START_S:g} s")

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
        page = Page(self._loop, url)
        self._loop.run_until_complete(
            page.open(self._session, self._address, (width, height), dark, until)
        )
        return page


async def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession()


class Page:
    """An open page; ``errors`` holds what a developer's console would show in red."""

    def __init__(self, loop: asyncio.AbstractEventLoop, url: str) -> None:
        self._loop, self._url = loop, url
        self._number = 0
        self._loaded = False
        self._errors: list[str] = []

    @property
    def errors(self) -> list[str]:
        """Console errors, exceptions, foreign requests and broken images so far."""
        broken = [f"broken image {source}" for source in self.run(_BROKEN)]
        return self._errors + broken

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        return self._loop.run_until_complete(self._run(expression))

    def hover(self, x: float, y: float) -> None:
        """Move the pointer to a place in the window."""
        self._loop.run_until_complete(
            self._call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        )

    def inside(self, until: str) -> Page:
        """The page in this one's sandboxed iframe, which is a process of its own, once ``until`` holds in it."""
        page = Page(self._loop, "blob:")
        self._loop.run_until_complete(page.enter(self._session, self._address, self._id, until))
        return page

    def screenshot(self, path: Path, *, window: bool = False) -> bytes:
        """The whole page as PNG, up to 12000 pixels high, or its ``window``; also written to ``path``.

        For the whole page the window is another for a moment. A page that builds itself anew when that happens, as
        MLflow's does, is then pictured with placeholders.
        """
        size = self.run(
            "[document.documentElement.scrollWidth, document.documentElement.scrollHeight]"
        )
        clip = {"x": 0, "y": 0, "width": size[0], "height": min(size[1], 12000), "scale": 1}
        whole = {} if window else {"captureBeyondViewport": True, "clip": clip}
        answer = self._loop.run_until_complete(
            self._call("Page.captureScreenshot", format="png", **whole)
        )
        content = base64.b64decode(answer["data"])
        path.write_bytes(content)
        return content

    # ------------------------------------------------------------------ the protocol

    async def open(
        self,
        session: aiohttp.ClientSession,
        address: str,
        size: tuple[int, int],
        dark: bool,
        until: str,
    ) -> None:
        async with session.put(f"{address}/json/new?about:blank") as response:
            target = await response.json(content_type=None)
        await self._attach(session, address, target)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self._call("Emulation.setEmulatedMedia", features=[scheme])
        await self._call(
            "Emulation.setDeviceMetricsOverride",
            width=size[0], height=size[1], deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        await self._call("Page.bringToFront")  # a page behind another is sent no pointer
        await self._call("Page.navigate", url=self._url)
        await self._wait(until)

    async def enter(
        self, session: aiohttp.ClientSession, address: str, parent: str, until: str
    ) -> None:
        deadline = time.monotonic() + _START_S
        while True:
            async with session.get(f"{address}/json/list") as response:
                targets = await response.json(content_type=None)
            frames = [target for target in targets if target.get("parentId") == parent]
            if frames:
                break
            assert time.monotonic() < deadline, "no iframe in a process of its own"
            await asyncio.sleep(0.05)
        await self._attach(session, address, frames[0])
        self._loaded = True  # or soon: that event may have passed
        await self._wait(until)

    async def _attach(
        self, session: aiohttp.ClientSession, address: str, target: dict[str, Any]
    ) -> None:
        self._session, self._address, self._id = session, address, target["id"]
        self._socket = await session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0)
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self._call(f"{domain}.enable")

    async def _wait(self, until: str) -> None:
        deadline = time.monotonic() + _START_S
        while not (
            await self._run(f"Boolean({until})") and self._loaded
        ):  # events come with answers
            assert time.monotonic() < deadline, f"{self._url}: never came to {until}"
            await asyncio.sleep(0.05)

    async def _run(self, expression: str) -> Any:
        answer = await self._call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        number = self._number
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        while True:
            message = await self._socket.receive_json(timeout=_START_S)
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            self._hear(message)

    def _hear(self, message: dict[str, Any]) -> None:
        method, values = message.get("method"), message.get("params", {})
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Runtime.exceptionThrown":
            self._errors.append(f"exception: {values['exceptionDetails']}")
        elif method == "Runtime.consoleAPICalled" and values["type"] in ("error", "assert"):
            self._errors.append(f"console: {values['args']}")
        elif method == "Log.entryAdded" and values["entry"]["level"] == "error":
            self._errors.append(f"log: {values['entry']['text']} {values['entry'].get('url', '')}")
        elif method == "Network.requestWillBeSent":
            asked, own = urlparse(values["request"]["url"]), urlparse(self._url)
            if asked.scheme not in ("data", "blob") and asked.netloc != own.netloc:
                self._errors.append(f"foreign request: {values['request']['url']}")
        elif method == "Network.responseReceived" and values["response"]["status"] >= 400:
            self._errors.append(
                f"status {values['response']['status']}: {values['response']['url']}"
            )
