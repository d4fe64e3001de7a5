"""Format `csv`: a table with the columns path and label, and perhaps split, group and video_id."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stm.data.annotations.common import Annotations, Entry, bad_line, is_url, join, read_lines
from stm.errors import UserError

_SPLITS = {"train": "train", "val": "val", "validation": "val", "valid": "val", "test": "test"}
_EXPECTED = "`path,label` (label a name or an integer from 0), with a header to add split, group"


@dataclass(frozen=True, slots=True)
class _Row:
    file: Path
    number: int
    text: str
    split: str
    path: str
    label: str
    group: str
    video_id: str


def read(root: str, annotations: str | None, split: int) -> Annotations:
    """Read one table, or the tables train, val and test (.csv or .tsv) of a folder.

    Separated by comma, semicolon or tab; quoted where needed. Without a header the columns are path
    and label. A split column decides the split; else the file's name does; else it is train.
    Paths are relative to `root`. Labels are integers throughout, whose classes are called "0",
    "1", ..., or names, whose labels follow the sorted order.
    """
    del split
    files = _tables(root, annotations)
    rows = [row for file in files for row in _read_table(file)]
    if not rows:
        raise UserError(f"{files[0]}: no video in it. Expected {_EXPECTED}.")
    classes, labels = _labels(rows)
    splits: dict[str, list[Entry]] = {"train": [], "val": [], "test": []}
    for row in rows:
        splits[row.split].append(
            Entry(
                video_id=row.video_id or row.path,
                path=join(root, row.path),
                label=labels[row.label],
                group=row.group,
                line=f"{row.file}:{row.number}",
            )
        )
    listed = {name: entries for name, entries in splits.items() if entries}
    return Annotations(classes, listed, files[0].resolve().parent.name)


def _tables(root: str, annotations: str | None) -> list[Path]:
    if annotations is None and is_url(root):
        raise UserError(f"--root {root} is a URL: name the table with --annotations FILE.")
    place = Path(annotations if annotations is not None else root)
    if place.is_file():
        return [place]
    found = [
        path
        for name in ("train", "val", "validation", "valid", "test")
        for path in (place / f"{name}.csv", place / f"{name}.tsv")
        if path.is_file()
    ]
    if not found:
        raise UserError(
            f"{place}: no such file, nor a folder with train.csv in it. "
            "Name the table with --annotations FILE."
        )
    return found


def _read_table(file: Path) -> Iterator[_Row]:
    columns: dict[str, int] | None = None
    delimiter = ","
    default_split = _SPLITS.get(file.stem.lower(), "train")
    for number, text in read_lines(file, _EXPECTED):
        if columns is None:
            delimiter = next(
                (mark for mark in ("\t", ";") if mark in text and "," not in text), ","
            )
        cells = _cells(file, number, text, delimiter)
        if columns is None:
            names = [cell.lower() for cell in cells]
            if "path" in names and "label" in names:
                columns = {name: i for i, name in enumerate(names)}
                continue
            columns = {"path": 0, "label": 1}
        if len(cells) != max(len(columns), 2):
            problem = f"{len(cells)} column(s) where {max(len(columns), 2)} belong"
            raise bad_line(file, number, text, problem, _EXPECTED)
        value = {name: cells[i] for name, i in columns.items()}
        for name in ("path", "label"):
            if not value[name]:
                raise bad_line(file, number, text, f"empty {name}", _EXPECTED)
        named = value.get("split", "") or default_split
        split = _SPLITS.get(named.lower())
        if split is None:
            raise bad_line(file, number, text, f"split {named!r}", "split to be train, val or test")
        yield _Row(
            file,
            number,
            text,
            split,
            value["path"],
            value["label"],
            value.get("group", ""),
            value.get("video_id", ""),
        )


def _cells(file: Path, number: int, text: str, delimiter: str) -> list[str]:
    try:
        cells = next(csv.reader([text], delimiter=delimiter, skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise bad_line(file, number, text, str(error), _EXPECTED) from error
    return [cell.strip() for cell in cells]


def _labels(rows: list[_Row]) -> tuple[tuple[str, ...], dict[str, int]]:
    """Class names, and the label of each label text."""
    numbers = [row for row in rows if _is_number(row.label)]
    if not numbers:
        classes = tuple(sorted({row.label for row in rows}))
        return classes, {name: label for label, name in enumerate(classes)}
    if len(numbers) < len(rows):
        name = next(row for row in rows if not _is_number(row.label))
        problem = (
            f"label {name.label!r} is a name, while {numbers[0].file}:{numbers[0].number} has the "
            f"number {numbers[0].label}"
        )
        expected = "names throughout, or integers throughout"
        raise bad_line(name.file, name.number, name.text, problem, expected)
    for row in rows:
        if int(row.label) < 0:
            raise bad_line(row.file, row.number, row.text, f"label {row.label}", "integers from 0")
    highest = max(int(row.label) for row in rows)
    used = len({int(row.label) for row in rows})
    if highest >= 2 * used + 1000:
        raise UserError(
            f"{rows[0].file}: labels reach {highest} but only {used} of them occur. Number the "
            "classes from 0 without gaps, or write their names."
        )
    classes = tuple(str(label) for label in range(highest + 1))
    return classes, {row.label: int(row.label) for row in rows}


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?\d+", text) is not None
