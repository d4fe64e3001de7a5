"""Measure torchcodec and mmaction2 beside stm, each in a process of an environment in which it is installed.

``--peers PYTHON`` names that environment's interpreter; stm need not be installed there. docs/benchmarks.md tells how
to create one.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self

from stm.bench import peer_process
from stm.errors import UserError
from stm.log import get_logger

logger = get_logger(__name__)

DECODERS = tuple(peer_process.CLIPS)
TSM = "mmaction2"
"""The peer with a TSM."""
PATIENCE_S = 120.0
"""Seconds that a peer may take to start, or to answer."""


class PeerError(UserError):
    """A peer is not available, has ended, or does not answer."""


class Peer:
    """A running peer, which ``with`` ends. ``name`` includes its version."""

    def __init__(self, python: str, peer: str, task: str, **settings: Any) -> None:
        """Start the peer. Raises ``PeerError`` if it is not available in this environment."""
        self._words = [python, peer_process.__file__, peer, task, json.dumps(settings)]
        self._start()

    def _start(self) -> None:
        self._received = b""
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  it is read after the process has ended
        try:
            self._process = subprocess.Popen(
                self._words,
                # Otherwise Python would search the script's folder first, and stm/bench has modules with common names.
                env={**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": "", "OMP_NUM_THREADS": "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                bufsize=0,
            )
        except OSError as error:
            raise UserError(
                f"--peers {self._words[0]}: cannot be started ({error.strerror}); name the Python of an environment "
                "that has torchcodec or mmaction2"
            ) from None
        first = self.read()
        if "missing" in first:
            self.__exit__()
            raise PeerError(first["missing"])
        self.name = first["peer"]

    def ask(self, question: Any = None) -> Any:
        """Return its answer. Raises ``PeerError`` if it ends or hangs; the next question then restarts it."""
        assert self._process.stdin is not None
        if self._process.poll() is not None:
            self._start()
        with suppress(BrokenPipeError):  # `read` raises then
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
        return self.read()

    def read(self) -> Any:
        """Return the next line, parsed as JSON. Raises ``PeerError``."""
        assert self._process.stdout is not None
        while b"\n" not in self._received:
            ready, _, _ = select.select([self._process.stdout], [], [], PATIENCE_S)
            got = os.read(self._process.stdout.fileno(), 1 << 20) if ready else b""
            if not got:
                self.__exit__()
                raise PeerError(self._last_words() if ready else f"no answer in {PATIENCE_S:g} s")
            self._received += got
        line, self._received = self._received.split(b"\n", 1)
        return json.loads(line)

    def _last_words(self) -> str:
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip().splitlines()
        return said[-1][:200] if said else f"it ended with status {self._process.returncode}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


def start(
    python: str, peers: tuple[str, ...], task: str, stack: ExitStack, **settings: Any
) -> dict[str, Peer]:
    """Start those of ``peers`` that this interpreter has, and return them by name; log the missing ones.

    Raises ``UserError`` if it has none of them.
    """
    found, missing = {}, {}
    for peer in peers:
        try:
            found[peer] = stack.enter_context(Peer(python, peer, task, **settings))
        except PeerError as error:
            missing[peer] = str(error)
    if not found:
        raise UserError(
            "\n".join(
                [f"--peers {python}: none of {', '.join(peers)} is available there"]
                + [f"  {peer}: {why}" for peer, why in missing.items()]
            )
        )
    for peer, why in missing.items():
        logger.warning(f"  without {peer}: {why}")
    return found


def through_loader(
    python: str,
    peer: str,
    samples: list[tuple[str, list[int]]],
    *,
    size: int,
    batch_size: int,
    cores: int,
) -> Iterator[int]:
    """Decode in the peer, in a DataLoader with ``cores`` workers; yield the size of each batch."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "samples.json"
        path.write_text(json.dumps(samples))
        settings: dict[str, Any] = {"size": size, "batch_size": batch_size, "cores": cores}
        with Peer(python, peer, "loader", samples=str(path), **settings) as running:
            left = len(samples)
            while left > 0:
                got = running.read()
                left -= got
                yield got
