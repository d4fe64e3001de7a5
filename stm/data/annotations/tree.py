"""Find the videos below a folder: files with a video suffix, and folders with an image for each frame."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from stm.data.annotations.common import VIDEO_EXTENSIONS, is_folder, is_hidden
from stm.data.decode.frame_names import is_image_name

RGB_FOLDERS = frozenset({"rgb", "img", "imgs", "images", "frames", "rawframes", "color"})
MODALITIES = RGB_FOLDERS | {
    *("flow", "flow_x", "flow_y", "flow_i", "opticalflow", "optical_flow", "tvl1", "u", "v"),
    *("x", "y", "depth", "ir", "infrared", "thermal", "mask", "masks", "pose", "skeleton"),
}
"""Names, in lower case, of folders with one kind of image of a video."""


VIDEO_FOLDERS = frozenset({"video", "videos", "clips", "avi", "mp4"})


def with_those_above(folder: str) -> set[str]:
    """Return the paths of a folder and of all its parents, without links."""
    real = os.path.realpath(folder)
    return {real, *map(str, Path(real).parents)}


def list_folder(folder: str) -> list[os.DirEntry[str]] | None:
    """Return the entries of a folder that are not hidden; None if it cannot be listed."""
    try:
        with os.scandir(folder) as items:
            return [item for item in items if not is_hidden(item.name)]
    except OSError:
        return None


def is_video_file(item: os.DirEntry[str]) -> bool:
    """Return whether an entry is a video file. A broken link is one, so that indexing reports it."""
    return os.path.splitext(item.name)[1].lower() in VIDEO_EXTENSIONS and not is_folder(item)


def is_frame_folder(folder: str) -> bool:
    """Return whether a folder contains images and no video: images beside videos are thumbnails.

    A single image beside folders of images, and images above videos, are thumbnails, too.
    """
    items = list_folder(folder) or []
    images = sum(is_image_name(item.name) for item in items)
    if not images or any(map(is_video_file, items)):
        return False
    inner = [item for item in items if is_folder(item) and item.name.lower() not in MODALITIES]
    inner = [item for item in inner if not item.is_symlink()]  # a link may be circular
    if images == 1 and any(is_frame_folder(item.path) for item in inner):
        return False
    return not any(map(_holds_video_file, [item.path for item in inner]))


def _holds_video_file(folder: str) -> bool:
    items = list_folder(folder) or []
    return any(map(is_video_file, items)) or any(
        _holds_video_file(item.path) for item in items if is_folder(item) and not item.is_symlink()
    )


def videos_below(folder: str, seen: set[str], ignored: Counter[str]) -> Iterator[tuple[str, str]]:
    """Yield (path, path without links) of the videos and frame folders below `folder`.

    A folder that cannot be listed is also yielded, so that indexing reports it. `seen` contains the
    folders that are skipped, and gets those that were read; `ignored` counts other entries by kind.
    """
    real = os.path.realpath(folder)
    if real in seen:
        return
    seen.add(real)
    entries = list_folder(folder)
    if entries is None:
        yield folder, real
        return
    folders = {item.name.lower() for item in entries if is_folder(item)}
    better, lesser = _choice(folders)
    only_flow = len(folders) > 1 and folders <= MODALITIES - RGB_FOLDERS
    only_flow = only_flow and any("flow" in name for name in folders)
    for item in entries:
        at = os.path.realpath(item.path) if item.is_symlink() else os.path.join(real, item.name)
        if is_video_file(item):
            yield item.path, at
        elif is_folder(item):
            if item.name.lower() in lesser:
                ignored[f"folders {item.name} beside those of {better}"] += 1
            elif only_flow:
                ignored[f"folders {item.name} without RGB frames beside them"] += 1
            elif is_frame_folder(item.path):
                yield item.path, at
            else:
                yield from videos_below(item.path, seen, ignored)
        else:
            ignored[os.path.splitext(item.name)[1] or "without an extension"] += 1


def _choice(folders: set[str]) -> tuple[str, frozenset[str]]:
    """(the preferred content of the folders, the names of folders to ignore beside it)."""
    if folders & VIDEO_FOLDERS:
        return "videos", MODALITIES
    if folders & RGB_FOLDERS:
        return "RGB frames", MODALITIES - RGB_FOLDERS
    return "", frozenset()
