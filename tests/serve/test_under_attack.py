"""Strangers' requests: none keeps `/health` from answering, and none is kept whole. ``-s`` prints the figures."""

from __future__ import annotations

import contextlib
import io
import re
import socket
import struct
import time
import zipfile
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
import requests

from stm.errors import UserError
from stm.serve import app, wire
from stm.serve.front import Doors
from tests.package.untrained import write_checkpoint
from tests.serve.server import Health, serving
from tests.videos import write_video

TOKEN = "correct-horse-battery-staple"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
FORM = {**BEARER, "Content-Type": "multipart/form-data; boundary=b"}
HEAD = b'Content-Disposition: form-data; name="v"; filename="v"\r\n\r\n'

# ---------------------------------------------------------------------- whom it answers


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "a.example:8000", **BEARER}, None),
        ({"host": "A.Example", "authorization": f"bearer {TOKEN}"}, None),
        ({"host": "[::1]:80", "authorization": "Basic dXNlcjpjb3JyZWN0LWhvcnNlLWJhdHRlcnktc3RhcGxl"}, None),
        ({"host": "a.example.evil", **BEARER}, 421),
        ({"host": "", **BEARER}, 421),
        (BEARER, 421),
        ({"host": "a.example"}, 401),
        ({"host": "a.example", "authorization": "Bearer "}, 401),
        ({"host": "a.example", "authorization": f"Bearer {TOKEN}x"}, 401),
        ({"host": "a.example", "authorization": f"Digest {TOKEN}"}, 401),
        ({"host": "a.example", "authorization": "Basic ä"}, 401),
        ({"host": "a.example", "authorization": f"Bearer {TOKEN}ä"}, 401),
    ],
)  # fmt: skip
def test_who_knows_the_token_and_calls_the_server_by_its_name_is_answered(headers, status):
    doors = Doors(hosts=("a.example", "[::1]"), token=TOKEN)
    refused = doors.refused({name.lower(): value for name, value in headers.items()})
    assert (refused and refused.status) == status
    assert TOKEN not in repr(doors)
    assert Doors().refused({}) is None


@pytest.mark.parametrize(
    ("hosts", "token"),
    [(["http://a"], None), (["a:80"], None), ([""], None), (None, ""), (None, "short"), (None, "with blanks in it")],
)  # fmt: skip
def test_a_name_or_token_that_no_client_could_send_is_refused_and_not_shown(hosts, token):
    with pytest.raises(UserError, match="--allowed_hosts" if hosts else "--token") as error:
        app._doors(hosts, token)
    assert not token or token not in str(error.value)


def test_the_token_of_the_environment_is_taken(monkeypatch):
    assert app._doors(None, None).token == ""
    monkeypatch.setenv(app.TOKEN, TOKEN)
    assert app._doors(None, None).token == TOKEN
    assert app._doors(None, TOKEN[::-1]).token == TOKEN[::-1]


# ---------------------------------------------------------------------- attacks


def form_bodies():
    near = b"--b\r\n" + HEAD
    return {
        "a quadratic head": near[:35] + b"; filename" * 40_000 + b"\r\n\r\nx\r\n--b--\r\n",
        "a head of blanks": b"--b\r\n" + b" " * 400_000 + b"\r\n\r\nx\r\n--b--\r\n",
        "line ends": near + b"\r\n" * 200_000 + b"\r\n--b--\r\n",
        "almost boundaries": near + b"\r\n--a" * 100_000 + b"\r\n--b--\r\n",
        "half boundaries": near + b"\r\n-" * 130_000 + b"\r\n--b--\r\n",
        "no first boundary": b"\r\n--" * 100_000,
        "many heads": b"--b\r\n" + b"a: b\r\n" * 66_000 + b"\r\nx\r\n--b--\r\n",
        "many parts": b"".join(b"--b\r\n" + HEAD + b"\r\n" for _ in range(60_000)) + b"--b--\r\n",
        "a giant head": b"--b\r\nX: " + b"a" * 30_000_000 + b"\r\n\r\nx\r\n--b--\r\n",
    }  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("attacked")
    checkpoint = write_checkpoint(folder / "run" / "checkpoint-00000007")
    words = ["--checkpoint", checkpoint, "--decoders", "1", "--receive_s", "3", "--max_mib", "40"]
    words += ["--allowed_hosts", "127.0.0.1", "localhost"]
    with contextlib.ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(app.TOKEN, TOKEN)
            started = stack.enter_context(serving(folder / "log", *words))
        video = write_video(folder / "clip.mp4", num_frames=8).read_bytes()
        yield SimpleNamespace(url=started.url, log=started.log, video=video)


def connected(server) -> socket.socket:
    at = urlsplit(server.url)
    return socket.create_connection((at.hostname, at.port), timeout=30)


