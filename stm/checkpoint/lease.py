"""Allow only one driver for a run: a lease in the run directory names the driver, which renews it while it lives.

    with hold("runs/first") as lease:    # raises UserError while another driver lives
        lease.check()                    # raises UserError if another has taken the run

``RUN/driver.json`` contains the host, the process, the time when it took the run, and a count of heartbeats. A second
driver on the same machine checks whether that process lives. On another machine, or in another container, it waits up
to `SILENT_S` for a heartbeat; no clocks are compared. The lease of a dead driver is taken over. If its old holder still
runs, it notices this at its next heartbeat, and its workers at their next checkpoint.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

from stm.errors import UserError
from stm.log import get_logger
from stm.owner import lives, me
from stm.patience import at_once
from stm.storage import StorageError, join, read_bytes, remove_file, write_bytes

logger = get_logger(__name__)

NAME = "driver.json"
BEAT_S = 5.0
SILENT_S = 30.0
"""Seconds without a heartbeat after which a driver on another machine counts as dead."""

_SETTLE_S = 0.2

_held: set[str] = set()
"""Tokens in use by this process. A lease of this process with another token was left behind during an outage."""


class Leased(UserError):
    """Another driver holds the run."""


class Lease:
    """The lease of this driver on the run in ``run_directory``; the run's workers check its ``token``."""

    def __init__(self, run_directory: str) -> None:
        self.token = uuid.uuid4().hex
        self._run_directory = run_directory
        self._beats = 0
        self._since = time.strftime("%Y-%m-%d %H:%M:%S")
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)

    def take(self) -> None:
        """Take the run, also from a dead driver. Raises `Leased` while another lives."""
        _held.add(self.token)
        before = _read(self._run_directory)
        if before is not None and _drives(self._run_directory, before):
            raise _refusal(self._run_directory, before)
        if before is not None:
            logger.info(f"taking the run over from {_where(before)}, which is dead")
        try:
            self._write()
        except StorageError:
            raise
        except OSError as error:  # a full disk is also reported at each checkpoint
            logger.warning(
                f"no lease in {self._run_directory} yet, so a second driver would not be noticed: {error}"
            )
        time.sleep(_SETTLE_S)  # of drivers that start together, the last writer stays
        self.check()
        self._thread.start()

    def check(self) -> None:
        """Raise `Leased` if another driver has taken the run."""
        check(self._run_directory, self.token)

    def release(self) -> None:
        """Remove the lease if it is still this driver's."""
        _held.discard(self.token)
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()
        # If this fails, the lease names a dead process, and blocks nobody.
        with contextlib.suppress(OSError, Leased), at_once():
            self.check()
            remove_file(join(self._run_directory, NAME))

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_S):
            try:
                with at_once():
                    self.check()
                    self._write()
            except Leased as error:
                logger.warning(f"{error} This one ends at its next checkpoint")
                return
            except OSError:  # a full disk, or no answer: the next beat may succeed
                continue

    def _write(self) -> None:
        self._beats += 1
        content = {
            "token": self.token,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "process": me(),
            "since": self._since,
            "heartbeats": self._beats,
        }
        write_bytes(join(self._run_directory, NAME), json.dumps(content, indent=1).encode())


@contextlib.contextmanager
def hold(run_directory: str) -> Iterator[Lease]:
    """While the body runs, be the only driver of the run in ``run_directory``, which must exist.

    Raises `Leased` while another driver lives, and `StorageError` if the store refuses the lease; a full disk causes
    only a warning.
    """
    lease = Lease(run_directory)
    try:
        lease.take()
        yield lease
    finally:
        lease.release()


def check(run_directory: str, token: str) -> None:
    """Raise `Leased` if a driver other than that of ``token`` has taken the run.

    A missing or damaged lease belongs to nobody.
    """
    found = _read(run_directory)
    if found is not None and found["token"] != token:
        raise _refusal(run_directory, found)


def _drives(run_directory: str, lease: dict[str, Any]) -> bool:
    """Return whether the driver of a lease lives; on another machine, wait up to `SILENT_S` for a heartbeat."""
    living = lives(lease["process"])
    if living and lease["process"] == me():
        living = lease["token"] in _held
    if living is not None:
        return living
    logger.info(
        f"{_where(lease)} drives this run, or did: waiting up to {SILENT_S:.0f} s for a heartbeat"
    )
    deadline = time.monotonic() + SILENT_S
    while time.monotonic() < deadline:
        time.sleep(min(1.0, SILENT_S / 10))
        found = _read(run_directory)
        if found is None:  # it ended
            return False
        if found != lease:
            return True
    return False


def _read(run_directory: str) -> dict[str, Any] | None:
    try:
        found = json.loads(read_bytes(join(run_directory, NAME)))
        return found if {"token", "host", "pid", "process", "since"} <= found.keys() else None
    except FileNotFoundError:
        return None
    except UserError:
        raise
    except (ValueError, AttributeError):  # damaged: it names no driver
        return None


def _where(lease: dict[str, Any]) -> str:
    return f"process {lease['pid']} on {lease['host']} (since {lease['since']})"


def _refusal(run_directory: str, lease: dict[str, Any]) -> Leased:
    return Leased(
        f"the run in {run_directory} is driven by {_where(lease)}. One driver at a time: wait for it, "
        "end it, or choose another --train.name."
    )
