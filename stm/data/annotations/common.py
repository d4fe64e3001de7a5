"""What every annotation reader shares: its result, its way to read lines, its way to refuse one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from stm.errors import UserError

VIDEO_EXTENSIONS = frozenset(
    {
        *(".avi", ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".flv", ".wmv", ".mpg", ".mpeg"),
        *(".ts", ".m2ts", ".3gp", ".ogv", ".vob", ".asf"),
    }
)
IMAGE_EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})


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


def is_url(path: str) -> bool:
    return "://" in path


def join(root: str, name: str) -> str:
    """The absolute path or URL of `name` under `root`; an absolute name stays as it is."""
    if is_url(name):
        return name
    if is_url(root):
        return f"{root.rstrip('/')}/{name}"
    return os.path.abspath(os.path.join(root, name))


def read_lines(path: Path, expected: str) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, text without surrounding blanks) for every line that is not blank.

    Any line ending and a byte-order mark are accepted. `expected` says what the file should hold,
    for the UserError raised where it cannot be read or is not UTF-8.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path}: cannot read it ({error.strerror}). Expected {expected}. "
            "--annotations names the folder or file with the lists."
        ) from error
    for number, raw in enumerate(content.removeprefix(b"\xef\xbb\xbf").splitlines(), start=1):
        try:
            text = raw.decode().strip()
        except UnicodeDecodeError as error:
            raise bad_line(path, number, repr(raw), "it is not UTF-8 text", expected) from error
        if text:
            yield number, text


def bad_line(path: Path, number: int, text: str, problem: str, expected: str) -> UserError:
    """The error for a malformed line: file, line, text, what is wrong, what is expected."""
    shown = text if len(text) <= 120 else text[:117] + "..."
    return UserError(f"{path}:{number}: {problem}: {shown}\n  expected {expected}")


def read_int(path: Path, number: int, text: str, value: str, low: int, high: int, what: str) -> int:
    """`value` as an integer in [low, high], else the UserError that names the line."""
    try:
        parsed = int(value)
    except ValueError:
        parsed = low - 1
    if not low <= parsed <= high:
        raise bad_line(path, number, text, f"{what} {value!r}", f"an integer from {low} to {high}")
    return parsed


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


def annotation_folder(root: str, annotations: str | None, landmark: str, inside: str = "") -> Path:
    """The folder that holds the lists: the one named, else `root` or a usual place in it.

    `landmark` is a file (or glob) that such a folder has; `inside` a subfolder name the publisher
    uses. Raises UserError, naming the places looked at.
    """
    if annotations is not None:
        places = [Path(annotations), Path(annotations) / inside]
    elif is_url(root):
        raise UserError(f"--root {root} is a URL: name the folder of the lists with --annotations.")
    else:
        places = [Path(root), Path(root) / inside, Path(root) / "annotations"]
    places = list(dict.fromkeys(places))
    for place in places:
        if place.is_dir() and any(place.glob(landmark)):
            return place
    looked = ", ".join(str(place) for place in places)
    raise UserError(
        f"no {landmark} in {looked}. Name the folder of the published lists with --annotations."
    )


def find_media(root: str, names: Iterable[str], extension: str) -> dict[str, str]:
    """Where each named video lies: `name` -> absolute path of its frame folder or video file.

    Looks directly under `root`, or under the one folder below it that holds most of them. A name
    found nowhere gets `root/name` + `extension`, for indexing to report. Lists folders, opens
    nothing: a quarter of a million names cost two folder listings, not as many file look-ups.
    """
    wanted = set(names)
    if is_url(root):
        return {name: join(root, name + extension) for name in wanted}
    found = _media_here(root, wanted)
    if not found:
        subfolders = sorted(item.path for item in _scan(root) if item.is_dir())
        # With thousands of subfolders they are videos themselves, and none of the wanted ones.
        candidates = [_media_here(folder, wanted) for folder in subfolders[:64]]
        found = max(candidates, key=len, default={})
    return {name: found.get(name) or join(root, name + extension) for name in wanted}


def _media_here(folder: str, wanted: set[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for item in _scan(folder):
        stem, extension = os.path.splitext(item.name)
        if item.name in wanted and item.is_dir():
            found.setdefault(item.name, os.path.abspath(item.path))
        elif stem in wanted and extension.lower() in VIDEO_EXTENSIONS:
            found[stem] = os.path.abspath(item.path)  # the video wins over frames taken from it
    return found


def _scan(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as items:
            return sorted(items, key=lambda item: item.name)
    except OSError as error:
        raise UserError(
            f"--root {folder}: cannot list it ({error.strerror}). Name the folder of the videos."
        ) from error
