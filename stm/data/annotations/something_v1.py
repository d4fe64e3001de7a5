"""Format `something-v1`: label_map.txt and *_videofolder.txt, or the official `id;label` lists."""

from __future__ import annotations

from stm.data.annotations.common import (
    Annotations,
    Entry,
    annotation_folder,
    bad_line,
    class_index,
    find_media,
    read_int,
    read_lines,
)
from stm.data.annotations.semicolon import read_semicolon
from stm.errors import UserError

_EXPECTED = "`id num_frames label`, the label an integer from 0"
_PUBLISHED = "something-something-v1"


def read(root: str, annotations: str | None, split: int) -> Annotations:
    """Read the lists in either form; ROOT/id holds a video's frames.

    The number of frames in a list is not believed: indexing counts them.
    """
    del split
    folder = annotation_folder(root, annotations, "*label*")
    if (folder / f"{_PUBLISHED}-labels.csv").is_file():
        return read_semicolon(root, folder, _PUBLISHED, "something-v1")
    label_map = folder / "label_map.txt"
    classes = tuple(class_index(label_map, read_lines(label_map, "one class name a line")))
    lists = {name: folder / f"{name}_videofolder.txt" for name in ("train", "val")}
    rows: dict[str, list[tuple[str, int, int]]] = {}
    for name, path in lists.items():
        if not path.is_file():
            continue
        rows[name] = []
        for number, text in read_lines(path, _EXPECTED):
            parts = text.split()
            if len(parts) != 3:
                raise bad_line(path, number, text, "cannot be read", _EXPECTED)
            read_int(path, number, text, parts[1], 0, 10**6, "num_frames")
            label = read_int(path, number, text, parts[2], 0, len(classes) - 1, "label")
            rows[name].append((parts[0], label, number))
    if not rows:
        raise UserError(f"{folder}: neither train_videofolder.txt nor val_videofolder.txt in it.")
    paths = find_media(root, (row[0] for listed in rows.values() for row in listed), "")
    splits = {
        name: [
            Entry(video_id, paths[video_id], label, "", f"{lists[name]}:{number}")
            for video_id, label, number in listed
        ]
        for name, listed in rows.items()
    }
    return Annotations(classes, splits, "something-v1")
