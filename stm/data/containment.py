"""Check that the paths of a manifest stay within the folder or URL that a run names (``data.root``).

A manifest may come from an untrusted source. Without a root, it can name any file that the nodes can read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from itertools import chain
from urllib.parse import unquote

from stm.data.shards import is_shard_path, split_shard_path
from stm.errors import UserError
from stm.plural import counted
from stm.storage import is_url, split_url

_NAMED = 5
_MOST_DECODINGS = 16
_THREADS = 16
"""Folders listed at once: on a network disk a listing spends its time waiting."""
_PATHS_A_PART = 1024

LeadsOut = Callable[[str], bool]


def check_paths(manifest: str | os.PathLike[str], paths: Iterable[str], root: str) -> None:
    """Raise ``UserError`` with the first few paths that lead out of ``root``: by ``..``, by a symbolic link (of the
    video, above it, or a frame of a folder), as another absolute path, or as another URL.

    Links are followed as they are now on this machine. Later changes to the content of the root are not checked.
    """
    leads_out = _out_of(root)
    paths = list(paths)
    parts = [paths[k : k + _PATHS_A_PART] for k in range(0, len(paths), _PATHS_A_PART)]
    with ThreadPoolExecutor(_THREADS) as pool:
        out = list(chain.from_iterable(pool.map(partial(_those_out, leads_out), parts)))
    if out:
        more = f" and {len(out) - _NAMED} more" if len(out) > _NAMED else ""
        raise UserError(
            f"{os.fspath(manifest)}: {counted(len(out), 'path')} outside --data.root {root}: "
            f"{', '.join(out[:_NAMED])}{more}. Index the videos where they lie, or name another root"
        )


def _those_out(leads_out: LeadsOut, paths: list[str]) -> list[str]:
    return [path for path in paths if leads_out(path)]


def _out_of(root: str) -> LeadsOut:
    if not is_url(root):
        return _out_of_folder(root)
    scheme, folder = split_url(root)
    if scheme not in ("file", "local"):
        return _out_of_url(root)
    # fsspec follows links and does not decode percent-encoding, so such a root is treated as a folder.
    by_name, by_folder = _out_of_url(root), _out_of_folder(folder)
    return lambda path: by_name(path) or by_folder(split_url(path)[1])


def _out_of_url(root: str) -> LeadsOut:
    prefix = root.rstrip("/") + "/"

    def leads_out(path: str) -> bool:
        rest = path.removeprefix(prefix)
        if rest == path:
            return True
        for _ in range(_MOST_DECODINGS):
            # fsspec reads a chain of URLs at "::"; servers cut at "?", "#" and, within a name, at ";"
            if "\0" in rest or "::" in rest or ".." in re.split(r"[/\\?#;]", rest):
                return True
            decoded = unquote(rest)  # a proxy may decode once, and the server behind it once more
            if decoded == rest:
                return False
            rest = decoded
        return True

    return leads_out


def _out_of_folder(root: str) -> LeadsOut:
    top = _real(root)
    inside = (top if top.endswith(os.sep) else top + os.sep,)
    real_folder = lru_cache(maxsize=4096)(_real)

    def leads_out(path: str) -> bool:
        if is_url(path) or "::" in path or "\0" in path:
            return True
        file = split_shard_path(path)[0] if is_shard_path(path) else path
        # The system follows a link before the ".." behind it; `os.path.abspath`, with which files are opened, does not.
        if ".." in file.split(os.sep) and not _real(os.path.abspath(file)).startswith(inside):
            return True
        folder, name = os.path.split(file)
        if name in ("", ".", "..") or os.path.islink(file):
            real = _real(file)
        else:
            real = os.path.join(real_folder(folder), name)
        return not real.startswith(inside) or _has_link_out(real)

    def _has_link_out(folder: str) -> bool:
        """Whether ``folder`` is a folder with an entry that is a link out of the root."""
        try:
            with os.scandir(folder) as entries:
                links = [entry.path for entry in entries if entry.is_symlink()]
        except OSError:  # usually a file
            return False
        return any(not _real(link).startswith(inside) for link in links)

    return leads_out


def _real(path: str) -> str:
    real = os.path.realpath(path)
    # In POSIX two leading slashes may have a special meaning; here they have none.
    return "/" + real.lstrip("/") if real.startswith("//") else real
