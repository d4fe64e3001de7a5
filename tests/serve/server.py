"""A running ``stm serve`` for tests: a process of its own, ended as a person would end it."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import requests


class Server:
    """The process, and the URL it answers at."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, log: Path) -> None:
        self.process, self.url, self.log = process, url, log

    def post(self, data: bytes, **kwargs: object) -> requests.Response:
        return requests.post(f"{self.url}/predict", data=data, timeout=120, **kwargs)

    def workers(self, name: str) -> list[psutil.Process]:
        """The Ray processes of a deployment."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        found = []
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                if any(f"ServeReplica:stm:{name}" in part for part in child.cmdline()):
                    found.append(child)
        return found

    def stop(self, number: int = signal.SIGINT) -> int:
        """Ctrl-C, or another signal; the exit status."""
        self.process.send_signal(number)
        return self.process.wait(90)


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


@contextlib.contextmanager
def serving(log: Path, *arguments: str) -> Iterator[Server]:
    """``stm serve ARGUMENTS`` on a free port of this machine, until the block ends."""
    port = free_port()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "stm", "serve", "--address", "local"),
                *("--port", str(port), *arguments),
            ],
            cwd=Path(__file__).parents[2],
            stdout=output,
            stderr=output,
        )
    server = Server(process, f"http://127.0.0.1:{port}", log)
    try:
        deadline = time.monotonic() + 400
        while b"Ctrl-C ends it" not in log.read_bytes():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"stm serve did not start: {log.read_text()[-3000:]}")
            time.sleep(0.2)
        yield server
    finally:
        if process.poll() is None:
            children = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(60)
            for child in [process, *children]:
                with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                    child.kill()


class Health:
    """Asks for `/health` all the time, each time by a connection of its own."""

    def __init__(self, ask: Callable[[], int]) -> None:
        self._ask, self._over = ask, threading.Event()
        self.tried, self.answered, self.longest_s = 0, 0, 0.0
        self._thread = threading.Thread(target=self._run)

    @classmethod
    def of(cls, url: str) -> Health:
        return cls(lambda: requests.get(f"{url}/health", timeout=20).status_code)

    def _run(self) -> None:
        last = time.monotonic()
        while not self.tried or not self._over.wait(0.05):
            self.tried += 1
            with contextlib.suppress(OSError):  # requests' own are of this kind
                self.answered += self._ask() == 200
                now = time.monotonic()
                self.longest_s, last = max(self.longest_s, now - last), now

    def __enter__(self) -> Health:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def __str__(self) -> str:
        return f"/health tried {self.tried}, answered {self.answered}, longest silence {self.longest_s:.2f} s"
