"""Find the videos that files and folders on a command line refer to.

find_videos(["clip.mp4", "frames/17", "shard.parquet#3", "folder"])
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

from stm.data.annotations.common import VIDEO_EXTENSIONS
from stm.data.annotations.tree import is_frame_folder, videos_below, with_those_above
from stm.data.decode.frame_names import IMAGE_EXTENSIONS
from stm.data.shards import is_shard_path, split_shard_path
from stm.errors import UserError
from stm.storage import is_url


def find_videos(sources: list[str]) -> list[str]:
    """The videos that ``sources`` refer to, in order, each once.

    A named file is used whatever its name; rows of shards and URLs are used as they are. Folders are searched
    recursively as in `stm index --format folder`: each video file is a video, and each folder of images is a video
    with one frame per image. Images next to videos count as thumbnails, and flow next to RGB frames is skipped.
    Links are followed, each folder once; hidden and system files are skipped. A folder that this user may not list
    is returned too, so that reading it reports the error.

    Raises ``UserError`` for a path that does not exist and for a folder without videos.
    """
    found: list[str] = []
    for source in sources:
        if is_url(source) or (os.path.lexists(source) and not os.path.isdir(source)):
            found.append(source)
        elif os.path.isdir(source):
            inside = sorted(_inside(source))
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


def _inside(folder: str) -> Iterator[str]:
    if is_frame_folder(folder):
        yield os.path.normpath(folder)
        return
    above = with_those_above(folder) - {os.path.realpath(folder)}
    for path, _ in videos_below(folder, above, Counter()):
        yield path


def _listed(suffixes: frozenset[str]) -> str:
    return ", ".join(sorted(suffixes))
