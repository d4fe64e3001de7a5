"""Read and write files on a disk or in an object store, named by a local path or by a URL that fsspec accepts.

    read_bytes("s3://bucket/runs/first/checkpoint-00000120/meta.json")
    write_folder("runs/first/checkpoint-00000120", write, last="meta.json")

Only this module knows what a URL is. Files are written whole or not at all: on a disk under another name, and then
renamed; an object store shows a file only when it is complete.

An error of a store is a `StorageError`. It is a ``UserError``, because its message tells what to correct, and an
``OSError``, so that callers that do not need the file can go on. Reading a missing file raises ``FileNotFoundError``.
Within `stm.patience.patience`, calls to a store that does not answer are retried before the error is raised.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from glob import escape
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from stm import patience
from stm.errors import UserError
from stm.owner import lives, me
from stm.patience import insist
from stm.redaction import redact

_PARTIAL = ".partial-"
_OLD_S = 3600.0
_SKEW_S = 900.0
"""Largest difference of the clocks with which S3 accepts a request."""
_BLOCK_BYTES = 2**20

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class StorageError(UserError, OSError):
    """A store or a disk refuses for a reason that does not pass by itself; ``strerror`` is only the reason."""


class StorageAway(StorageError):
    """A store does not answer, or answers wrongly; the same call may succeed later."""


# ---------------------------------------------------------------------- names


URL_MARK = "://"
"""Part of every URL, and of no path on a disk."""


def is_url(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is a URL, and so not on a disk."""
    return URL_MARK in os.fspath(path)


def split_url(url: str) -> tuple[str, str]:
    """Split a URL into its scheme and the rest: ``("s3", "bucket/runs")``."""
    scheme, _, rest = url.partition(URL_MARK)
    return scheme, rest


def join(folder: str, name: str) -> str:
    """Return the path or URL of ``name`` below ``folder``."""
    return f"{folder.rstrip('/')}/{name}"


def absolute(path: str) -> str:
    """Return the absolute path, for processes with another working directory; a URL is returned unchanged."""
    return path if is_url(path) else os.path.abspath(path)


def resolved(path: str) -> str:
    """Return the path as `absolute` does, with links resolved, because a link may change."""
    return path if is_url(path) else os.path.realpath(path)


def on_this_machine(path: str, option: str, done: str = "written") -> str:
    """Return ``path``, which is to be "written" or "read" (``done``), unless it is a URL.

    Raises:
        UserError: it is a URL, which would otherwise become folders of that name on the disk.
    """
    if is_url(path):
        copy = "copy it to the store afterwards" if done == "written" else "copy it here first"
        raise UserError(
            f"{option} {redact(path)}: is a URL, but this is {done} only on this machine: name a file or folder "
            f"here, and {copy}"
        )
    return path


def store_of(url: str) -> str:
    """Return the scheme and bucket of a URL, which are unavailable as a whole."""
    scheme, rest = split_url(redact(url))
    return f"{scheme}://{rest.partition('/')[0]}"


# ---------------------------------------------------------------------- files


def filesystem(
    path: str, *, fresh: bool = False, options: dict[str, Any] | None = None
) -> tuple[Any, str]:
    """Return fsspec's file system of a path or URL, and the name in it.

    ``fresh`` clears its cache of listings; ``options`` are passed to it. Raises `StorageError` for a scheme that fsspec
    does not know, or if the package for it is missing. Later errors of the file system are not converted.
    """
    import fsspec

    folders = {"auto_mkdir": True} if split_url(path)[0] in ("file", "local") else {}
    with _naming(path, "opened"):
        found, name = fsspec.core.url_to_fs(path, **folders, **(options or {}))
    if fresh:
        found.invalidate_cache()  # another process writes here too
    return found, name


def _store(path: str, *, fresh: bool = False) -> tuple[Any, str]:
    """Return the same as `filesystem`, with short timeouts and no retries for S3 if this process waits for stores.

    botocore itself retries for six minutes in one call to a store that accepts the connection but does not answer. That
    is longer than other ranks wait for this one.
    """
    silent_s = patience.call_s()
    import fsspec

    scheme, own = split_url(path)[0], "config_kwargs"
    ours = (
        scheme in ("s3", "s3a")
        and patience.is_set()
        and own not in fsspec.config.conf.get(scheme, {})
    )
    retries = {"total_max_attempts": 1}
    waits = {"connect_timeout": silent_s, "read_timeout": silent_s, "retries": retries}
    found, name = filesystem(path, fresh=fresh, options={own: waits} if ours else {})
    if ours:
        found.retries = 1  # s3fs itself retries five times, in addition to botocore
    return found, name


