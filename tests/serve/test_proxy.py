"""``clusters/nginx.conf`` in front of a real server: what it lets through, and what it stops."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from stm.serve import app
from tests.package.untrained import write_checkpoint
from tests.serve.server import Health, free_port, serving
from tests.videos import write_video

ROOT = Path(__file__).parents[2]
NAME = "videos.example.org"
TOKEN = "correct-horse-battery-staple"

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.tool("nginx")]


@pytest.fixture(scope="module")
def proxy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("proxied")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", folder / "key", "-out", folder / "cert",
         "-days", "2", "-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}"],
        check=True, capture_output=True,
    )  # fmt: skip
    checkpoint = write_checkpoint(folder / "run" / "checkpoint-00000007")
    words = ["--checkpoint", checkpoint, "--decoders", "1", "--allowed_hosts", NAME]
    with contextlib.ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(app.TOKEN, TOKEN)
            server = stack.enter_context(serving(folder / "log", *words))
        port = free_port()
        text = (ROOT / "clusters" / "nginx.conf").read_text()
        for old, new in {
            "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
            "127.0.0.1:8000": server.url.removeprefix("http://"),
            f"/etc/ssl/{NAME}.pem": str(folder / "cert"),
            f"/etc/ssl/{NAME}.key": str(folder / "key"),
        }.items():
            assert old in text
            text = text.replace(old, new)
        (folder / "nginx.conf").write_text(text)
        nginx = subprocess.Popen(
            [shutil.which("nginx"), "-p", folder, "-c", folder / "nginx.conf", "-e", folder / "errors",
             "-g", f"daemon off; pid {folder}/pid;"],
        )  # fmt: skip
        stack.callback(nginx.wait)
        stack.callback(nginx.terminate)
        deadline = time.monotonic() + 60
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert nginx.poll() is None, (folder / "errors").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        video = write_video(folder / "clip.mp4", num_frames=8).read_bytes()
        yield SimpleNamespace(port=port, cert=folder / "cert", video=video)


def connected(proxy, name=NAME) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=proxy.cert)
    plain = socket.create_connection(("127.0.0.1", proxy.port), timeout=60)
    return context.wrap_socket(plain, server_hostname=name)


def asked(proxy, head: str, body: bytes = b"") -> tuple[int, bytes]:
    """Status and all that came back of one request, written by hand."""
    with connected(proxy) as connection, contextlib.suppress(ConnectionError, ssl.SSLError):
        connection.sendall(head.replace("\n", "\r\n").encode() + body)
        answer = b""
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while more := connection.recv(65536):
                answer += more
        return int(answer[9:12] or 0), answer
    return 0, b""


def head(line: str, *more: str) -> str:
    return "\n".join([f"{line} HTTP/1.1", f"Host: {NAME}", "Connection: close", *more, "", ""])


def upload(proxy, *more: str) -> tuple[int, bytes]:
    return asked(proxy, head("POST /predict", f"Content-Length: {len(proxy.video)}", *more), proxy.video)  # fmt: skip


BEARER = f"Authorization: Bearer {TOKEN}"


def test_who_has_name_and_token_is_answered_and_nobody_else(proxy):
    status, answer = upload(proxy, BEARER)
    assert status == 200, answer
    assert b'"top5"' in answer
    assert upload(proxy)[0] == 401
    assert asked(proxy, head("GET /health"))[0] == 200
    with pytest.raises(ssl.SSLError):
        connected(proxy, "evil.example")


@pytest.mark.parametrize(
    ("line", "more", "statuses"),
    [
        ("GET /health", ["X: " + "a" * 100_000], {400}),
        ("GET /health", [f"X-{k}: {'a' * 1000}" for k in range(100)], {400}),
        ("GET /" + "a" * 100_000, [], {414}),
        ("POST /predict", [BEARER, f"Content-Length: {70 * 2**20}"], {413}),
        ("POST /predict", ["Content-Length: 3", "Transfer-Encoding: chunked"], {400}),
        ("POST /predict", ["Content-Length: 3", "Content-Length: 4"], {400}),
        ("POST /predict", ["Transfer-Encoding: xchunked"], {400, 501}),
        ("POST /predict", ["Transfer-Encoding : chunked"], {400}),
    ],
    ids=["header", "headers", "path", "body", "two framings", "two lengths", "coding", "blank"],
)
def test_what_is_too_large_or_framed_twice_ends_at_the_proxy(proxy, line, more, statuses):
    status, answer = asked(proxy, head(line, *more))
    assert status in statuses, answer[:300]
    assert b"nginx" in answer


def test_one_address_gets_so_many_requests_at_once_and_health_is_answered(proxy):
    with Health(lambda: asked(proxy, head("GET /health"))[0]) as health:
        with contextlib.ExitStack() as stack:
            held = [stack.enter_context(connected(proxy)) for _ in range(300)]
            for connection in held:
                connection.sendall(b"GET /health HTTP/1.1\r\nX-Slow: ")
            for connection in held:
                with contextlib.suppress(ConnectionError, ssl.SSLError):
                    assert b"200 OK" not in connection.recv(4096)
        with ThreadPoolExecutor(60) as pool:
            seen = Counter(s for s, _ in pool.map(lambda _: upload(proxy, BEARER), range(120)))
    print(f"uploads {dict(seen)}; {health}")
    assert set(seen) <= {200, 429, 503}
    assert seen[200]
    assert health.answered == health.tried


def test_a_body_that_never_ends_is_cut(proxy):
    with connected(proxy) as connection:
        begun = head("POST /predict", BEARER, "Content-Length: 1000")
        connection.sendall(begun.replace("\n", "\r\n").encode())
        assert connection.recv(4096)[9:12] in (b"408", b"")