def pushed(server, start: bytes, block: bytes, most: int) -> tuple[int, bytes]:
    """How many bytes of an endless request the server took until it closed, and its answer."""
    sent = 0
    with connected(server) as connection:
        with contextlib.suppress(OSError):
            connection.sendall(start)
            while sent < most:
                sent += connection.send(block)
        with contextlib.suppress(OSError):
            return sent, connection.recv(200)
    return sent, b""


def closed(connection: socket.socket) -> bool:
    """Whether the server has closed a connection, or does within the socket's patience."""
    with contextlib.suppress(ConnectionError):
        while connection.recv(4096):
            pass
    return True


LAST = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
SMUGGLED = {
    "two framings": b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two framings turned": b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": b"Content-Length: 0\r\nContent-Length: 60\r\n\r\n",
    "a length with a sign": b"Content-Length: +0\r\n\r\n",
    "two lengths in one": b"Content-Length: 0, 60\r\n\r\n",
    "a blank before the colon": b"Content-Length : 0\r\n\r\n",
    "an unknown coding": b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunked is not the last": b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "a size that is no number": b"Transfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n",
    "a head that goes on": b"X: y\r\n Content-Length: 0\r\nContent-Length: 60\r\n\r\n",
}


def exchanged(server, data: bytes) -> bytes:
    """All that comes back until the server closes, or says nothing for 3 s."""
    answer = b""
    with connected(server) as connection, contextlib.suppress(OSError):
        connection.sendall(data)
        connection.settimeout(3 if b"close" not in data else 60)
        while more := connection.recv(65536):
            answer += more
    return answer


def bombs() -> dict[str, bytes]:
    """A few bytes that claim much: archives of zeros, too many files, images of gigabytes."""
    zeros = bytes(2**26)
    flat = png(60_000)
    return {
        "a zip of 2 GiB": zipped([(f"{k}.png", zeros) for k in range(32)]),
        "a zip of 20,001 files": zipped([(f"{k}.png", b"") for k in range(20_001)]),
        "a zip in a zip": zipped([("1.png", zipped([("1.png", zeros)]))]),
        "a PNG of 60,000 x 60,000": flat,
        "a zip of that PNG": zipped([("1.png", flat)]),
    }


def zipped(files: list[tuple[str, bytes]]) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in files:
            file.writestr(name, data)
    return archive.getvalue()


def png(side: int) -> bytes:
    """A PNG that claims so many pixels, all black, and holds the first 64 MiB of them."""

    def part(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + part(b"IHDR", head)
        + part(b"IDAT", zlib.compress(bytes(2**26)))
        + part(b"IEND", b"")
    )


def post(url: str, data: bytes) -> int:
    with contextlib.suppress(requests.ConnectionError):
        return requests.post(f"{url}/predict", data=data, headers=FORM, timeout=120).status_code
    return 0  # closed while it was sending


