"""What every annotation reader shares: its result, and where the listed videos lie."""

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
"""Suffixes, in lower case, of files that are taken for videos. What else FFmpeg reads but is mostly
no video (.dat, .bin, .raw) is not among them, and is read where a list names it."""


_OF_THE_SYSTEM = frozenset(
    {
        *("@eadir", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "~snapshot"),
        *("$recycle.bin", "recycler", "system volume information", "lost+found"),
        *("__macosx", "__pycache__"),
    }
)
"""Folders, in lower case, that network storage, systems and archives make beside people's own."""


def is_hidden(name: str) -> bool:
    """Whether a file or folder is none of the data set's: hidden, or made by a system."""
    return name.startswith(".") or name.casefold() in _OF_THE_SYSTEM


def is_folder(item: os.DirEntry[str]) -> bool:
    """As ``item.is_dir()``; a link that leads in a circle or nowhere is none."""
    try:
        return item.is_dir()
    except OSError:
        return False


@dataclass(frozen=True, slots=True)
class Entry:
    """One video as the annotations name it. The file need not exist: indexing finds out."""

    video_id: str
    """Unique within the dataset."""

    path: str
    """Absolute path of a video file or a frame folder, or a URL."""

    label: int
    """Index into the classes, 0-based."""

    group: str
    """What the clip was cut from; "" where the annotations do not say."""

    line: str
    """Where it is listed, as `file:line`; for a folder, the path itself."""


@dataclass(frozen=True)
class Annotations:
    """A dataset as published: classes, and the videos of each split in listed order."""

    classes: tuple[str, ...]
    splits: dict[str, list[Entry]]
    dataset: str
    flip: bool = True
    """Whether a mirrored clip keeps its label, for every class."""

    flip_map: dict[int, int] | None = None
    """As in `stm.data.manifest.Manifest`."""

    warnings: tuple[str, ...] = ()
    """What the user should know though it stops nothing."""

    notes: tuple[str, ...] = ()
    """How the lists were read, where a reader found that out by itself."""


def join(root: str, name: str) -> str:
    """The absolute path or URL of `name` under `root`; an absolute name stays as it is."""
    if is_url(name):
        return name
    if is_url(root):
        return storage.join(root, name)
    return os.path.abspath(os.path.join(root, name))


def class_index(path: Path, names: Iterable[tuple[int, str]]) -> dict[str, int]:
    """Class names as listed, one a line, to labels from 0. A repeated name is refused."""
    labels: dict[str, int] = {}
    for number, name in names:
        if name in labels:
            raise bad_line(path, number, name, "class listed twice", "each class once")
        labels[name] = len(labels)
    if not labels:
        raise UserError(f"{path}: no class in it. Expected one class name a line.")
    return labels


def find_list(folders: Iterable[Path], names: Iterable[str]) -> Path | None:
    """The first of `names` that exists in the first folder that has any of them."""
    names = list(names)
    for folder in folders:
        for name in names:
            if (folder / name).is_file():
                return folder / name
    return None


def annotation_folder(
    root: str, annotations: str | None, *landmarks: str, inside: str = ""
) -> Path:
    """The folder that holds the lists: the one named, else `root` or a usual place in it.

    `landmarks` are files (or globs) of which such a folder has one; `inside` is a subfolder name
    the publisher uses. Raises UserError, naming the places looked at.
    """
    if annotations is not None:
        places = [Path(annotations), Path(annotations) / inside]
    elif is_url(root):
        raise UserError(f"--root {root} is a URL: name the folder of the lists with --annotations.")
    else:
        places = [Path(root), Path(root) / inside, Path(root) / "annotations"]
    places = list(dict.fromkeys(places))
    for place in places:
        if place.is_dir() and any(any(place.glob(mark)) for mark in landmarks):
            return place
    looked = ", ".join(str(place) for place in places)
    raise UserError(
        f"no {' or '.join(landmarks)} in {looked}. Name the folder of the published lists with --annotations."
    )
