"""Files on a disk and in object stores, under one kind of name: a local path, or a URL that fsspec reads.

    read_bytes("s3://bucket/runs/first/checkpoint-00000120/meta.json")
    write_folder("runs/first/checkpoint-00000120", write, last="meta.json")

This is the one place that knows what a URL is. What is written is there whole or not at all: on a disk it is written
under another name and renamed; an object store shows a file when all of it is there.

What a store refuses is a `StorageError`: a ``UserError``, since one message says what to mend, and an ``OSError``, so
that whoever can go on without the file does. A file that is not there stays a ``FileNotFoundError`` to its reader.
Within `stm.patience.patience` a store that does not answer is tried again before that is told.
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
"""S3 takes no request that was signed so long before or after its own time."""
_BLOCK_BYTES = 2**20

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class StorageError(UserError, OSError):
    """A store or a disk refuses, for a reason that will not pass by itself; ``strerror`` is the reason alone."""


class StorageAway(StorageError):
    """A store does not answer, or not as it should: the same may work later."""


# ---------------------------------------------------------------------- names


URL_MARK = "://"
"""Every URL has it, and no path on a disk."""


def is_url(path: str | os.PathLike[str]) -> bool:
    """Whether a path names something in a store and not on a disk."""
    return URL_MARK in os.fspath(path)


def split_url(url: str) -> tuple[str, str]:
    """(scheme, the rest): ``("s3", "bucket/runs")``."""
    scheme, _, rest = url.partition(URL_MARK)
    return scheme, rest


def join(folder: str, name: str) -> str:
    """The path or URL of ``name`` below ``folder``."""
    return f"{folder.rstrip('/')}/{name}"


def absolute(path: str) -> str:
    """The path as processes with another working directory name it; a URL is that already."""
    return path if is_url(path) else os.path.abspath(path)


def resolved(path: str) -> str:
    """As `absolute`, with links followed: a link may point elsewhere tomorrow."""
    return path if is_url(path) else os.path.realpath(path)


def on_this_machine(path: str, option: str, done: str = "written") -> str:
    """The path, where it is none of a store; ``done`` is what is done with it, "written" or "read".

    Raises:
        UserError: (a ValueError) it is a URL, of which a disk would make folders called like it.
    """
    if is_url(path):
        copy = "copy it to the store afterwards" if done == "written" else "copy it here first"
        raise UserError(
            f"{option} {redact(path)}: is a URL, but this is {done} only on this machine: name a file or folder "
            f"here, and {copy}"
        )
    return path


def store_of(url: str) -> str:
    """The store of a URL and the bucket in it: what is away as a whole."""
    scheme, rest = split_url(redact(url))
    return f"{scheme}://{rest.partition('/')[0]}"


# ---------------------------------------------------------------------- files


def filesystem(
    path: str, *, fresh: bool = False, options: dict[str, Any] | None = None
) -> tuple[Any, str]:
    """fsspec's file system of a path or URL, and the name in it; ``fresh`` forgets what it has listed before.
    ``options`` are its own.

    Raises `StorageError` for a scheme that fsspec does not know, or where the package that speaks to it is missing.
    What the file system raises afterwards is its own.
    """
    import fsspec

    folders = {"auto_mkdir": True} if split_url(path)[0] in ("file", "local") else {}
    with _naming(path, "opened"):
        found, name = fsspec.core.url_to_fs(path, **folders, **(options or {}))
    if fresh:
        found.invalidate_cache()  # another process writes here too
    return found, name


def _store(path: str, *, fresh: bool = False) -> tuple[Any, str]:
    """As `filesystem`, for calls of a process that waits for stores. botocore alone would try for six minutes in one
    call to a store that takes the connection and says nothing, which is longer than other ranks wait for this one."""
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
        found.retries = 1  # s3fs tries five times more, above botocore
    return found, name


def _patiently(
    done: str,
) -> Callable[
    [Callable[Concatenate[str, Arguments], Result]], Callable[Concatenate[str, Arguments], Result]
]:
    """What a function raises about the path that it is given first is named, and a store that is away waited for."""

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
    """The content of a file. Raises ``FileNotFoundError``, ``NotADirectoryError`` or `StorageError`."""
    if not is_url(path):
        return Path(path).read_bytes()
    found, name = _store(path)
    content: bytes = found.cat_file(name)
    return content


@_patiently("read")
def info(path: str) -> dict[str, Any]:
    """What fsspec tells of a file, such as its ``size``; raises as `read_bytes`."""
    found, name = _store(path)
    told: dict[str, Any] = found.info(name)
    return told


def read_blocks(path: str) -> Iterator[bytes]:
    """The content of a file, 1 MiB at a time; raises as `read_bytes`."""
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
    """Write a file whole or not at all, on a disk into a folder that is there. Raises ``OSError``, of a store
    `StorageError`."""
    if is_url(path):
        found, name = _store(path)
        found.pipe_file(name, content)
        return
    with whole_file(Path(path)) as partial:
        partial.write_bytes(content)


@contextlib.contextmanager
def whole_file(path: Path, suffix: str = "") -> Iterator[Path]:
    """The name, with that suffix, under which to write a local file: it becomes ``path`` when the block ends, and is
    removed when the block raises."""
    # The file's own name is in it, in short: with that itself it might be too long.
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
    """The paths below ``folder`` that match, sorted; none where there is no such folder."""
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
    """Make what ``write(folder)`` writes, files alone, the folder ``path``, in place of what was there.

    On a disk it is there whole or not at all: written beside it, flushed, renamed. In a store the file ``last`` goes
    first, and comes when all others are there; a folder without it does not count. ``check()`` is called as late as can
    be, and may raise: then the folder does not count.

    Raises ``OSError`` (a full disk), of a store `StorageError`.
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
    """Give a file another name in the same store. Raises ``OSError``."""
    if not is_url(path):
        os.replace(path, target)
        return
    found, name = _store(path, fresh=True)
    found.cp_file(name, _store(target)[1])
    found.rm_file(name)


