"""The root of a data set: the folder or URL of its videos, stored apart from their paths so that it may move.

    relative_to("/data/ucf/a/v.avi", "/data/ucf")   # "a/v.avi"
    joined("/mnt/ucf", "a/v.avi")                   # "/mnt/ucf/a/v.avi"

A root is an absolute local folder or a URL. Paths outside it are absolute too and stay unchanged.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from stm.data.shards import is_shard_path, split_shard_path
from stm.storage import URL_MARK, is_url, join

IF_MOVED = "If the videos have moved, name the folder or URL where they are now with --data.root"
"""Hint for messages when none of the videos are found."""

_SAMPLED = 16


def absolute_root(root: str | os.PathLike[str]) -> str:
    """The root as a manifest records it: an absolute folder, or a URL without a trailing slash."""
    root = os.fspath(root)
    return root.rstrip("/") if is_url(root) else os.path.abspath(root)


def is_relative(path: str) -> bool:
    """Whether a stored path is relative to the root."""
    return not path.startswith("/") and not is_url(path)


def relative_to(path: str, root: str | None) -> str:
    """The part of ``path`` below ``root``; ``path`` itself if it is not below it."""
    if root is None:
        return path
    prefix = root.rstrip("/") + "/"
    rest = path.removeprefix(prefix)
    # A path whose relative part would look absolute, as the key a//b of an object store can, stays whole.
    return rest if rest != path and rest and is_relative(rest) else path


def joined(root: str | None, path: str) -> str:
    """The inverse of `relative_to`. ``..`` in ``path`` is resolved as text, so that `containment` can check it."""
    if root is None or not is_relative(path):
        return path
    whole = join(root, path)
    return os.path.normpath(whole) if ".." in path and not is_url(root) else whole


def are_relative(paths: pa.Array | pa.ChunkedArray) -> Any:
    """`is_relative` for a column of strings: a column of booleans."""
    absolute = pc.or_(pc.starts_with(paths, "/"), pc.match_substring(paths, URL_MARK))
    return pc.invert(absolute)


def all_joined(root: str, paths: pa.ChunkedArray) -> pa.ChunkedArray:
    """`joined` for a column of strings, which may have millions of rows."""
    return pa.chunked_array([_all_joined(root, chunk) for chunk in paths.chunks], paths.type)


def _all_joined(root: str, paths: pa.Array) -> Any:
    relative = are_relative(paths)
    whole = pc.binary_join_element_wise(root.rstrip("/") + "/", paths, "")
    whole = pc.if_else(relative, whole, paths)
    dotted = pc.and_(relative, pc.match_substring(paths, ".."))
    few = [joined(root, path) for path in paths.filter(dotted).to_pylist()]
    return pc.replace_with_mask(whole, dotted, pa.array(few, whole.type)) if few else whole


def root_to_use(paths: Sequence[str], recorded: str | None, wanted: str | None) -> str | None:
    """The root for stored ``paths``: ``wanted``, unless the paths are in it with the root ``recorded``.

    ``wanted`` also limits access (`stm.data.containment`) and may be a folder above or below the recorded root.
    If both are possible, the root below which the first path exists is used.
    """
    if wanted is None:
        return recorded
    wanted = absolute_root(wanted)
    below = [path for path in paths if is_relative(path)]
    if recorded is None or recorded == wanted or not below:
        return wanted
    prefix = wanted.rstrip("/") + "/"
    if not all(joined(recorded, path).startswith(prefix) for path in below):
        return wanted
    moved = not _exists(joined(recorded, below[0])) and _exists(joined(wanted, below[0]))
    return wanted if moved else recorded


def root_found(
    manifest: str | os.PathLike[str], paths: pa.Array | pa.ChunkedArray, recorded: str | None
) -> str | None:
    """The new root of a data set that was moved together with its manifest; None unless it is certain.

    It is certain if the recorded root is no folder on this machine and exactly one candidate has all of up to 16
    videos spread over ``paths``. Candidates are the manifest's folder, its parent, and a folder with the old root's
    name in either.
    """
    if recorded is None or is_url(recorded) or os.path.isdir(recorded):
        return None
    below = paths.filter(are_relative(paths))
    spread = range(0, len(below), max(1, len(below) // _SAMPLED))
    sample = below.take(list(spread)[:_SAMPLED]).to_pylist() if len(below) else []
    own = os.path.dirname(os.path.abspath(manifest))
    places = [own, os.path.dirname(own)]
    places += [os.path.join(place, os.path.basename(recorded)) for place in places]
    holding = [place for place in places if all(_exists(joined(place, path)) for path in sample)]
    return holding[0] if sample and len(holding) == 1 else None


def _exists(path: str) -> bool:
    if is_url(path):
        return False
    return os.path.exists(split_shard_path(path)[0] if is_shard_path(path) else path)
