"""An object store that speaks S3, as a process of its own on this machine, and an address of it that can go away."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil


@contextlib.contextmanager
def s3_server(folder: Path, **settings: str) -> Iterator[str]:
    """Its address, which all of it is gone after; ``settings`` are moto's environment variables."""
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdout=log,
            stderr=log,
            env={**os.environ, **settings},
        )
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(url, timeout=1).close()
                break
            except OSError:
                assert server.poll() is None, (folder / "server.log").read_text()
                time.sleep(0.1)
        yield url
    finally:
        server.send_signal(signal.SIGCONT)
        server.terminate()
        server.wait(10)


def process_of(url: str) -> psutil.Process:
    """The server at ``url`` that `s3_server` has started."""
    port = url.rpartition(":")[2]
    (found,) = [
        child
        for child in psutil.Process().children()
        if "moto.server" in (words := child.cmdline()) and port in words
    ]
    return found


def environment_of(url: str) -> dict[str, str]:
    """What a process reaches the store at ``url`` with."""
    return {
        "AWS_ENDPOINT_URL": url,
        "FSSPEC_S3_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


class Line:
    """Another address of a server, ``url``, that can be cut and mended: a server that is started anew has lost all."""

    def __init__(self, url: str) -> None:
        self._port, self._server_port = _free_port(), int(url.rpartition(":")[2])
        self.url = f"http://127.0.0.1:{self._port}"
        self._listening: socket.socket | None = None
        self._open: list[socket.socket] = []
        self.mend()

    def mend(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", self._port))
        threading.Thread(target=self._accept, args=(self._listening,), daemon=True).start()

    def cut(self) -> None:
        """Refuse connections, and end those that there are."""
        assert self._listening is not None
        for each in (self._listening, *self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self._open = []

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                near, _ = listening.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._server_port))
            self._open += [near, far]
            for pair in ((near, far), (far, near)):
                threading.Thread(target=_copy, args=pair, daemon=True).start()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(2**16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def _free_port() -> int:
    with socket.socket() as probe_socket:
        probe_socket.bind(("127.0.0.1", 0))
        return int(probe_socket.getsockname()[1])
