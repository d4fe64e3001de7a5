"""Shared parts of the annotation readers: their result, and how they find lists."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from stm import storage
from stm.data.annotations.texts import bad_line
from stm.data.decode.frame_names import IMAGE_EXTENSIONS as IMAGE_EXTENSIONS
from stm.errors import UserError
from stm.storage import is_url

VIDEO_EXTENSIONS = frozenset(
    {
        *(".avi", ".divx", ".xvid", ".mp4", ".m4v", ".f4v", ".mov", ".qt", ".3gp", ".3g2"),
        *(".mkv", ".webm", ".flv", ".wmv", ".asf", ".mpg", ".mpeg", ".mpe", ".mpv", ".m1v", ".m2v"),
        *(".ts", ".mts", ".m2t", ".m2ts", ".vob", ".ogv", ".ogg", ".ogm", ".rm", ".rmvb"),
        *(".dv", ".mxf", ".nut", ".ivf", ".y4m", ".gif", ".apng"),
        # Streams without a container.
        *(".mjpeg", ".mjpg", ".h264", ".264", ".avc", ".h265", ".265", ".hevc", ".vc1", ".obu"),
    }
)
"""Suffixes, in lower case, of files that count as videos. Suffixes that FFmpeg reads but that are
rarely a video's (.dat, .bin, .raw) are not included; such files are read if a list names them."""


_OF_THE_SYSTEM = frozenset(
    {
        *("@eadir", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "~snapshot"),
        *("$recycle.bin", "recycler", "system volume information", "lost+found"),
        *("__macosx", "__pycache__"),
    }
)
"""Folders, in lower case, that network storage, operating systems and archivers create."""


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is hidden or created by a system, so not part of the data set."""
    return name.startswith(".") or name.casefold() in _OF_THE_SYSTEM


def is_folder(item: os.DirEntry[str]) -> bool:
    """Like ``item.is_dir()``, but False for a circular or broken link."""
    try:
        return item.is_dir()
    except OSError:
        return False


@dataclass(frozen=True, slots=True)
class Entry:
    """One video of the annotations. The file need not exist; indexing checks that."""

    video_id: str
    """Unique within the dataset."""

    path: str
    """Absolute path of a video file or a frame folder, or a URL."""

    label: int
    """Index into the classes, 0-based."""

    group: str
    """Source of the video; "" if the annotations do not give it."""

    line: str
    """Position in the lists as `file:line`; for a folder, the path itself."""


@dataclass(frozen=True)
class Annotations:
    """A dataset as published: its classes, and the videos of each split in the listed order."""

    classes: tuple[str, ...]
    splits: dict[str, list[Entry]]
    dataset: str
    flip: bool = True
    """Whether a mirrored clip keeps its label in every class."""

    flip_map: dict[int, int] | None = None
    """As in `stm.data.manifest.Manifest`."""

    warnings: tuple[str, ...] = ()
    """Warnings for the user."""

    notes: tuple[str, ...] = ()
    """How the lists were understood, if the reader had to find out."""


def join(root: str, name: str) -> str:
    """Return the absolute path or URL of `name` under `root`; an absolute `name` stays unchanged."""
    if is_url(name):
        return name
    if is_url(root):
        return storage.join(root, name)
    return os.path.abspath(os.path.join(root, name))


def class_index(path: Path, names: Iterable[tuple[int, str]]) -> dict[str, int]:
    """Map class names, as (line, name) in order, to labels from 0. A repeated name raises UserError."""
    labels: dict[str, int] = {}
    for number, name in names:
        if name in labels:
            raise bad_line(path, number, name, "class listed twice", "each class once")
        labels[name] = len(labels)
    if not labels:
        raise UserError(f"{path}: it contains no classes. Expected one class name per line.")
    return labels


def find_list(folders: Iterable[Path], names: Iterable[str]) -> Path | None:
    """Return the first of `names` that exists, in the first folder that has any of them."""
    names = list(names)
    for folder in folders:
        for name in names:
            if (folder / name).is_file():
                return folder / name
    return None


def annotation_folder(
    root: str, annotations: str | None, *landmarks: str, inside: str = ""
) -> Path:
    """Return the folder of the lists: in `annotations` if given, else in `root` or a usual folder of it.

    This folder has at least one of the files (or globs) in `landmarks`. `inside` is a subfolder's
    name in the published download. Raises UserError with the folders that were searched.
    """
    if annotations is not None:
        places = [Path(annotations), Path(annotations) / inside]
    elif is_url(root):
        raise UserError(f"--root {root} is a URL: give the folder of the lists with --annotations.")
    else:
        places = [Path(root), Path(root) / inside, Path(root) / "annotations"]
    places = list(dict.fromkeys(places))
    for place in places:
        if place.is_dir() and any(any(place.glob(mark)) for mark in landmarks):
            return place
    looked = ", ".join(str(place) for place in places)
    raise UserError(
        f"no {' or '.join(landmarks)} in {looked}. Give the folder of the published lists with --annotations."
    )
