"""One list of videos -> rows, whatever its columns, its separators and its header are.

| form                                      | from                                             |
|-------------------------------------------|--------------------------------------------------|
| table with a header, `,` `;` or tab       | Hugging Face, Kaggle, spreadsheets               |
| `path,label` without one                  | TimeSformer, VideoMAE                            |
| `path label`                              | SlowFast, mmaction2, V-JEPA, pytorchvideo        |
| `folder num_frames label`                 | TSN, TSM                                         |
| JSON lines, or a JSON list of objects     | Hugging Face's metadata.jsonl                    |
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stm.data.annotations.common import VIDEO_EXTENSIONS
from stm.data.annotations.texts import bad_line, read_lines, read_text, warn
from stm.data.annotations.words import column_role, split_of
from stm.errors import UserError

EXPECTED = "`path,label` or `path label` (label a name or a number), or a table with a header"
_WRITE_HEADER = "Write a first line that names the columns, such as `path,label,split,group`"
_SAMPLE = 200

_MEDIA = "|".join(sorted(extension[1:] for extension in VIDEO_EXTENSIONS))
# A path up to its last suffix of a video, then the rest.
_PATH_AND_REST = re.compile(rf"(.+\.(?:{_MEDIA}))\s+(.+)", re.IGNORECASE)

IsVideo = Callable[[str], bool]
Line = tuple[int, str]


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
    """Where the list has both a number and a name."""

    split: str = ""
    group: str = ""
    video_id: str = ""


@dataclass(frozen=True)
class Table:
    """The rows of a file and what it turned out to be."""

    file: Path
    rows: list[Row]
    form: str
    labelled: bool = True
    header: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Cells:
    """A file cut into cells, before its columns are known."""

    lines: list[Line]
    cells: list[list[str]]
    mark: str
    """The separator, "" for blanks, "{" for JSON."""


def read_table(file: Path, is_video: IsVideo, class_names: frozenset[str]) -> Table:
    """Read one list.

    is_video: whether a cell looks like a video: by its suffix, or because there is one.
    class_names: names known from elsewhere, which may hold blanks.

    Raises UserError where the columns are not clear, saying what to write, and for a malformed line.
    """
    if file.suffix.lower() in (".json", ".jsonl", ".ndjson"):
        content = _read_json(file)
    else:
        lines = _without_comments(list(read_lines(file, EXPECTED)), is_video)
        if not lines:
            return Table(file, [], "empty")
        content = _cut(file, lines, is_video, class_names)
    return _read_rows(file, content, is_video)


def _read_rows(file: Path, content: _Cells, is_video: IsVideo) -> Table:
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
        if len(cells) != width and not (len(cells) == width + 1 and not cells[-1]):
            problem = f"{len(cells)} column(s) where {width} belong"
            raise bad_line(file, number, text, problem, EXPECTED)
        value = {role: cells[column] for role, column in columns.items()}
        if not value["path"]:
            raise bad_line(file, number, text, "empty path", EXPECTED)
        label = value.get("number") or value.get("label", "")
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


def _form(content: _Cells, columns: dict[str, int], header: list[str] | None) -> str:
    names = {"": "blanks", "\t": "tabs", ",": "commas", ";": "semicolons", "{": "JSON"}
    roles = {"ignored": "num_frames", "number": "label", "id": "video_id"}
    if "number" in columns:
        roles["label"] = "class name"
    order = sorted(columns, key=lambda role: columns[role])
    shown = " ".join(roles.get(role, role) for role in order)
    if header is not None and content.mark != "{":
        return f"`{shown}` by {names[content.mark]}, with the header {' '.join(header)!r}"
    return f"`{shown}` by {names[content.mark]}"


# Cutting into cells


def _without_comments(lines: list[Line], is_video: IsVideo) -> list[Line]:
    """The lines that are no comments; a header behind a `#` loses it."""
    kept: list[Line] = []
    for number, text in lines:
        if text.startswith("#") and not _begins_with_video(text, is_video):
            bare = text.lstrip("# ")
            cells = re.split(r"[\s,;]+", bare)
            roles = {column_role(cell) for cell in cells}
            if not kept and len(cells) > 1 and None not in roles and roles & {"path", "id"}:
                kept.append((number, bare))
            continue
        kept.append((number, text))
    return kept


def _begins_with_video(text: str, is_video: IsVideo) -> bool:
    if _PATH_AND_REST.fullmatch(text):
        return True
    return any(is_video(re.split(mark, text)[0].strip()) for mark in (",", ";", "\t", r"\s"))


def _cut(file: Path, lines: list[Line], is_video: IsVideo, class_names: frozenset[str]) -> _Cells:
    """The file cut by the separator under which most lines are a video and something else."""
    sample = lines[:_SAMPLE]
    best, best_score = "", (0.0, 0.0)
    for mark in ("\t", ",", ";", ""):
        if mark:
            cells = [_cells(text, mark) for _, text in sample]
        else:
            cells = _cut_at_blanks(file, sample, is_video, class_names)
        good = [found for found in cells if found is not None and len(found) > 1]
        score = (_media_share(good) * len(good) / len(sample), len(good) / len(sample))
        if good and _media_share(good) == 0:
            by_disk = sum(any(is_video(cell) for cell in found) for found in good)
            score = (by_disk / len(sample), score[1])
        if score > best_score:
            best, best_score = mark, score
    if best_score[1] <= 0:
        for number, text in sample:
            if any(mark in text and _cells(text, mark) is None for mark in ("\t", ",", ";")):
                raise bad_line(file, number, text, "a quote is not closed on its line", EXPECTED)
    if best:
        found = []
        for number, text in lines:
            cut = _cells(text, best)
            if cut is None:
                raise bad_line(file, number, text, "a quote is not closed on its line", EXPECTED)
            found.append(cut)
    else:
        found = [
            cut or [text]
            for cut, (_, text) in zip(
                _cut_at_blanks(file, lines, is_video, class_names), lines, strict=True
            )
        ]
    while all(len(cut) > 2 and not cut[-1] for cut in found):
        found = [cut[:-1] for cut in found]
    return _Cells(lines, found, best)


def _media_share(rows: Sequence[Sequence[str]]) -> float:
    """The largest share of a column whose cells have a suffix of videos."""
    shares = [
        sum(_has_suffix(row[k]) for row in rows if len(row) > k) / len(rows)
        for k in range(max((len(row) for row in rows), default=0))
    ]
    return max(shares, default=0.0)


def _has_suffix(cell: str) -> bool:
    return os.path.splitext(cell)[1].lower() in VIDEO_EXTENSIONS


def _cells(text: str, mark: str) -> list[str] | None:
    try:
        cells = next(csv.reader([text], delimiter=mark, skipinitialspace=True, strict=True))
    except csv.Error:
        return None
    return [cell.strip() for cell in cells]


def _cut_at_blanks(
    file: Path, lines: list[Line], is_video: IsVideo, class_names: frozenset[str]
) -> list[list[str] | None]:
    """[path, label] or [path, num_frames, label] of each line; the path may hold blanks."""
    found = [_at_blanks(text, class_names) for _, text in lines]
    numbers = [_trailing_numbers(cut) for cut in found if cut is not None]
    if not numbers:
        return list(found)
    ((count, _),) = Counter(numbers).most_common(1)
    if count == 2:  # `folder 12 3`: 12 frames, or a folder called "folder 12"?
        sample = [cut for cut in found[:_SAMPLE] if cut is not None]
        whole = sum(is_video(" ".join(cut[:-1])) for cut in sample)
        if whole > sum(is_video(" ".join(cut[:-2])) for cut in sample):
            count = 1
    if count > 2:
        number, text = lines[0]
        raise bad_line(
            file,
            number,
            text,
            f"{count} numbers after the path: parts of videos and several labels are not read",
            "`path label` or `folder num_frames label`",
        )
    cuts: list[list[str] | None] = []
    for cut in found:
        if cut is None or not _trailing_numbers(cut):
            cuts.append(cut)
        else:
            own = min(count, _trailing_numbers(cut))
            cuts.append([" ".join(cut[: len(cut) - own]), *cut[len(cut) - own :]])
    return cuts


_NUMBER = r"-?\d+(?:\.0*)?"


def _trailing_numbers(cut: list[str]) -> int:
    count = 0
    while count < len(cut) - 1 and re.fullmatch(_NUMBER, cut[-1 - count]):
        count += 1
    return count


def _at_blanks(text: str, class_names: frozenset[str]) -> list[str] | None:
    """Path (in one piece where that is clear) and what follows it; None where it cannot be told."""
    if text.startswith('"'):
        quoted = re.fullmatch(r'"([^"]+)"\s+(.+)', text)
        path, rest = quoted.groups() if quoted else (text, "")
    else:
        match = _PATH_AND_REST.fullmatch(text)
        path, rest = match.groups() if match else ("", "")
    if rest:
        words = rest.split()
        if all(re.fullmatch(_NUMBER, word) for word in words):
            return [path, *words]
        return [path, rest.strip().strip('"')]
    for name in class_names:
        if text.endswith(name) and text[: -len(name)].rstrip() != text[: -len(name)]:
            return [text[: -len(name)].rstrip(), name]
    words = text.split()
    if len(words) == 2 or (len(words) > 2 and re.fullmatch(_NUMBER, words[-1])):
        return words
    if len(words) > 2 and all(column_role(word) for word in words):
        return words
    return None


def _read_json(file: Path) -> _Cells:
    """JSON objects, one a line or in a list, as cells under a header of their keys."""
    expected = 'objects such as {"file_name": "a.mp4", "label": "run"}, one a line'
    items: list[tuple[int, Any]] = []
    try:
        if file.suffix.lower() == ".json":
            content = json.loads(read_text(file, expected))
            if not isinstance(content, list):
                raise UserError(f"{file}: expected a list of {expected[:-12]}.")
            items = list(enumerate(content, start=1))
        else:
            for number, text in read_lines(file, expected):
                items.append((number, json.loads(text)))
    except json.JSONDecodeError as error:
        where = f"{file}:{items[-1][0] + 1 if items else error.lineno}"
        raise UserError(f"{where}: not JSON ({error.msg}). Expected {expected}.") from error
    keys: dict[str, None] = {}
    for number, item in items:
        if not isinstance(item, dict):
            raise bad_line(file, number, json.dumps(item), "no object", expected)
        keys.update(dict.fromkeys(item))
    cells = [list(keys)]
    for number, item in items:
        row = []
        for key in keys:
            value = item.get(key, "")
            if isinstance(value, list | dict) and column_role(key) not in (None, "ignored", "part"):
                problem = f"{key} holds several values; a video has one label"
                raise bad_line(file, number, json.dumps(item), problem, expected)
            row.append("" if value is None else str(value))
        cells.append(row)
    lines = [(1, "{}"), *((number, json.dumps(item)) for number, item in items)]
    return _Cells(lines, cells, "{")


# Knowing the columns


def _find_header(file: Path, content: _Cells, is_video: IsVideo) -> list[str] | None:
    """The cells of the first line where that is a header, else None."""
    first, *rest = content.cells
    if content.mark == "{":
        return first
    roles = [column_role(cell) for cell in first]
    if any(_has_suffix(cell) for cell in first):
        return None
    if any(os.sep in cell and is_video(cell) for cell in first):
        return None
    has_path = any(role in ("path", "id") for role in roles)
    has_label = any(role in ("label", "number") for role in roles)
    # A class may be called "text", and a frame folder "name": then such words come again.
    if has_path and (has_label or (len(first) > 1 and not _comes_again(first, rest))):
        return first
    if len(first) < 2 or not rest:
        if len(first) == 1 and roles[0] in ("path", "id") and rest:
            return first
        return None
    sample = [cells for cells in rest[:_SAMPLE] if len(cells) == len(first)]
    if not sample or _comes_again(first, rest) or any(re.fullmatch(_NUMBER, c) for c in first):
        return None
    column, share = _path_column(sample, is_video)
    if is_video(first[column]):
        return None
    if share >= 0.5 and all(_has_suffix(cells[column]) for cells in sample):
        return first
    others = [k for k in range(len(first)) if k != column]
    if any(all(re.fullmatch(_NUMBER, cells[k]) for cells in sample) for k in others):
        return first  # numbers throughout, and here a word
    if share >= 0.5 or any(roles):
        number, text = content.lines[0]
        problem = "is it a header, or a video that is not there?"
        raise bad_line(file, number, text, problem, f"a header of usual words. {_WRITE_HEADER}")
    return None


def _comes_again(first: list[str], rest: list[list[str]]) -> bool:
    """Whether the last cell of the first line is the last of another: a label, and no header."""
    return any(cells[-1:] == first[-1:] for cells in rest)


def _path_column(rows: Sequence[Sequence[str]], is_video: IsVideo) -> tuple[int, float]:
    """(column in which most cells are videos, share of them that are)."""
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
    """Role -> column; `path` always, `label` (or `number`) where the file has labels."""
    sample = [cells for cells in rows[:_SAMPLE] if len(cells) >= width]
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
                f"{file}: which column of the header `{shown}` holds the path is not clear. "
                "Call it `path`, and that of the class `label`."
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
                f"{file}: which column of the header `{shown}` holds the class is not clear. "
                "Call it `label`."
            )
    if labels:
        columns["label"] = labels[0]
    for role in ("number", "split", "group"):
        if by_role.get(role):
            columns[role] = by_role[role][0]
    if by_role.get("id") and by_role["id"][0] != columns["path"]:
        columns["id"] = by_role["id"][0]
    if by_role.get("part"):
        parts = ", ".join(header[k] for k in by_role["part"])
        warn(f"{file}: the columns {parts} are not used: each file is taken whole")
    return columns


def _names_and_numbers(
    file: Path, labels: list[int], header: list[str], rows: list[list[str]]
) -> tuple[list[int], list[int]]:
    """Of several columns of labels: the one with names, and the one with numbers."""
    numbers = [k for k in labels if all(re.fullmatch(_NUMBER, cells[k]) for cells in rows)]
    names = [k for k in labels if k not in numbers]
    if len(numbers) > 1 or len(names) > 1:
        shown = " and ".join(header[k] for k in labels)
        raise UserError(
            f"{file}: the columns {shown} may all be the class. Call the one to learn `label`, and "
            "the others something else."
        )
    return names, numbers


def _guess_columns(
    file: Path, rows: list[list[str]], width: int, is_video: IsVideo
) -> dict[str, int]:
    """The columns of a file without a header, by what stands in them."""
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
    if width == 3 and path == 0 and 1 in numbers and re.fullmatch(_NUMBER, rows[0][2]):
        return {"path": 0, "ignored": 1, "label": 2}
    shown = ",".join(rows[0])
    raise UserError(
        f"{file}:1: {width} column(s) and no header: {shown[:120]}\n  which is the path and which "
        f"the class is not clear. {_WRITE_HEADER}."
    )
