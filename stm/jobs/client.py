"""Ray's job server, as stm uses it: jobs have the name of their run, and NAME-1, NAME-2 ... are its attempts.

The run's name is what continues: a job of the same name finds the run's checkpoints and goes on from there. So at most
one job of a name may run at a time, and a job server that is asked for a second one is not.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from stm import authentication, proxy, ray_compat
from stm.deadline import within
from stm.errors import UserError
from stm.redaction import harmless, redact

Show = Callable[[str], None]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_META_NAME, _META_VERB = "stm.name", "stm.verb"
_ANSWER_S = 30.0
"""So long the job server may take to answer."""
_RECONNECT_S = 120.0
"""How long a lost connection to the job server is tried again while a job is followed."""
_STOP_S = 60.0


class JobRunning(UserError):
    """A job of this name is running, and a second one would write to the same run."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What the job server knows of one job."""

    id: str
    name: str
    """Of the run; "" where the job was not submitted by stm."""
    verb: str
    status: str
    """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
    message: str
    entrypoint: str
    started: float | None
    ended: float | None
    """Seconds since 1970."""
    exit_status: int | None
    """Of the command; 143 where it was stopped, None while it runs."""

    @property
    def over(self) -> bool:
        return self.status in ("SUCCEEDED", "FAILED", "STOPPED")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class JobServer:
    """The job server of the cluster at an address such as ``http://127.0.0.1:8265``."""

    def __init__(self, address: str | None) -> None:
        """Connect. Raises ``UserError`` where nothing answers there, or the token is not the cluster's."""
        authentication.for_joining()
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        from ray.job_submission import JobSubmissionClient

        logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)
        logging.getLogger("ray.dashboard.modules.dashboard_sdk").setLevel(logging.WARNING)
        try:
            with _given_address_wins(address):
                # In a thread: requests of Ray's have no deadline.
                self._client = within(_ANSWER_S, lambda: JobSubmissionClient(address))
        except (
            Exception
        ) as error:  # Ray's, aiohttp's and requests' own kinds, all of which mean this
            where = redact(address or "the address in $RAY_API_SERVER_ADDRESS or $RAY_ADDRESS")
            raise UserError(_why_not(where, error)) from error
        self.address = self._client.get_address()

    @property
    def shows_token_in_the_clear(self) -> bool:
        """Whether requests carry the token, unencrypted, to another machine."""
        url = urlsplit(self.address)
        local = url.hostname in ("127.0.0.1", "localhost", "::1")
        return url.scheme == "http" and not local and os.environ.get(authentication.MODE) == "token"

    @property
    def ray_version(self) -> str:
        """The cluster's."""
        return ray_compat.server_version(self._client)

    def jobs(self) -> list[Job]:
        """Every job that was submitted to the cluster, the oldest first."""
        with _told():
            found = within(_ANSWER_S, self._client.list_jobs)
        jobs = [_job(each) for each in found if each.submission_id]
        return sorted(jobs, key=lambda job: job.started or time.time())

    def find(self, id_or_name: str | None) -> Job:
        """The job of this id, else the newest of this name; None means the newest of all.

        Raises ``UserError`` with the jobs there are.
        """
        jobs = self.jobs()
        if id_or_name is None and jobs:
            return jobs[-1]
        exact = [job for job in jobs if job.id == id_or_name]
        named = exact or [job for job in jobs if job.name == id_or_name]
        if not named:
            there = ", ".join(job.id for job in jobs[-10:]) or "none"
            wanted = "no job was submitted" if id_or_name is None else f"no job {id_or_name}"
            raise UserError(f"{redact(self.address)}: {wanted}; there are: {there}")
        return named[-1]

    def submit(
        self,
        name: str,
        verb: str,
        entrypoint: str,
        package: Path,
        pip: list[str] | None = None,
        metadata: dict[str, str] | None = None,
    ) -> Job:
        """Start a job of this name; its working directory is the content of the zip file ``package``.

        Raises ``JobRunning`` where a job of this name has not ended.
        """
        check_name(name)
        runtime_env: dict[str, Any] = {"working_dir": str(package)}
        if pip:
            runtime_env["pip"] = {"packages": pip, "pip_check": False}
        while True:
            before = [job for job in self.jobs() if job.name == name]
            for job in before:
                if not job.over:
                    raise JobRunning(
                        f"job {job.id} is {job.status.lower()}: it has the name {name!r}, and two jobs would train "
                        f"one run. `stm jobs follow {job.id}` shows it, `stm jobs stop {job.id}` ends it"
                    )
            numbers = [int(job.id[len(name) + 1 :]) for job in before if _attempt(job.id, name)]
            id = f"{name}-{max(numbers, default=0) + 1}"
            try:
                with _told():
                    self._client.submit_job(
                        entrypoint=entrypoint,
                        submission_id=id,
                        runtime_env=runtime_env,
                        metadata={_META_NAME: name, _META_VERB: verb, **(metadata or {})},
                    )
            except UserError as error:
                if "already exists" not in str(error):
                    raise
                continue  # somebody submitted this name at the same moment: see whose runs
            return self.find(id)

    def stop(self, id: str) -> Job:
        """End a job and wait until it has ended; one that has ended stays as it is."""
        with _told():
            within(_ANSWER_S, lambda: self._client.stop_job(id))
        deadline = time.monotonic() + _STOP_S
        while not (job := self.find(id)).over:
            if time.monotonic() > deadline:
                raise UserError(f"job {id} was told to stop {_STOP_S:.0f} s ago and has not yet")
            time.sleep(0.3)
        return job

    def follow(self, id: str, show: Show) -> Job:
        """Pass on what the job prints, from its beginning, until it ends; returns what became of it.

        A connection that is lost is taken up again where it was. Raises ``UserError`` where that fails for
        two minutes; the job goes on all the same.
        """
        shown, deadline = 0, time.monotonic() + _RECONNECT_S
        while True:
            try:
                shown = asyncio.run(self._tail(id, shown, show))
                job = self.find(id)
                if job.over:
                    return job
                deadline = time.monotonic() + _RECONNECT_S
            except _Lost as lost:
                shown = lost.shown
                if time.monotonic() > deadline:
                    raise UserError(
                        f"{redact(self.address)} has not answered for {_RECONNECT_S:.0f} s ({lost.reason}); the job "
                        f"goes on if its cluster does. Look again: stm jobs follow {id}"
                    ) from lost
                if lost.progressed:
                    deadline = time.monotonic() + _RECONNECT_S
            except UserError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.5)

    async def _tail(self, id: str, shown: int, show: Show) -> int:
        """Show the log after its first ``shown`` characters; returns how many have been shown."""
        at = 0
        try:
            async for text in self._client.tail_job_logs(id):
                new = text[max(0, shown - at) :]
                at += len(text)
                if new:
                    shown = at
                    show(harmless(redact(new)))
        except Exception as error:  # aiohttp's, requests' and Ray's own
            raise _Lost(shown, at > 0, f"{type(error).__name__}: {error}") from error
        return shown


