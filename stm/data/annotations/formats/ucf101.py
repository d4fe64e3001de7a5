"""Format `ucf101`: classInd.txt, trainlist01.txt and testlist01.txt, three published splits.

The test list is the split `val`: UCF101 has no other held-out videos.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from stm.data.annotations.common import Annotations, Entry, annotation_folder, join
from stm.data.annotations.media import Media
from stm.data.annotations.texts import bad_line, read_lines
from stm.storage import is_url

LANDMARKS = ("trainlist0*.txt",)
NUM_SPLITS = 3
TEST_LIST = "UCF-101"

_CLASS_LINE = "`NUMBER ClassName`, with numbers from 1"


def read(root: str, annotations: str | None, split: int) -> Annotations:
    """Read one published split. A clip's group is its class and the gXX of its file name."""
    folder = annotation_folder(root, annotations, "classInd.txt", inside="ucfTrainTestlist")
    labels = _read_classes(folder / "classInd.txt")
    videos = Videos(root, ("", "videos", "UCF-101"), labels)
    splits = {
        "train": _read_list(folder / f"trainlist{split:02d}.txt", videos, labels),
        "val": _read_list(folder / f"testlist{split:02d}.txt", videos, labels),
    }
    videos.tell()
    return Annotations(tuple(labels), splits, "ucf101")


def _read_classes(path: Path) -> dict[str, int]:
    labels: dict[str, int] = {}
    for number, text in read_lines(path, _CLASS_LINE):
        parts = text.split(maxsplit=1)
        if len(parts) != 2 or parts[0] != str(len(labels) + 1):
            expected = f"`{len(labels) + 1} ClassName`: {_CLASS_LINE}, without a gap"
            raise bad_line(path, number, text, "not the next class", expected)
        if parts[1] in labels:
            raise bad_line(path, number, text, "class listed twice", "each class once")
        labels[parts[1]] = len(labels)
    return labels


class Videos:
    """Finds the clips `ClassName/video.avi` of the lists of UCF-101 and HMDB-51 below a root.

    They may be in class folders or all in one folder, in the root or in a folder that the archive
    unpacks to. A clip may be as listed, a copy with another suffix, or a folder of frames.
    """

    def __init__(self, root: str, unpacked: Sequence[str], classes: Iterable[str]) -> None:
        self._root = root
        self._classes = frozenset(classes)
        self._media = Media()
        self._places = [root] if is_url(root) else [os.path.join(root, name) for name in unpacked]

    def locate(self, name: str) -> str:
        """Return the absolute path or URL of a listed name; ROOT/name if it is not found."""
        if is_url(self._root):
            return join(self._root, name)
        found = self._find(self._places, name) or self._find_elsewhere(name)
        if found is None:
            self._media.miss(name)
        return found or join(self._root, name)

    def _find(self, places: Sequence[str], name: str) -> str | None:
        tries = [(place, inner) for place in places for inner in (name, name.split("/")[-1])]
        return next((path for at in tries if (path := self._media.find(*at))), None)

    def _find_elsewhere(self, name: str) -> str | None:
        """Look in the class's own folder, and in the folders below the usual places."""
        below = [
            folder
            for place in self._places
            for folder in self._media.subfolders(place, but=self._classes)
            if folder not in self._places
        ]
        class_name = name.split("/")[0]
        own = [os.path.join(place, class_name) for place in self._places]
        return self._find([*own, *below], name)

    def tell(self) -> None:
        """Warn once of videos whose letter case on disk differs from the list."""
        self._media.tell()


def _read_list(path: Path, videos: Videos, labels: dict[str, int]) -> list[Entry]:
    expected = "`ClassName/video.avi`, followed by the class number in a train list"
    by_case = {name.casefold(): name for name in labels}
    entries = []
    for number, text in read_lines(path, expected):
        match = re.fullmatch(r"(\S+?)/(\S.*?\.\w+)(?:\s+(\d+))?", text)
        if match is None:
            raise bad_line(path, number, text, "cannot be read", expected)
        listed_class, file_name, given = match.groups()
        class_name = listed_class
        if class_name not in labels:  # HandStandPushups, HandstandPushups
            class_name = by_case.get(class_name.casefold(), class_name)
        if class_name not in labels:
            raise bad_line(
                path, number, text, f"class {class_name!r} is unknown", "a class of classInd.txt"
            )
        label = labels[class_name]
        if given is not None and int(given) != label + 1:
            problem = f"class number {given}, but {class_name} has number {label + 1}"
            raise bad_line(path, number, text, problem, "the number in classInd.txt")
        name = f"{listed_class}/{file_name}"
        source = re.search(r"_(g\d+)_c\d+\.\w+$", file_name)
        entries.append(
            Entry(
                video_id=name,
                path=videos.locate(name),
                label=label,
                group=f"{class_name}/{source.group(1)}" if source else "",
                line=f"{path}:{number}",
            )
        )
    return entries
