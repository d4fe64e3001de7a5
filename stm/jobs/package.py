"""The code that a job needs, as one zip file: what git would track, without videos, runs and secrets.

Anyone who can reach the cluster can read a package, so secrets (``stm.jobs.secrets``) stay here, tracked or not.
The same files make the same bytes, so that a package the cluster has already is not sent again.
"""

from __future__ import annotations

import fnmatch
import os
import subprocess
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from stm.errors import UserError
from stm.jobs import secrets
from stm.log import get_logger
from stm.plural import counted

logger = get_logger(__name__)

MIB = 2**20
MAX_BYTES = 50 * MIB
"""Far above any code, and far below the 512 MiB that a Ray cluster takes."""

EXCLUDES = (
    # environments, caches, what runs leave behind; a pattern that ends in / names folders, one that begins with / lies
    # at the top
    ".git/", ".venv*/", "venv/", ".env/", "node_modules/", "__pycache__/", ".*_cache/", ".hypothesis/", "*.egg-info/",
    "/runs*/", "/demo/", "/data/", "/videos*/", "mlruns/", "mlartifacts/", "mlflow.db*", "*.log",
    # videos and weights
    "*.mp4", "*.webm", "*.avi", "*.mkv", "*.mov", "*.pth", "*.pt", "*.ckpt", "*.safetensors",
)  # fmt: skip
_LARGEST_NAMED = 5
_MOST_WARNED = 10
_SECRET = "it may hold a secret: "


@dataclass(frozen=True)
class Package:
    """A zip file, and what is in it."""

    path: Path
    files: tuple[str, ...]
    """Paths in it, relative to the project, sorted."""
    num_bytes: int
    """Of the files; the zip file is smaller."""
    left_out: dict[str, str]
    """Path to reason, of every file that git would track and that is not in it."""


def pack(
    folder: Path,
    target: Path,
    excludes: Iterable[str] = (),
    max_bytes: int = MAX_BYTES,
    includes: Iterable[str] = (),
) -> Package:
    """Write the project in ``folder`` to the zip file ``target``, and warn of secrets that are left out.

    Raises ``UserError``, naming the largest files, where they are more than ``max_bytes``.
    """
    files, left_out = sorted_out(folder, excludes, includes)
    suspected = [name for name, why in left_out.items() if why.startswith(_SECRET)]
    for name in suspected[:_MOST_WARNED]:
        logger.warning(f"{name} is not sent: {left_out[name]}")
    if suspected:
        more = f"{len(suspected) - _MOST_WARNED} more like these; " * (
            len(suspected) > _MOST_WARNED
        )
        logger.warning(
            f"{more}credentials come from the node's role or its environment (docs/security.md). --include PATTERN "
            "sends what is no secret, --exclude PATTERN ends this warning, --dry_run lists all that stays here"
        )
    sizes = {name: (folder / name).stat().st_size for name in files}
    total = sum(sizes.values())
    if total > max_bytes:
        largest = sorted(sizes, key=lambda name: -sizes[name])[:_LARGEST_NAMED]
        named = ", ".join(f"{name} ({sizes[name] / MIB:.1f} MiB)" for name in largest)
        raise UserError(
            f"{folder}: the code to send is {total / MIB:.1f} MiB in {counted(len(files), 'file')}, and at most "
            f"{max_bytes / MIB:g} MiB are sent. The largest: {named}. Leave files out with --exclude PATTERN or "
            ".gitignore; data belongs in storage that the cluster reaches"
        )
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in files:
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            executable = os.access(folder / name, os.X_OK)
            entry.external_attr = (0o100755 if executable else 0o100644) << 16
            archive.writestr(entry, (folder / name).read_bytes())
    return Package(target, tuple(files), total, left_out)


def project_files(folder: Path, excludes: Iterable[str] = ()) -> list[str]:
    """The files of `sorted_out`."""
    return sorted_out(folder, excludes)[0]


