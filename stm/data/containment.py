"""Whether the paths of a manifest stay within one folder or URL, where a run names one (``data.root``).

A manifest is a table that somebody sent; without a root, it can name any file that the nodes can read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from urllib.parse import unquote

from stm.errors import UserError

_ROW_OF_SHARD = re.compile(r"#\d+$")
_NAMED = 5


def check_paths(manifest: str | os.PathLike[str], paths: Iterable[str], root: str) -> None:
    """Raise ``UserError``, naming the first few, where a path leads out of ``root``: by ``..``, by a symbolic link, as
    another absolute path, or as another URL.

    Links are followed as they are now, on this machine; whoever can change the root's content later is not held.
    """
    leads_out = _out_of_url(root) if "://" in root else _out_of_folder(root)
    out = [path for path in paths if leads_out(path)]
    if out:
        more = f" and {len(out) - _NAMED} more" if len(out) > _NAMED else ""
        raise UserError(
            f"{os.fspath(manifest)}: {len(out)} path(s) lead out of --data.root {root}: "
            f"{', '.join(out[:_NAMED])}{more}. Index the videos where they lie, or name another root"
        )


def _out_of_url(root: str) -> Callable[[str], bool]:
    prefix = root.rstrip("/") + "/"

    def leads_out(path: str) -> bool:
        rest = path.removeprefix(prefix)
        # fsspec reads a chain of URLs at "::", and a server may decode %2e%2e once more
        return rest == path or "::" in rest or ".." in re.split(r"[/\\]", unquote(unquote(rest)))

    return leads_out


def _out_of_folder(root: str) -> Callable[[str], bool]:
    top = os.path.realpath(root)
    inside = (top if top.endswith(os.sep) else top + os.sep,)

    @lru_cache(maxsize=4096)
    def real_folder(folder: str) -> str:
        return os.path.realpath(folder)

    def leads_out(path: str) -> bool:
        if "://" in path or "::" in path:
            return True
        folder, name = os.path.split(_ROW_OF_SHARD.sub("", path))
        if name in ("", ".", "..") or os.path.islink(os.path.join(folder, name)):
            real = os.path.realpath(os.path.join(folder, name))
        else:
            real = os.path.join(real_folder(folder), name)
        return not real.startswith(inside)

    return leads_out
