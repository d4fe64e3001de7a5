"""Download files into a folder, whole or not at all: interrupted downloads are continued, and files are checked.

    download("https://host/resnet50-0676ba61.pth", "/cache", name="resnet50-0676ba61.pth", digest="0676ba61")

A file with a digest is requested once. For any other file the server is asked each time, and the file is downloaded
again only if it has changed (ETag, Last-Modified).
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import http.client
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from stm import proxy
from stm.errors import UserError
from stm.log import get_logger
from stm.redaction import redact
from stm.ticker import Ticker

logger = get_logger(__name__)

TIMEOUT_S = 20.0
"""Seconds of silence after which a connection counts as broken."""
TRIES = 5
"""Number of attempts in a row that may bring no new byte."""
_BLOCK_BYTES = 2**18
_PARTIAL = ".partial-"


class DownloadFailed(UserError):
    """A download failed, for the reason in the message."""


def download(url: str, folder: Path, *, name: str, digest: str | None = None) -> Path:
    """Download an http(s) URL into ``folder``, unless it is there already, and return its path.

    Args:
        url: it may contain a user and a password.
        folder: it is created if it is missing.
        name: of the file; without a ``digest``, the server's version is put before it.
        digest: first hex digits of its sha256.

    Raises:
        DownloadFailed: (a UserError) the server does not answer, has no such file, or sends one that does not match
            ``digest``.
        UserError: the folder cannot be written.
    """
    if digest is not None and (kept := folder / name).is_file():
        if _sha256(kept).startswith(digest):
            return kept
        logger.warning(
            f"{kept} is damaged: its sha256 does not begin with {digest}. It is downloaded again"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return _fetched(url, folder, name, digest)
    except UserError:
        raise
    except OSError as error:
        raise UserError(
            f"{redact(url)} cannot be saved in {folder}: {error.strerror or error}. Make room there, or set another "
            "folder in $XDG_CACHE_HOME (or $TORCH_HOME, for ImageNet weights)"
        ) from error


def _fetched(url: str, folder: Path, name: str, digest: str | None) -> Path:
    of_url, version = "", ""
    if digest is None:
        of_url, version = _short(redact(url)), _version(url)
    target = folder / (name if digest is not None else f"{of_url}-{version}-{name}")
    if version and target.is_file():
        return target
    partial = folder / f"{_PARTIAL}{target.name}"
    with _alone(partial, target) as file:
        if file is None:  # another process has downloaded it
            return target
        if digest is None and not version:  # the version of the partial file is unknown
            file.truncate(0)
        begun = file.seek(0, os.SEEK_END)
        _receive(url, file, target)
        if digest is not None and not (found := _sha256(partial)).startswith(digest):
            if begun:
                logger.warning(
                    f"the partial file of {name} was damaged: it is downloaded from the start"
                )
                file.truncate(0)
                _receive(url, file, target)
                found = _sha256(partial)
            if not found.startswith(digest):
                page = "; it is a web page" if _is_page(partial) else ""
                partial.unlink()
                raise DownloadFailed(
                    f"{redact(url)} sent a file that is not {name}: its sha256 begins with {found[:8]}, not {digest}"
                    f"{page}. A proxy or a mirror may be wrong; nothing was saved"
                )
        os.fsync(file.fileno())
        os.replace(partial, target)
    for old in folder.iterdir() if of_url else ():
        if old != target and old.name.removeprefix(_PARTIAL).startswith(f"{of_url}-"):
            with contextlib.suppress(OSError):
                old.unlink()
    return target


def _version(url: str) -> str:
    """Return a short hash of the server's ETag or Last-Modified for the URL, or "" if it sends neither."""
    for last in (False, True):
        try:
            with _open(url, {}) as answer:
                said = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
                return "" if said is None else _short(said)
        except _Passing as error:
            if last:
                raise DownloadFailed(f"{redact(url)} cannot be fetched: {error}") from error
            time.sleep(1)
    raise AssertionError


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@contextlib.contextmanager
def _alone(partial: Path, target: Path) -> Iterator[IO[bytes] | None]:
    """Yield the locked partial file, or None if another process has completed ``target`` meanwhile."""
    before = _identity(target)
    while True:
        with open(partial, "ab") as file:
            with contextlib.suppress(OSError):  # without locks, both may download and one wins
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    logger.info(f"another process is fetching {target.name}: waiting for it")
                    fcntl.flock(file, fcntl.LOCK_EX)
            if _identity(target) not in (None, before):
                yield None
                return
            if _identity(partial) == os.fstat(file.fileno()).st_ino:
                try:
                    yield file
                finally:
                    with contextlib.suppress(OSError):  # the disk may be full
                        file.flush()
                    if os.fstat(file.fileno()).st_size == 0:
                        partial.unlink(missing_ok=True)
                return


