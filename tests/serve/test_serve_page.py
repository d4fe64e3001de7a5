"""The page in a real browser: a dropped video is answered, a bad file is named, nothing is loaded from elsewhere."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import resources
from pathlib import Path

import pytest

from stm.serve.page import CONTENT_SECURITY_POLICY, page
from tests.browser.chromium import Chromium, Page
from tests.package.untrained import CLASSES, write_checkpoint
from tests.serve.server import serving
from tests.videos import write_frame_folder, write_video

DROP = """
(() => {
  const transfer = new DataTransfer();
  for (const [name, text] of %s)
    transfer.items.add(new File([Uint8Array.from(atob(text), (c) => c.charCodeAt(0))], name));
  const event = new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true });
  document.getElementById("drop").dispatchEvent(event);
  return event.defaultPrevented;
})()
"""


def test_a_models_name_cannot_write_into_the_page():
    text = page("<script>alert(1)</script>", 8, 2**20)
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert" in text


def test_the_page_forbids_itself_to_load_from_elsewhere():
    assert "default-src 'none'" in CONTENT_SECURITY_POLICY
    assert "http" not in page("models:/actions/1", 8, 2**20)


def test_the_one_script_that_may_run_is_the_pages_own():
    (script,) = re.findall(r"<script>(.*?)</script>", page("a", 8, 2**20), re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in CONTENT_SECURITY_POLICY


@contextlib.contextmanager
def replying(status: int, body: bytes) -> Iterator[str]:
    """A server that replies this to every upload, as a proxy may; its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.mark.skipif(shutil.which("node") is None, reason="no Node.js to run the page's script")
@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (431, b"", "the reply is no answer but the status 431 Request Header Fields Too Large"),
        (502, b"<html>", "the reply is no answer but the status 502 Bad Gateway"),
        (200, b"<html>", "the reply is no answer but the status 200 OK"),
        (200, b"{}", "the reply is no answer but the status 200 OK"),
        (503, b'{"error": {"reason": "ending", "detail": "the server is stopping"}}', "ending: the server is stopping"),
    ],
)  # fmt: skip
def test_a_reply_that_is_no_answer_is_told_with_its_status(status, body, said):
    script = resources.files("stm.serve") / "templates" / "page.js"
    with replying(status, body) as url:
        done = subprocess.run(
            ["node", str(Path(__file__).with_name("page_in_node.js")), str(script), url],
            capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
    assert done.stdout == f"a.mp4: {said}\n"


@pytest.mark.slow
@pytest.mark.ray
def test_a_dropped_video_is_answered_and_a_bad_file_is_named(tmp_path):
    """Screenshots go to ``$STM_SCREENSHOTS``, where it is set."""
    checkpoint = write_checkpoint(tmp_path / "run" / "checkpoint-00000007")
    video = write_video(tmp_path / "käse <b>.webm", num_frames=24, codec="libvpx").read_bytes()
    pictures = Path(os.environ.get("STM_SCREENSHOTS", tmp_path))
    with (
        Chromium() as browser,
        serving(tmp_path / "log", "--checkpoint", checkpoint, "--decoders", "1") as server,
    ):
        for name, dark, width in (
            ("light", False, 900),
            ("dark", True, 900),
            ("narrow", True, 380),
        ):
            tab = browser.open(f"{server.url}/", width=width, dark=dark)
            assert "run/checkpoint-00000007, 6 classes" in tab.run("document.body.innerText")
            assert str(tmp_path) not in tab.run("document.documentElement.outerHTML")
            tab.screenshot(pictures / f"serve-{name}-empty.png")
            drop(tab, "käse <b>.webm", video)
            wait(tab, "!document.getElementById('result').hidden && video.readyState >= 2")
            answered(tab)
            assert not tab.run("document.documentElement.scrollWidth > innerWidth")
            assert tab.errors == []
            ground = tab.run("getComputedStyle(document.body).backgroundColor")
            assert ground == ("rgb(18, 22, 28)" if dark else "rgb(250, 251, 252)")
            tab.screenshot(pictures / f"serve-{name}.png")

        folder = write_frame_folder(tmp_path / "frames", num_frames=12)
        drop_all(tab, [(path.name, path.read_bytes()) for path in folder.iterdir()])
        wait(tab, "!document.getElementById('result').hidden && video.hidden")
        assert "12 frames, 160 x 96" in tab.run("document.getElementById('facts').textContent")
        assert tab.run("document.getElementById('state').textContent") == "12 files"
        assert tab.errors == []
        tab.screenshot(pictures / "serve-images.png")

        drop(tab, "bad.mp4", b"no video")
        wait(tab, "document.getElementById('state').className === 'bad'")
        said = tab.run("document.getElementById('state').textContent")
        assert said.startswith("bad.mp4: not_a_video")
        assert tab.run("getComputedStyle(document.getElementById('result')).display") == "none"
        # The browser complains of the status of a refusal, and of nothing else.
        assert tab.errors
        assert all("422" in error for error in tab.errors)
        tab.screenshot(pictures / "serve-refused.png")


def drop(tab: Page, name: str, content: bytes) -> None:
    """Drop a file on the page, as the pointer would."""
    drop_all(tab, [(name, content)])


def drop_all(tab: Page, files: list[tuple[str, bytes]]) -> None:
    texts = [(name, base64.b64encode(content).decode()) for name, content in files]
    assert tab.run(DROP % json.dumps(texts))


def wait(tab: Page, condition: str) -> None:
    deadline = time.monotonic() + 30
    while not tab.run(f"Boolean({condition})"):
        assert time.monotonic() < deadline, tab.run("document.body.innerText")
        time.sleep(0.1)


def answered(tab: Page) -> None:
    """Five classes, the likeliest first, and the video's facts."""
    names = tab.run("[...document.querySelectorAll('li b')].map(b => b.textContent)")
    assert len(names) == 5
    assert set(names) <= set(CLASSES)
    widths = "[...document.querySelectorAll('.fill')].map(f => parseFloat(f.style.width))"
    shares = tab.run(widths)
    assert shares == sorted(shares, reverse=True)
    assert "24 frames, 160 x 96, vp8" in tab.run("document.getElementById('facts').textContent")
    assert tab.run("document.getElementById('state').textContent") == "käse <b>.webm"