def remove_folder(path: str, *, first: str | None = None) -> None:
    """Remove a folder, the file ``first`` before all others where it is named: without it the folder does not count."""
    if first is not None:
        remove_file(join(path, first))
    _remove_folder(path)


@_patiently("removed")
def _remove_folder(path: str) -> None:
    if not is_url(path):
        shutil.rmtree(path)
        return
    found, name = _store(path, fresh=True)
    with contextlib.suppress(FileNotFoundError):  # nothing but ``first`` was in it
        found.rm(escape(name), recursive=True)


def _partial(folder: Path, name: str, suffix: str = "") -> Path:
    """A name that nobody else has, of what is to become ``folder/name``; `remove_partial` knows whose it was."""
    return folder / f"{_PARTIAL}{name}-{me()}-{uuid.uuid4().hex[:8]}{suffix}"


def remove_partial(folder: str, pattern: str) -> None:
    """Remove what was left of files and folders of that name when their writer was killed: its process is dead, or on
    another machine and silent for an hour. An object store has nothing such."""
    if is_url(folder):
        return
    for partial in Path(folder).glob(f"{_PARTIAL}{pattern}-*"):
        with contextlib.suppress(OSError):  # its writer was quicker
            living = lives(partial.name.rpartition("-")[0].rpartition("-")[2])
            if living is None:
                living = _clock_of(folder) - partial.stat().st_mtime < _OLD_S
            if not living and partial.is_dir():
                shutil.rmtree(partial, ignore_errors=True)
            elif not living:
                partial.unlink()


@contextlib.contextmanager
def scratch(folder: Path | None = None, name: str = "stm") -> Iterator[Path]:
    """A folder in ``folder``, by default the system's for temporary files, which is removed when the block ends.

    What killed processes left of that name is removed first. Raises ``OSError``.
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
    """The time by the clock that stamps files in a folder: on a shared disk it may not be this machine's."""
    with tempfile.TemporaryFile(dir=folder) as file:
        return os.fstat(file.fileno()).st_mtime


@_patiently("read")
def download(path: str, folder: Path) -> None:
    """Copy a folder to a local one, which may be there."""
    if not is_url(path):
        shutil.copytree(path, folder, dirs_exist_ok=True)
        return
    found, name = _store(path, fresh=True)
    found.get(f"{escape(name)}/", f"{folder}/", recursive=True)


def make_writable(folder: str | os.PathLike[str]) -> None:
    """Make a folder, and write and remove a file in it, in a store also read and list it: better now than after hours
    of work. No bucket is made, and nothing waited for. Raises `StorageError`."""
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
    """Have the disk, not only the cache, hold a file or a folder's entries."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ---------------------------------------------------------------------- errors


@contextlib.contextmanager
def _naming(path: str, done: str, *, every: bool = False) -> Iterator[None]:
    """Turn what the block raises about a store into a `StorageError`; of a disk what will not pass by itself.

    That is a refusal, and whatever keeps a file that is there from being read (a circle of links, a name that is too
    long, a broken disk); or ``every`` error. That nothing is there stays what it is.

    The libraries that speak to stores raise errors of all kinds, many of which are no ``OSError``.
    """
    try:
        yield
    except UserError:  # named already, or of a caller's own check
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
    """Whether what the file system of a URL raised means that the store does not answer now."""
    return _reason(url, error)[0] is StorageAway


def _is_of_the_clock(error: BaseException | None) -> bool:
    """Whether S3 refused a request for the time that it was signed with; it says so, but for a HEAD, which has no
    words but a date."""
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
    """(kind, why, what to do)."""
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
    # Both of S3, the first for a name that no bucket can have.
    invalid = type(error).__name__ == "ParamValidationError" or error_number == errno.EINVAL
    if is_url(path) and (invalid or isinstance(error, ValueError | TypeError)):
        return StorageError, why, "Check the address and the settings of the store"
    if is_url(path):
        return StorageAway, why, "Check whether the store answers, then try again"
    return StorageError, why, "Name another folder"
