"""Format `kinetics400`: the official CSV files, or lists of `path label` with label_list.txt."""

from __future__ import annotations

import csv
import os
import re
from pathlib import Path

from stm.data.annotations.common import (
    VIDEO_EXTENSIONS,
    Annotations,
    Entry,
    bad_line,
    is_url,
    join,
    read_int,
    read_lines,
)
from stm.errors import UserError

_SPLITS = {"train": "train", "val": "val", "validate": "val", "validation": "val", "test": "test"}
_HEADER = ["label", "youtube_id", "time_start", "time_end", "split"]
_CSV_LINE = "`label,youtube_id,time_start,time_end,split`, the label in quotes where it has a comma"
_LIST_LINE = "`path label`, the label an integer from 0"


def read(root: str, annotations: str | None, split: int) -> Annotations:
    """Read official CSV files where there are any, else `path label` lists.

    `annotations` is a file, or a folder with train.csv, val.csv (validate.csv) and test.csv, or
    with *train*.list, *val*.list (or .txt) and label_list.txt. A clip's group is its YouTube id.
    """
    del split
    if annotations is None and is_url(root):
        raise UserError(f"--root {root} is a URL: name the lists with --annotations.")
    place = Path(annotations if annotations is not None else root)
    if place.is_file():
        files = [place]
    elif place.is_dir():
        files = [path for name in _SPLITS if (path := place / f"{name}.csv").is_file()]
        files = files or sorted([*place.glob("*_*.list"), *place.glob("*list_videos.txt")])
    else:
        files = []
    if not files:
        raise UserError(
            f"{place}: no train.csv, val.csv or train_videos.list in it. Name the folder or file "
            "of the lists with --annotations."
        )
    if files[0].suffix == ".csv":
        return _read_official(root, files)
    return _read_path_lists(root, files)


def _read_official(root: str, files: list[Path]) -> Annotations:
    rows = [(file, *row) for file in files for row in _official_rows(file)]
    label_list = files[0].parent / "label_list.txt"
    if label_list.is_file():
        classes = _read_label_list(label_list)
    else:
        classes = tuple(sorted({name for _, _, _, name, _, _ in rows}))
    labels = {_plain(name): label for label, name in enumerate(classes)}
    located = _videos_by_stem(root)
    splits: dict[str, list[Entry]] = {"train": [], "val": [], "test": []}
    for file, number, text, name, stem, split in rows:
        label = labels.get(_plain(name))
        if label is None:
            raise bad_line(file, number, text, f"label {name!r} is unknown", f"one of {label_list}")
        splits[split].append(
            Entry(
                video_id=stem,
                path=located.get(stem) or join(root, f"{name}/{stem}.mp4"),
                label=label,
                group=stem[:-14],
                line=f"{file}:{number}",
            )
        )
    return Annotations(classes, _listed(splits), "kinetics400")


def _official_rows(file: Path) -> list[tuple[int, str, str, str, str]]:
    """(line number, text, label, file stem, split) of each video."""
    rows = []
    for number, text in read_lines(file, _CSV_LINE):
        try:
            cells = next(csv.reader([text], strict=True))
        except csv.Error as error:
            raise bad_line(file, number, text, str(error), _CSV_LINE) from error
        if cells[:5] == _HEADER:
            continue
        if len(cells) < 5 or not cells[0] or not cells[1]:
            raise bad_line(file, number, text, "cannot be read", _CSV_LINE)
        start = read_int(file, number, text, cells[2], 0, 10**6, "time_start")
        end = read_int(file, number, text, cells[3], 0, 10**6, "time_end")
        split = _SPLITS.get(cells[4] or file.stem)
        if split is None:
            raise bad_line(
                file, number, text, f"split {cells[4]!r}", "train, val, validate or test"
            )
        rows.append((number, text, cells[0], f"{cells[1]}_{start:06d}_{end:06d}", split))
    return rows


def _read_path_lists(root: str, files: list[Path]) -> Annotations:
    label_list = files[0].parent / "label_list.txt"
    if not label_list.is_file():
        raise UserError(f"{label_list}: missing. It names the classes, one `NUMBER name` a line.")
    classes = _read_label_list(label_list)
    splits: dict[str, list[Entry]] = {"train": [], "val": [], "test": []}
    for file in files:
        words = re.split(r"[^a-z0-9]+", file.stem.lower())
        split = next((_SPLITS[word] for word in words if word in _SPLITS), "train")
        for number, text in read_lines(file, _LIST_LINE):
            parts = text.rsplit(maxsplit=1)
            if len(parts) != 2:
                raise bad_line(file, number, text, "cannot be read", _LIST_LINE)
            label = read_int(file, number, text, parts[1], 0, len(classes) - 1, "label")
            source = re.search(r"([\w-]{11})_\d{6}_\d{6}\.\w+$", parts[0])
            splits[split].append(
                Entry(
                    video_id=parts[0],
                    path=join(root, parts[0]),
                    label=label,
                    group=source.group(1) if source else "",
                    line=f"{file}:{number}",
                )
            )
    return Annotations(classes, _listed(splits), "kinetics400")


def _read_label_list(path: Path) -> tuple[str, ...]:
    classes: list[str] = []
    for number, text in read_lines(path, "`NUMBER name` on each line"):
        parts = text.split(maxsplit=1)
        if len(parts) != 2 or parts[0] != str(len(classes)):
            expected = f"`{len(classes)} name`: numbers from 0 without a gap"
            raise bad_line(path, number, text, "not the next class", expected)
        classes.append(parts[1])
    return tuple(classes)


def _plain(name: str) -> str:
    """A label as both releases spell it: one has blanks where the other has underscores."""
    return re.sub(r"[\s_]+", "_", name.strip()).lower()


def _videos_by_stem(root: str) -> dict[str, str]:
    """Every video file below `root` by its name without extension, whatever the folders' names."""
    if is_url(root):
        return {}
    found: dict[str, str] = {}
    for folder, subfolders, names in os.walk(os.path.abspath(root), followlinks=False):
        subfolders.sort()
        for name in sorted(names):
            stem, extension = os.path.splitext(name)
            if extension.lower() in VIDEO_EXTENSIONS:
                found.setdefault(stem, os.path.join(folder, name))
    return found


def _listed(splits: dict[str, list[Entry]]) -> dict[str, list[Entry]]:
    return {name: entries for name, entries in splits.items() if entries}