@pytest.mark.slow
@pytest.mark.ray
def test_health_answers_during_all_attacks_and_a_video_after_them(server):
    @contextlib.contextmanager
    def attack(name):
        began, seen = time.monotonic(), Counter()
        with Health.of(server.url) as health:
            yield seen
        print(f"{name}: {dict(seen)} in {time.monotonic() - began:.1f} s; {health}")
        assert health.answered == health.tried > 0

    for name, body in form_bodies().items():
        with attack(f"form: {name}") as seen, ThreadPoolExecutor(8) as pool:
            seen.update(pool.map(lambda _, body=body: post(server.url, body), range(8)))
        assert set(seen) <= {0, 400, 408, 413, 422, 503}, (name, seen)

    endless = {
        "one header": (b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: ", b"a" * 2**16),
        "many headers": (b"GET /health HTTP/1.1\r\nHost: localhost\r\n", b"a: b\r\n" * 10_000),
        "a path": (b"GET /", b"a" * 2**16),
        "trailers": (
            b"POST /predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
            b"a: b\r\n" * 10_000,
        ),
        "chunks of a byte": (
            b"POST /predict HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " + TOKEN.encode()
            + b"\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n" * 10_000
        ),
    }  # fmt: skip
    for name, (start, block) in endless.items():
        with (
            attack(f"100 MiB of {name}, 40 times, 8 at once") as seen,
            ThreadPoolExecutor(8) as pool,
        ):
            for sent, answer in pool.map(
                lambda _, of=(start, block): pushed(server, *of, 100 * 2**20), range(40)
            ):
                assert sent < 20 * 2**20, name  # what lies in buffers on the way
                seen[answer[9:12].decode() or "closed"] += 1

    with attack("300 endless requests") as seen, contextlib.ExitStack() as stack:
        held = [stack.enter_context(connected(server)) for _ in range(300)]
        for connection in held:
            with contextlib.suppress(ConnectionError):
                connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
        seen["closed"] = sum(map(closed, held))
    assert seen["closed"] == 300

    with attack("1500 kept connections") as seen, contextlib.ExitStack() as stack:
        held = [stack.enter_context(connected(server)) for _ in range(1500)]
        seen["closed"] = sum(map(closed, held[:1300]))
    assert seen["closed"] == 1300

    with attack("60 slow bodies") as seen, contextlib.ExitStack() as stack:
        held = [stack.enter_context(connected(server)) for _ in range(60)]
        for number, connection in enumerate(held):
            where = b"POST /predict" if number % 2 else b"GET /health"
            known = b"Authorization: Bearer " + TOKEN.encode()
            connection.sendall(
                where
                + b" HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999\r\n"
                + known
                + b"\r\n\r\n"
            )
        for _ in range(int(wire.LINGER_S) + 4):
            for connection in held:
                with contextlib.suppress(ConnectionError):
                    connection.send(b"x")
            time.sleep(1)
        for connection in held[::2]:
            seen["closed after an answer"] += closed(connection)
        for connection in held[1::2]:
            seen[connection.recv(4096)[9:12].decode()] += 1
    assert seen == {"closed after an answer": 30, "408": 30}

    with attack("40 x 200 pipelined requests, 8 at once") as seen, ThreadPoolExecutor(8) as pool:
        many = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" * 199 + LAST
        for answer in pool.map(lambda _: exchanged(server, many), range(40)):
            seen["200"] += answer.count(b"HTTP/1.1 200")
    assert seen == {"200": 40 * 200}

    for name, framing in SMUGGLED.items():
        with attack(f"smuggled: {name}, 8 times") as seen:
            for _ in range(8):
                start = b"POST /predict HTTP/1.1\r\nHost: localhost\r\n" + framing
                answer = exchanged(
                    server, start + b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
                )
                seen.update(re.findall(rb"HTTP/1.1 (\d+)", answer) or ["closed"])
                assert answer.count(b"HTTP/1.1") <= 1, (name, answer)
                assert b"Not Found" not in answer, name

    with attack("16 endless chunked bodies, 8 at once") as seen, ThreadPoolExecutor(8) as pool:
        start = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nAuthorization: Bearer "
        start += TOKEN.encode() + b"\r\n\r\n"
        chunk = b"10000\r\n" + bytes(2**16) + b"\r\n"
        for sent, answer in pool.map(lambda _: pushed(server, start, chunk, 2**40), range(16)):
            assert sent < 2**40, "it was closed, 10 s after its answer"
            seen[answer[9:12].decode() or "closed"] += 1
    assert set(seen) <= {"413", "408", "503", "closed"}

    for name, bomb in bombs().items():
        with attack(f"bomb: {name}, 16 times, 8 at once") as seen, ThreadPoolExecutor(8) as pool:
            seen.update(
                pool.map(
                    lambda _, bomb=bomb: (
                        requests.post(
                            f"{server.url}/predict", data=bomb, headers=BEARER, timeout=120
                        ).status_code
                    ),
                    range(16),
                )
            )
        assert set(seen) <= {422, 504}, (name, seen)

    done = requests.post(f"{server.url}/predict", data=server.video, headers=BEARER, timeout=120)
    assert done.status_code == 200, done.text
    assert TOKEN not in server.log.read_text()


@pytest.mark.slow
@pytest.mark.ray
def test_without_the_token_or_by_another_name_nobody_is_served(server):
    url = server.url
    assert requests.get(f"{url}/health", timeout=30).json() == {"status": "ok"}
    assert requests.get(f"{url}/health", headers=BEARER, timeout=30).json()["model"]
    for path in ("/", "/metrics"):
        refused = requests.get(f"{url}{path}", timeout=30)
        assert refused.status_code == 401
        assert refused.headers["WWW-Authenticate"].startswith("Basic ")
        assert requests.get(f"{url}{path}", auth=("any", TOKEN), timeout=30).status_code == 200
    assert requests.post(f"{url}/predict", data=server.video, timeout=30).status_code == 401
    headers = {**BEARER, "Host": "evil.example"}
    refused = requests.post(f"{url}/predict", data=server.video, headers=headers, timeout=30)
    assert (refused.status_code, refused.json()["error"]["reason"]) == (421, "host")


@pytest.mark.parametrize("host", ["", "nosuch.example"])
def test_a_host_that_is_none_is_refused(host):
    """The empty one, of a variable that is not set, would be every address of the machine."""
    with pytest.raises(UserError, match="--host is empty" if not host else "cannot listen there"):
        app._require_free(host, 8000)


def test_an_address_of_ipv6_stands_in_brackets():
    assert app._url("::1", 8000) == "http://[::1]:8000"
    assert app._url("127.0.0.1", 8000) == "http://127.0.0.1:8000"
