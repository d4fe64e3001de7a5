"""Format `ucf101`: classInd.txt, trainlist01.txt and testlist01.txt, three published splits.

The test list is the split `val`: UCF101 has no other held-out videos.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from stm.data.annotations.common import (
    Annotations,
    Entry,
    annotation_folder,
    bad_line,
    is_url,
    join,
    read_lines,
)

_CLASS_LINE = "`NUMBER ClassName`, numbers counting from 1"


def read(root: str, annotations: str | None, split: int) -> Annotations:
    """Read one published split. A clip's group is its class and the gXX of its file name."""
    folder = annotation_folder(root, annotations, "classInd.txt", "ucfTrainTestlist")
    labels = _read_classes(folder / "classInd.txt")
    videos = _video_folder(root, labels)
    splits = {
        "train": _read_list(folder / f"trainlist{split:02d}.txt", videos, labels),
        "val": _read_list(folder / f"testlist{split:02d}.txt", videos, labels),
    }
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


def _video_folder(root: str, labels: dict[str, int]) -> str:
    """Where the class folders are: ROOT, or the folder in it that the archive unpacks to."""
    if not is_url(root):
        for place in (root, os.path.join(root, "videos"), os.path.join(root, "UCF-101")):
            if any(os.path.isdir(os.path.join(place, name)) for name in labels):
                return place
    return root


def _read_list(path: Path, videos: str, labels: dict[str, int]) -> list[Entry]:
    expected = "`ClassName/video.avi`, then in a train list the number of the class"
    entries = []
    for number, text in read_lines(path, expected):
        match = re.fullmatch(r"(\S+?)/(\S.*?\.\w+)(?:\s+(\d+))?", text)
        if match is None:
            raise bad_line(path, number, text, "cannot be read", expected)
        class_name, file_name, given = match.groups()
        if class_name not in labels:
            raise bad_line(
                path, number, text, f"class {class_name!r} is unknown", "a class of classInd.txt"
            )
        label = labels[class_name]
        if given is not None and int(given) != label + 1:
            problem = f"class number {given}, but {class_name} has number {label + 1}"
            raise bad_line(path, number, text, problem, "the number of classInd.txt")
        name = f"{class_name}/{file_name}"
        source = re.search(r"_(g\d+)_c\d+\.\w+$", file_name)
        entries.append(
            Entry(
                video_id=name,
                path=join(videos, name),
                label=label,
                group=f"{class_name}/{source.group(1)}" if source else "",
                line=f"{path}:{number}",
            )
        )
    return entries