def _patiently(
    done: str,
) -> Callable[
    [Callable[Concatenate[str, Arguments], Result]], Callable[Concatenate[str, Arguments], Result]
]:
    """Decorate a function of a path: convert its errors with `_naming`, and retry while its store does not answer."""

    def decorate(
        function: Callable[Concatenate[str, Arguments], Result],
    ) -> Callable[Concatenate[str, Arguments], Result]:
        @functools.wraps(function)
        def patient(path: str, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
            def call() -> Result:
                with _naming(path, done):
                    return function(path, *args, **kwargs)

            if not is_url(path):
                return call()
            return insist(store_of(path), f"{redact(path)} is being {done}", call, StorageAway)

        return patient

    return decorate


@_patiently("read")
def read_bytes(path: str) -> bytes:
    """Return the content of a file. Raises ``FileNotFoundError``, ``NotADirectoryError`` or `StorageError`."""
    if not is_url(path):
        return Path(path).read_bytes()
    found, name = _store(path)
    content: bytes = found.cat_file(name)
    return content


@_patiently("read")
def info(path: str) -> dict[str, Any]:
    """Return fsspec's information about a file, such as its ``size``. Raises the errors of `read_bytes`."""
    found, name = _store(path)
    told: dict[str, Any] = found.info(name)
    return told


def read_blocks(path: str) -> Iterator[bytes]:
    """Yield the content of a file in blocks of 1 MiB. Raises the errors of `read_bytes`."""
    if is_url(path):
        size = info(path)["size"]
        for start in range(0, size, _BLOCK_BYTES):
            yield _read_block(path, start, min(start + _BLOCK_BYTES, size))
        return
    with _naming(path, "read"), open(path, "rb") as file:
        while block := file.read(_BLOCK_BYTES):
            yield block


@_patiently("read")
def _read_block(path: str, start: int, end: int) -> bytes:
    found, name = _store(path)
    block: bytes = found.cat_file(name, start=start, end=end)
    return block


@_patiently("written")
def write_bytes(path: str, content: bytes) -> None:
    """Write a file whole or not at all; a folder on a disk must exist.

    Raises ``OSError``, which is a `StorageError` for a store.
    """
    if is_url(path):
        found, name = _store(path)
        found.pipe_file(name, content)
        return
    with whole_file(Path(path)) as partial:
        partial.write_bytes(content)


@contextlib.contextmanager
def whole_file(path: Path, suffix: str = "") -> Iterator[Path]:
    """Yield the name under which to write a local file; it is renamed to ``path`` when the block ends.

    If the block raises, the file is removed. ``suffix`` is for libraries that look at it.
    """
    # A hash, because the name with a prefix might be too long.
    name = hashlib.blake2b(os.fsencode(path.name), digest_size=8).hexdigest()
    remove_partial(str(path.parent), name)
    partial = _partial(path.parent, name, suffix)
    try:
        yield partial
        _flush(partial)
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


@_patiently("listed")
def glob(folder: str, pattern: str) -> list[str]:
    """Return the sorted paths below ``folder`` that match; an empty list if there is no such folder."""
    if not is_url(folder):
        return sorted(str(path) for path in Path(folder).glob(pattern))
    found, name = _store(folder, fresh=True)
    name = name.rstrip("/")
    try:
        matching = found.glob(f"{escape(name)}/{pattern}")
    except FileNotFoundError:  # no such bucket
        return []
    return sorted(join(folder, str(each)[len(name) + 1 :]) for each in matching)


# ---------------------------------------------------------------------- folders


def write_folder(
    path: str,
    write: Callable[[Path], None],
    *,
    last: str,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Replace the folder ``path`` by the files that ``write(folder)`` writes; it must not write subfolders.

    On a disk, the folder is written beside ``path``, flushed and renamed, so it is complete or absent. In a store, the
    file ``last`` is removed first and uploaded after all others; a folder without it is not valid. ``check()`` is
    called as late as possible, and may raise to leave the new folder invalid.

    Raises ``OSError``, such as for a full disk, which is a `StorageError` for a store.
    """
    if is_url(path):
        with scratch() as temporary:
            write(temporary)
            check()
            _upload(path, temporary, last, check)
        return
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(target.parent, target.name)
    try:
        partial.mkdir()
        write(partial)
        for file in partial.iterdir():
            _flush(file)
        _flush(partial)
        check()
        shutil.rmtree(target, ignore_errors=True)
        os.replace(partial, target)
        _flush(target.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


@_patiently("written")
def _upload(path: str, folder: Path, last: str, check: Callable[[], None]) -> None:
    found, name = _store(path, fresh=True)
    with contextlib.suppress(FileNotFoundError):
        found.rm_file(f"{name}/{last}")
    for file in folder.iterdir():
        if file.name != last:
            found.put_file(str(file), f"{name}/{file.name}")
    check()
    found.put_file(str(folder / last), f"{name}/{last}")


@_patiently("removed")
def remove_file(path: str) -> None:
    """Remove a file. Raises ``OSError``."""
    if not is_url(path):
        Path(path).unlink()
        return
    found, name = _store(path, fresh=True)
    found.rm_file(name)


@_patiently("moved")
def move_file(path: str, target: str) -> None:
    """Rename a file within its store or disk. Raises ``OSError``."""
    if not is_url(path):
        os.replace(path, target)
        return
    found, name = _store(path, fresh=True)
    found.cp_file(name, _store(target)[1])
    found.rm_file(name)


def remove_folder(path: str, *, first: str | None = None) -> None:
    """Remove a folder. The file ``first`` is removed before all others: a folder without it is not valid."""
    if first is not None:
        remove_file(join(path, first))
    _remove_folder(path)


@_patiently("removed")
def _remove_folder(path: str) -> None:
    if not is_url(path):
        shutil.rmtree(path)
        return
    found, name = _store(path, fresh=True)
    with contextlib.suppress(FileNotFoundError):  # it contained only ``first``
        found.rm(escape(name), recursive=True)


def _partial(folder: Path, name: str, suffix: str = "") -> Path:
    """Return a unique name for what becomes ``folder/name``; `remove_partial` reads from it which process wrote it."""
    return folder / f"{_PARTIAL}{name}-{me()}-{uuid.uuid4().hex[:8]}{suffix}"


def remove_partial(folder: str, pattern: str) -> None:
    """Remove incomplete files and folders of that name that a killed process has left.

    Their process is dead, or on another machine and did not write for an hour. Object stores have no such files.
    """
    if is_url(folder):
        return
    for partial in Path(folder).glob(f"{_PARTIAL}{pattern}-*"):
        with contextlib.suppress(OSError):  # its writer has just renamed it
            living = lives(partial.name.rpartition("-")[0].rpartition("-")[2])
            if living is None:
                living = _clock_of(folder) - partial.stat().st_mtime < _OLD_S
            if not living and partial.is_dir():
                shutil.rmtree(partial, ignore_errors=True)
            elif not living:
                partial.unlink()


@contextlib.contextmanager
def scratch(folder: Path | None = None, name: str = "stm") -> Iterator[Path]:
    """Yield a new folder in ``folder``, by default the system's folder of temporary files; remove it at the end.

    Folders of that name that killed processes have left are removed first. Raises ``OSError``.
    """
    folder = folder or Path(tempfile.gettempdir())
    remove_partial(str(folder), name)
    path = _partial(folder, name)
    path.mkdir(mode=0o700)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _clock_of(folder: str) -> float:
    """Return the time by the clock that stamps files in a folder; a shared disk may have its own clock."""
    with tempfile.TemporaryFile(dir=folder) as file:
        return os.fstat(file.fileno()).st_mtime


@_patiently("read")
def download(path: str, folder: Path) -> None:
    """Copy a folder to a local one, which may already exist."""
    if not is_url(path):
        shutil.copytree(path, folder, dirs_exist_ok=True)
        return
    found, name = _store(path, fresh=True)
    found.get(f"{escape(name)}/", f"{folder}/", recursive=True)


def make_writable(folder: str | os.PathLike[str]) -> None:
    """Create a folder, and write and remove a file in it, before hours of work depend on it; in a store, also read and
    list the file. No bucket is created, and nothing is retried. Raises `StorageError`."""
    path = os.fspath(folder)
    with _naming(path, "written", every=True):
        if not is_url(path):
            Path(path).mkdir(parents=True, exist_ok=True)
            trial = Path(path) / ".writable"
            trial.touch()
            trial.unlink(missing_ok=True)  # another process may try the same folder
            return
        found, name = filesystem(path, fresh=True)
        trial_name = f"{name}/.writable-{uuid.uuid4().hex[:8]}"
        found.pipe_file(trial_name, b"stm")
    try:
        for done in ("read", "listed"):
            with _naming(path, done, every=True):
                whole = found.cat_file(trial_name) == b"stm"
                if done == "listed":
                    whole = any(str(each).endswith(trial_name) for each in found.find(name))
                if not whole:
                    raise OSError("a file that was just written is not there")
    finally:
        with _naming(path, "removed", every=True):
            found.rm_file(trial_name)


def _flush(path: Path) -> None:
    """Flush a file, or the entries of a folder, from the cache to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ---------------------------------------------------------------------- errors


@contextlib.contextmanager
def _naming(path: str, done: str, *, every: bool = False) -> Iterator[None]:
    """Convert the block's errors about a store, and lasting errors about a disk, into a `StorageError`.

    Lasting are a missing permission, and anything that prevents an existing file from being read, such as a loop of
    links, a name that is too long or a broken disk; with ``every``, all errors. A missing file remains a
    ``FileNotFoundError``. The libraries for stores raise errors of many types that are not an ``OSError``.
    """
    try:
        yield
    except UserError:  # already converted, or from the caller's own check
        raise
    except Exception as error:
        absent = isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError)
        lasting = isinstance(error, PermissionError) or (done == "read" and not absent)
        if not is_url(path) and not (isinstance(error, OSError) and (every or lasting)):
            raise
        if isinstance(error, FileNotFoundError) and done != "written":
            raise
        kind, why, todo = _reason(path, error)
        named = kind(f"{redact(path)} cannot be {done}: {redact(why)}. {todo}")
        named.strerror = redact(why)
        raise named from error


def is_away(url: str, error: Exception) -> bool:
    """Return whether an error of a URL's file system means that the store does not answer now."""
    return _reason(url, error)[0] is StorageAway


def _is_of_the_clock(error: BaseException | None) -> bool:
    """Return whether S3 refused a request because the clocks differ. The answer to a HEAD has no code, only a date."""
    while error is not None:
        response: dict[str, Any] = getattr(error, "response", None) or {}
        if response.get("Error", {}).get("Code") == "RequestTimeTooSkewed":
            return True
        told = response.get("ResponseMetadata", {})
        date = told.get("HTTPHeaders", {}).get("date")
        if told.get("HTTPStatusCode") == 403 and date:
            with contextlib.suppress(ValueError):
                if abs(parsedate_to_datetime(date).timestamp() - time.time()) > _SKEW_S:
                    return True
        error = error.__cause__
    return False


def _reason(path: str, error: Exception) -> tuple[type[StorageError], str, str]:
    """Return the type of the error, the reason, and what to do."""
    error_number = getattr(error, "errno", None)
    said = (getattr(error, "strerror", None) or str(error)).strip().splitlines() or [
        type(error).__name__
    ]
    why = " ".join(said[: 1 + said[0].endswith(":")]).rstrip(".")
    if isinstance(error, ImportError):
        return StorageError, f"a package is missing. {why}", "Every node needs it"
    if isinstance(error, ValueError) and "rotocol" in why:
        known = "Name a folder, or a URL such as s3://bucket/folder"
        return StorageError, f"no store is known by {split_url(path)[0]}://", known
    if _is_of_the_clock(error):
        clock = "Set the clock of this machine (`timedatectl`, `chronyc tracking`), or that of the store"
        return StorageError, f"its clock and this machine's differ. {why}", clock
    if isinstance(error, PermissionError) or getattr(error, "status", None) in (401, 403):
        return StorageError, why, "Give this user, or the role of the nodes, permission for it"
    if type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError"):
        return StorageError, why, "Set them in the environment, or give the nodes a role"
    if type(error).__name__ == "ProfileNotFound":
        return StorageError, why, "Set AWS_PROFILE to a profile in ~/.aws/config"
    if isinstance(error, FileNotFoundError) and is_url(path):
        return StorageError, f"no such bucket or folder ({why})", "Create it first, or name another"
    # Both are errors of S3, the first for an invalid bucket name.
    invalid = type(error).__name__ == "ParamValidationError" or error_number == errno.EINVAL
    if is_url(path) and (invalid or isinstance(error, ValueError | TypeError)):
        return StorageError, why, "Check the address and the settings of the store"
    if is_url(path):
        return StorageAway, why, "Check whether the store answers, then try again"
    return StorageError, why, "Name another folder"
