"""Read one list of videos into rows, whatever its columns and header.

| form                                      | from                                             |
|-------------------------------------------|--------------------------------------------------|
| table with a header, `,` `;` `|` or tab   | Hugging Face, Kaggle, spreadsheets               |
| `path,label` without a header             | TimeSformer, VideoMAE                            |
| `path label`                              | SlowFast, mmaction2, V-JEPA, pytorchvideo        |
| `folder num_frames label`                 | TSN, TSM                                         |
| JSON lines, or a JSON list of objects     | Hugging Face's metadata.jsonl                    |
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stm.data.annotations.cells import (
    EXPECTED,
    NUMBER,
    SAMPLE,
    Cells,
    IsVideo,
    has_suffix,
    read_cells,
)
from stm.data.annotations.texts import bad_line, warn
from stm.data.annotations.words import column_role, split_of
from stm.errors import UserError
from stm.plural import counted

_SAYS_SPLIT = r"(is[ _-]?)?(train|training|val|valid|validation|test|testing)([ _-]?set)?"
_NO_LABEL = frozenset({"nan", "null", "<na>", "n/a", "#n/a"})
"""Texts, in lower case, that mean an empty cell in tables."""
_WRITE_HEADER = "Write a first line that names the columns, such as `path,label,split,group`"


@dataclass(frozen=True, slots=True)
class Row:
    """One video of a list, as written there."""

    file: Path
    number: int
    text: str
    path: str
    label: str
    """A name or a number; "" in a list without labels."""

    class_name: str = ""
    """The name, if the list has both a number and a name."""

    split: str = ""
    group: str = ""
    video_id: str = ""


@dataclass(frozen=True)
class Table:
    """The rows of a file, and the form in which it was read."""

    file: Path
    rows: list[Row]
    form: str
    labelled: bool = True
    header: tuple[str, ...] = ()


def read_table(file: Path, is_video: IsVideo, class_names: frozenset[str]) -> Table:
    """Read one list.

    is_video: tells whether a cell is a video, by its suffix or because it exists.
    class_names: known names of classes, which may contain blanks.

    Raises UserError if the columns are unclear, with what to write, or if a line is malformed.
    """
    content = read_cells(file, is_video, class_names)
    if not content.cells:
        return Table(file, [], "empty")
    return _read_rows(file, content, is_video)


def _read_rows(file: Path, content: Cells, is_video: IsVideo) -> Table:
    header = _find_header(file, content, is_video)
    start = 0 if header is None else 1
    body = content.cells[start:]
    if content.mark == "{":
        start, body = 1, content.cells[1:]
    widths = Counter(len(cells) for cells in body)
    width = len(header) if header else widths.most_common(1)[0][0] if widths else 0
    if header is None and width == 1 and len(widths) > 1:
        width = sorted(widths)[1]
    columns = _name_columns(file, header, body, width, is_video)
    rows = []
    for (number, text), cells in zip(content.lines[start:], body, strict=True):
        if cells == header:
            warn(f"{file}:{number}: the repeated header is skipped")
            continue
        if len(cells) != width and not (len(cells) == width + 1 and not cells[-1]):
            problem = f"{counted(len(cells), 'column')} instead of {width}"
            raise bad_line(file, number, text, problem, EXPECTED)
        value = {role: cells[column] for role, column in columns.items()}
        if not value["path"]:
            raise bad_line(file, number, text, "empty path", EXPECTED)
        label = value.get("number") or value.get("label", "")
        if label.casefold() in _NO_LABEL:
            raise bad_line(file, number, text, f"{label!r} is not a label", EXPECTED)
        if re.fullmatch(r"""\[\s*[\d'"].*\]""", label):  # [something] is a word of class names
            raise bad_line(file, number, text, f"label {label!r} is a list", "one label per video")
        rows.append(
            Row(
                file,
                number,
                text,
                value["path"],
                label,
                class_name=value.get("label", "") if value.get("number") else "",
                split=value.get("split", ""),
                group=value.get("group", ""),
                video_id=value.get("id", ""),
            )
        )
    has_labels = "label" in columns or "number" in columns
    labelled = not rows or (has_labels and any(row.label not in ("", "-1") for row in rows))
    if labelled:
        for row in rows:
            if not row.label:
                raise bad_line(file, row.number, row.text, "empty label", EXPECTED)
    else:
        rows = [replace(row, label="") for row in rows]
    return Table(file, rows, _form(content, columns, header), labelled, tuple(header or ()))


def _form(content: Cells, columns: dict[str, int], header: list[str] | None) -> str:
    names = {
        "": "by blanks",
        "\t": "by tabs",
        ",": "by commas",
        ";": "by semicolons",
        "|": "by bars",
    }
    names["{"] = "in JSON"
    roles = {"ignored": "num_frames", "number": "label", "id": "video_id"}
    if "number" in columns:
        roles["label"] = "class name"
    order = sorted(columns, key=lambda role: columns[role])
    shown = " ".join(roles.get(role, role) for role in order)
    if header is not None and content.mark != "{":
        return f"`{shown}` {names[content.mark]}, with the header {' '.join(header)!r}"
    return f"`{shown}` {names[content.mark]}"


def _find_header(file: Path, content: Cells, is_video: IsVideo) -> list[str] | None:
    """The cells of the first line if it is a header, else None."""
    first, *rest = content.cells
    if content.mark == "{":
        return first
    roles = [column_role(cell) for cell in first]
    if any(has_suffix(cell) for cell in first):
        return None
    if any(os.sep in cell and is_video(cell) for cell in first):
        return None
    has_path = any(role in ("path", "id") for role in roles)
    has_label = any(role in ("label", "number") for role in roles)
    # A class may be called "text" and a frame folder "name"; such words then occur again.
    if has_path and (has_label or (len(first) > 1 and not _comes_again(first, rest))):
        return first
    if len(first) < 2 or not rest:
        if len(first) == 1 and roles[0] in ("path", "id") and rest:
            return first
        return None
    sample = [cells for cells in rest[:SAMPLE] if len(cells) == len(first)]
    if not sample or _comes_again(first, rest) or any(re.fullmatch(NUMBER, c) for c in first):
        return None
    column, share = _path_column(sample, is_video)
    if share >= 0.5 and all(has_suffix(cells[column]) for cells in sample):
        if not is_video(first[column]):
            return first
        problem = f"is this a header, or is {first[column]!r} a video?"
        raise bad_line(
            file, *content.lines[0], problem, f"a header with known words. {_WRITE_HEADER}"
        )
    if is_video(first[column]):
        return None
    others = [k for k in range(len(first)) if k != column]
    if any(all(re.fullmatch(NUMBER, cells[k]) for cells in sample) for k in others):
        return first  # all other lines have numbers here
    if share >= 0.5 or any(roles):
        number, text = content.lines[0]
        problem = "is this a header, or a video that does not exist?"
        raise bad_line(file, number, text, problem, f"a header with known words. {_WRITE_HEADER}")
    return None


def _comes_again(first: list[str], rest: list[list[str]]) -> bool:
    """Whether the first line's last cell is also the last of another line: a label, not a header."""
    return any(cells[-1:] == first[-1:] for cells in rest)


def _path_column(rows: Sequence[Sequence[str]], is_video: IsVideo) -> tuple[int, float]:
    """(the column with the most videos, the share of its cells that are videos)."""
    sample = rows[:50]
    shares = [
        sum(len(row) > k and is_video(row[k]) for row in sample) / len(sample)
        for k in range(max(len(row) for row in sample))
    ]
    best = max(range(len(shares)), key=lambda k: (shares[k], -k))
    return best, shares[best]


def _name_columns(
    file: Path, header: list[str] | None, rows: list[list[str]], width: int, is_video: IsVideo
) -> dict[str, int]:
    """Role -> column; `path` always, `label` (or `number`) if the file has labels."""
    sample = [cells for cells in rows[:SAMPLE] if len(cells) >= width]
    if header is None:
        return _guess_columns(file, sample, width, is_video)
    by_role: dict[str, list[int]] = {}
    for column, cell in enumerate(header):
        by_role.setdefault(column_role(cell) or "", []).append(column)
    columns: dict[str, int] = {}
    paths = by_role.get("path", []) or by_role.get("id", [])
    if len(paths) > 1 and sample:
        paths = [max(paths, key=lambda k: sum(is_video(cells[k]) for cells in sample))]
    labels = by_role.get("label", [])
    shown = ",".join(header)
    if not paths:
        left = [k for k in range(width) if k not in labels + by_role.get("number", [])]
        found, share = _path_column(sample, is_video) if sample else (0, 0.0)
        if width == 2 and len(left) == 1:
            paths = left
        elif share >= 0.5 and found in left:
            paths = [found]
        else:
            raise UserError(
                f"{file}: it is not clear which column of the header `{shown}` is the path. "
                "Call it `path`, and the column of the class `label`."
            )
    columns["path"] = paths[0]
    if len(labels) > 1:
        labels, numbers = _names_and_numbers(file, labels, header, sample)
        by_role["number"] = by_role.get("number", []) + numbers
    known = set(paths)
    for role in ("number", "split", "group"):
        known.update(by_role.get(role, []))
    if not labels and not by_role.get("number"):
        left = [k for k in range(width) if k not in known and column_role(header[k]) is None]
        if len(left) == 1 and width == 2:
            labels = left
        elif left:
            raise UserError(
                f"{file}: it is not clear which column of the header `{shown}` is the class. "
                "Call it `label`."
            )
    if labels:
        columns["label"] = labels[0]
    for role in ("number", "split", "group"):
        if by_role.get(role):
            columns[role] = by_role[role][0]
    if by_role.get("id") and by_role["id"][0] != columns["path"]:
        columns["id"] = by_role["id"][0]
    told = [header[k] for k in range(width) if re.fullmatch(_SAYS_SPLIT, header[k].casefold())]
    if told and not by_role.get("split"):
        raise UserError(
            f"{file}: the column {told[0]} seems to contain the split. Write a column `split` with "
            "train, val or test instead."
        )
    if any(re.fullmatch(r"(cv_?)?folds?", cell.casefold()) for cell in header):
        warn(
            f"{file}: the column for folds is not used. To use it, write a column `split` with train, val or test"
        )
    if by_role.get("part"):
        parts = [header[k] for k in by_role["part"]]
        used = (
            f"the column {parts[0]} is"
            if len(parts) == 1
            else f"the columns {', '.join(parts)} are"
        )
        warn(f"{file}: {used} not used: each file is used whole")
    return columns


def _names_and_numbers(
    file: Path, labels: list[int], header: list[str], rows: list[list[str]]
) -> tuple[list[int], list[int]]:
    """(columns with names, columns with numbers) of several label columns; at most one of each."""
    numbers = [k for k in labels if all(re.fullmatch(NUMBER, cells[k]) for cells in rows)]
    names = [k for k in labels if k not in numbers]
    if len(numbers) > 1 or len(names) > 1:
        shown = " and ".join(header[k] for k in labels)
        raise UserError(
            f"{file}: the columns {shown} may all be the class. Call the one to learn `label`, and "
            "rename the others."
        )
    return names, numbers


def _guess_columns(
    file: Path, rows: list[list[str]], width: int, is_video: IsVideo
) -> dict[str, int]:
    """The columns of a file without a header, from their content."""
    if width < 2 or not rows:
        return {"path": 0}
    path, share = _path_column(rows, is_video)
    if share == 0:
        path = 0
    others = [k for k in range(width) if k != path]
    splits = [k for k in others if all(split_of(cells[k]) for cells in rows)]
    if width == 2:
        return {"path": path, "split" if splits else "label": others[0]}
    numbers = [k for k in others if all(re.fullmatch(r"\d+", cells[k]) for cells in rows)]
    if width == 3 and len(splits) == 1:
        (label,) = (k for k in others if k not in splits)
        return {"path": path, "label": label, "split": splits[0]}
    if width == 3 and path == 0 and 1 in numbers and re.fullmatch(NUMBER, rows[0][2]):
        return {"path": 0, "ignored": 1, "label": 2}
    shown = ",".join(rows[0])
    raise UserError(
        f"{file}:1: {counted(width, 'column')} and no header: {shown[:120]}\n  it is not clear which is the "
        f"path and which is the class. {_WRITE_HEADER}."
    )