class _Lost(Exception):
    def __init__(self, shown: int, progressed: bool, reason: str) -> None:
        super().__init__(reason)
        self.shown, self.progressed, self.reason = shown, progressed, redact(reason)[:300]


def check_name(name: str) -> None:
    """Raise ``UserError`` where a job cannot have this name."""
    if not _NAME.fullmatch(name):
        raise UserError(
            f"{name!r} cannot name a job: use up to 100 letters, digits, dots, hyphens and underscores"
        )


def _attempt(id: str, name: str) -> bool:
    return id.startswith(f"{name}-") and id[len(name) + 1 :].isdecimal()


def _job(details: Any) -> Job:
    metadata = details.metadata or {}
    status = str(details.status)
    exit_status = details.driver_exit_code
    if status == "SUCCEEDED":
        exit_status = 0
    elif status == "STOPPED":
        exit_status = 143  # as a command that was ended by SIGTERM
    elif status == "FAILED":  # a signal's number is negative here, and 128 above it in a shell
        exit_status = (
            1 if not exit_status else exit_status if exit_status > 0 else 128 - exit_status
        )
    else:
        exit_status = None
    return Job(
        id=details.submission_id,
        name=metadata.get(_META_NAME, ""),
        verb=metadata.get(_META_VERB, ""),
        status=status,
        message=redact(re.split(r", last available logs|\n", (details.message or "").strip())[0]),
        entrypoint=redact(details.entrypoint),
        started=details.start_time / 1000 if details.start_time else None,
        ended=details.end_time / 1000 if details.end_time else None,
        exit_status=exit_status,
    )


@contextlib.contextmanager
def _given_address_wins(address: str | None) -> Iterator[None]:
    """Ray itself prefers its environment variables to the address that it is given."""
    names = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS") if address else ()
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Turn what a request to the job server raises into a ``UserError`` of one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        lines = [line for line in str(error).strip().splitlines() if line.strip()]
        telling = [line for line in lines if "Error" in line or "already exists" in line]
        said = (telling or lines or [type(error).__name__])[-1]
        raise UserError(f"the cluster's job server: {redact(said)[:500]}") from error


def _why_not(where: str, error: Exception) -> str:
    from ray.exceptions import AuthenticationError

    if isinstance(error, AuthenticationError):
        return (
            f"{where}: the cluster asks for its token, and does not accept ours: copy ~/.ray/auth_token of its head "
            f"to {authentication.token_path()}, and see that {authentication.MODE}=token is set"
        )
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    return (
        f"no Ray job server answers at {where}: {redact(reason)[:300]}{proxy.named(where)}. Give --address the "
        "dashboard's URL, such as http://127.0.0.1:8265 (`ray dashboard CLUSTER.yaml` makes a tunnel to it)"
    )