def _identity(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except OSError:
        return None


def _receive(url: str, file: IO[bytes], target: Path) -> None:
    """Append the missing part. Raises `DownloadFailed`, or ``OSError`` from the disk."""
    tries, total = 0, None
    told = False
    while True:
        done = file.seek(0, os.SEEK_END)
        if total is not None and done == total:
            return
        try:
            with _open(url, {"Range": f"bytes={done}-"} if done else {}) as answer:
                continued = answer.headers.get("Content-Range", "").startswith(f"bytes {done}-")
                if done and not (answer.status == 206 and continued):
                    if answer.status == 206:
                        raise _Passing(
                            "the server sends a different part of the file than was requested"
                        )
                    done = file.truncate(0)  # the server does not continue: start again
                length = answer.headers.get("Content-Length")
                total = None if length is None else done + int(length)
                if not told:
                    size = "" if total is None else f" ({total / 1e6:.0f} MB)"
                    at = f", from {done / 1e6:.0f} MB on" if done else ""
                    logger.info(f"fetching {redact(url)}{size} to {target}{at}")
                    told = True
                if _copy(answer, file, total, target.name) > done:
                    tries = 0
            file.flush()
            if total is None or file.seek(0, os.SEEK_END) == total:
                return
            why = "the connection was cut"
        except _Full:
            total = done
            continue
        except _Passing as error:
            why = str(error)
        tries += 1
        if tries >= TRIES or (tries > 1 and not told):
            raise DownloadFailed(
                f"{redact(url)} cannot be downloaded: {why}. The received part is kept, and the next try continues it"
                if file.seek(0, os.SEEK_END)
                else f"{redact(url)} cannot be downloaded: {why}"
            )
        if told:
            logger.info(f"  {why}: trying to continue")
        time.sleep(0.5 * 2**tries)


def _copy(answer: Any, file: IO[bytes], total: int | None, name: str) -> int:
    """Write the rest of an answer; return the size of the file in bytes."""
    tick = Ticker(f"MB of {name}")
    size = file.tell()
    while True:
        try:
            block = answer.read(_BLOCK_BYTES)
        except (OSError, http.client.HTTPException) as error:
            file.flush()
            raise _Passing(_reason(error)) from error
        if not block:
            return size
        size += file.write(block)
        if total is not None:
            tick(size // 10**6, total // 10**6)


class _Passing(Exception):
    """An error that may pass."""


class _Full(Exception):
    """The server has no bytes beyond those in the partial file."""


def _open(url: str, headers: dict[str, str]) -> Any:
    """Send a GET and return the answer, whose body is not read yet. Raises `DownloadFailed`, `_Passing` or `_Full`."""
    parts = urllib.parse.urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    request = urllib.request.Request(
        urllib.parse.urlunsplit(parts._replace(netloc=host)),
        headers={"User-Agent": "stm", **headers},
    )
    if user:  # not sent to the target of a redirect
        secret = base64.b64encode(urllib.parse.unquote(user).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {secret}")
    try:
        return urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and headers:
            raise _Full from error
        said = f"the server answers {error.code} {error.reason}"
        if error.code in (408, 429) or error.code >= 500:
            raise _Passing(said) from error
        raise DownloadFailed(f"{redact(url)} cannot be fetched: {said}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _Passing(_reason(error) + proxy.named(url)) from error


def _reason(error: BaseException) -> str:
    inner = getattr(error, "reason", None)
    if isinstance(inner, BaseException):
        error = inner
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_page(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(64).lstrip().lower().startswith((b"<!doctype", b"<html"))
