"""Read `id;label` lists, the published form of Jester and Something-Something v1."""

from __future__ import annotations

from pathlib import Path

from stm.data.annotations.class_lists import without_header
from stm.data.annotations.common import Annotations, Entry, class_index
from stm.data.annotations.media import find_media
from stm.data.annotations.texts import bad_line, read_lines
from stm.data.annotations.words import column_role
from stm.errors import UserError

_EXPECTED = "`id;label`, with a label from the list of labels"


def read_semicolon(root: str, folder: Path, prefix: str, dataset: str) -> Annotations:
    """Read PREFIX-labels.csv, and PREFIX-train.csv, PREFIX-validation.csv or both.

    A video is ROOT/id (a folder of frames) or ROOT/id.webm. Raises UserError, with the line, for a
    malformed line or an unknown label.
    """
    label_list = folder / f"{prefix}-labels.csv"
    names = without_header(label_list, list(read_lines(label_list, "one class name per line")))
    labels = class_index(label_list, names)
    lists = {"train": folder / f"{prefix}-train.csv", "val": folder / f"{prefix}-validation.csv"}
    rows = {name: _read_list(path, labels) for name, path in lists.items() if path.is_file()}
    if not rows:
        raise UserError(
            f"{folder}: it contains neither {lists['train'].name} nor {lists['val'].name}."
        )
    paths = find_media(root, (row[0] for listed in rows.values() for row in listed), "")
    splits = {
        name: [
            Entry(video_id, paths[video_id], label, "", f"{lists[name]}:{number}")
            for video_id, label, number in listed
        ]
        for name, listed in rows.items()
    }
    return Annotations(tuple(labels), splits, dataset)


def _read_list(path: Path, labels: dict[str, int]) -> list[tuple[str, int, int]]:
    """(video id, label, line number) of each line."""
    rows: list[tuple[str, int, int]] = []
    for number, text in read_lines(path, _EXPECTED):
        video_id, mark, name = (part.strip() for part in text.partition(";"))
        if not (video_id and mark and name):
            raise bad_line(path, number, text, "cannot be read", _EXPECTED)
        if not rows and name not in labels and column_role(video_id) in ("path", "id"):
            continue  # a header
        if name not in labels:
            raise bad_line(path, number, text, f"label {name!r} is unknown", _EXPECTED)
        rows.append((video_id, labels[name], number))
    return rows