def sorted_out(
    folder: Path, excludes: Iterable[str] = (), includes: Iterable[str] = ()
) -> tuple[list[str], dict[str, str]]:
    """Files of the project in ``folder``, relative, sorted: all that git does not ignore, or where there is no
    repository all there are; without `EXCLUDES` and ``excludes``, without links that leave the folder, and without
    what ``stm.jobs.secrets`` suspects, unless a pattern of ``includes`` matches it. Then those that are left out, each
    with the reason.

    Raises ``UserError`` where the folder is no project, or git cannot list it.
    """
    folder = folder.resolve()
    if folder in (Path.home().resolve(), Path(folder.anchor)):
        raise UserError(f"{folder} is no project: give the command in the folder of the code")
    excludes, includes = tuple(excludes), tuple(includes)
    found, left_out = [], {}
    for name in sorted(_listed(folder)):
        path = folder / name
        if not path.is_file():
            continue
        if why := _why_not(folder, path, name, excludes, includes):
            left_out[name] = why
        else:
            found.append(name)
    if not found:
        raise UserError(
            f"{folder}: there is no file to send; give the command in the project's folder"
        )
    return found, left_out


def _why_not(
    folder: Path, path: Path, name: str, excludes: tuple[str, ...], includes: tuple[str, ...]
) -> str:
    """Why a file is not sent; "" where it is."""
    if is_excluded(name, excludes):
        return "--exclude"
    real = name
    if path.is_symlink():
        if not path.resolve().is_relative_to(folder):
            return "a link that leaves the project"
        real = path.resolve().relative_to(folder).as_posix()
    for each in dict.fromkeys((name, real)):  # a link takes along what it leads to
        if not is_excluded(each, includes) and (why := secrets.by_name(each)):
            return _SECRET + why
        if is_excluded(each, EXCLUDES):
            return "data, weights, or what environments and runs leave behind"
    try:
        name.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    if is_excluded(name, includes) or path.stat().st_size > secrets.LARGEST_SCANNED:
        return ""
    why = secrets.in_content(path.read_bytes())
    return _SECRET + why if why else ""


def is_excluded(name: str, patterns: Iterable[str]) -> bool:
    """Whether a pattern, as in .gitignore, matches the path or a folder that it lies in."""
    parts = PurePosixPath(name).parts
    for pattern in patterns:
        only_folders, bare = pattern.endswith("/"), pattern.strip("/")
        count = len(parts) - only_folders
        if "/" in pattern.rstrip("/"):
            paths = ("/".join(parts[: i + 1]) for i in range(count))
            if any(fnmatch.fnmatchcase(path, bare) for path in paths):
                return True
        elif any(fnmatch.fnmatchcase(part, bare) for part in parts[:count]):
            return True
    return False


def commit_of(folder: Path) -> str:
    """The commit that the code is at, with a + where it was changed since; "" outside a repository."""
    head = _git(folder, "rev-parse", "--short=12", "HEAD")
    if head is None or head.returncode:
        return ""
    changes = _git(folder, "status", "--porcelain", "--", ".")
    return head.stdout.strip() + ("+" if changes is not None and changes.stdout.strip() else "")


def _listed(folder: Path) -> Iterator[str]:
    if not any((parent / ".git").exists() for parent in (folder, *folder.parents)):
        for root, folders, names in os.walk(folder):
            inside = Path(root).relative_to(folder)
            folders[:] = [
                f for f in folders if not is_excluded(f"{(inside / f).as_posix()}/x", EXCLUDES)
            ]
            yield from ((inside / name).as_posix() for name in names)
        return
    listed = _git(folder, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    if listed is None or listed.returncode:
        reason = "git is not installed" if listed is None else listed.stderr.strip()
        raise UserError(  # to send what git ignores would be a guess, and perhaps a leak
            f"{folder} is a git repository, but its files cannot be listed: {reason}"
        )
    yield from dict.fromkeys(filter(None, listed.stdout.split("\0")))


def _git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str] | None:
    try:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            errors="surrogateescape",  # names may be any bytes
            check=False,
        )
    except FileNotFoundError:
        return None
