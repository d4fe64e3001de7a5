"""The videos that the files and folders on a command line stand for.

find_videos(["clip.mp4", "frames/17", "shard.parquet#3", "folder"])
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from stm.data.annotations.common import VIDEO_EXTENSIONS
from stm.data.decode.frame_names import IMAGE_EXTENSIONS, is_image_name
from stm.data.shards import is_shard_path, split_shard_path
from stm.errors import UserError
from stm.storage import is_url


def find_videos(sources: list[str]) -> list[str]:
    """The videos that ``sources`` stand for, in order, each once.

    A file that is named is taken whatever it is called; rows of shards and URLs are taken as they are. Of a folder,
    and of those below it, each video file is one, and each folder that holds images itself is one, a frame an image.
    Links are followed, each folder once; names that begin with a dot are left out.

    Raises ``UserError`` for a path that does not exist and for a folder without videos.
    """
    found: list[str] = []
    for source in sources:
        if is_url(source) or os.path.isfile(source):
            found.append(source)
        elif os.path.isdir(source):
            inside = sorted(_inside(source, set()))
            if not inside:
                raise UserError(
                    f"{source}: no video in this folder, neither a file ({_listed(VIDEO_EXTENSIONS)}) nor a folder "
                    f"of images ({_listed(IMAGE_EXTENSIONS)})"
                )
            found += inside
        elif is_shard_path(source) and os.path.isfile(split_shard_path(source)[0]):
            found.append(source)
        else:
            raise UserError(f"{source}: no such file or folder")
    return list(dict.fromkeys(found))


def _inside(folder: str, seen: set[str]) -> Iterator[str]:
    """``seen`` breaks loops of links."""
    real = os.path.realpath(folder)
    if real in seen:
        return
    seen.add(real)
    try:
        with os.scandir(folder) as items:
            entries = [item for item in items if not item.name.startswith(".")]
    except OSError as error:
        raise UserError(f"{folder}: cannot list it ({error.strerror})") from error
    holds_images = False
    for item in entries:
        if _is_dir(item):
            yield from _inside(item.path, seen)
        elif os.path.splitext(item.name)[1].lower() in VIDEO_EXTENSIONS:
            yield item.path
        else:
            holds_images = holds_images or is_image_name(item.name)
    if holds_images:
        yield os.path.normpath(folder)


def _is_dir(item: os.DirEntry[str]) -> bool:
    try:
        return item.is_dir()
    except OSError:  # a link to itself
        return False


def _listed(suffixes: frozenset[str]) -> str:
    return ", ".join(sorted(suffixes))
