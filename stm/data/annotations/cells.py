"""Split the text of a list, or its JSON objects, into cells, by separators, quotes and comments."""

from __future__ import annotations

import csv
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stm.data.annotations.common import VIDEO_EXTENSIONS
from stm.data.annotations.texts import bad_line, read_lines, read_text
from stm.data.annotations.words import column_role
from stm.errors import UserError

EXPECTED = (
    "`path,label` or `path label` (the label is a name or a number), or a table with a header"
)
NUMBER = r"-?\d+(?:\.0*)?(?:[eE][+-]?\d+)?"
SAMPLE = 200
_MARKS = ("\t", ",", ";", "|")
"""Cell separators; without any of them, cells are separated by blanks."""

_MEDIA = "|".join(sorted(extension[1:] for extension in VIDEO_EXTENSIONS))
# A path up to its last video suffix, then the rest.
_PATH_AND_REST = re.compile(rf"(.+\.(?:{_MEDIA}))\s+(.+)", re.IGNORECASE)

IsVideo = Callable[[str], bool]
Line = tuple[int, str]


@dataclass(frozen=True)
class Cells:
    """A file split into cells, before its columns are known."""

    lines: list[Line]
    cells: list[list[str]]
    mark: str
    """The separator: "" for blanks, "{" for JSON."""


def read_cells(file: Path, is_video: IsVideo, class_names: frozenset[str]) -> Cells:
    """Return the cells of a file; an empty file has none. The arguments are those of `tables.read_table`."""
    if file.suffix.lower() in (".json", ".jsonl", ".ndjson"):
        return _read_json(file)
    lines = list(read_lines(file, EXPECTED))
    if lines and re.fullmatch("sep=.?", lines[0][1], re.IGNORECASE):  # for spreadsheets
        lines = lines[1:]
    lines = _without_comments(lines, is_video)
    return _cut(file, lines, is_video, class_names) if lines else Cells([], [], "")


def _without_comments(lines: list[Line], is_video: IsVideo) -> list[Line]:
    """The lines without comments; a `#` before a header is removed."""
    kept: list[Line] = []
    for number, text in lines:
        if text.startswith("#") and not _begins_with_video(text, is_video):
            bare = text.lstrip("# ")
            cells = re.split(r"[\s,;|]+", bare)
            roles = {column_role(cell) for cell in cells}
            if not kept and len(cells) > 1 and None not in roles and roles & {"path", "id"}:
                kept.append((number, bare))
            continue
        kept.append((number, text))
    return kept


def _begins_with_video(text: str, is_video: IsVideo) -> bool:
    if _PATH_AND_REST.fullmatch(text):
        return True
    return any(is_video(re.split(mark, text)[0].strip()) for mark in (r"[\t,;|]", r"\s"))


def _cut(file: Path, lines: list[Line], is_video: IsVideo, class_names: frozenset[str]) -> Cells:
    """Split the file by the separator that gives the most lines with a video and another cell."""
    sample = lines[:SAMPLE]
    best, best_score = "", (0.0, 0.0)
    for mark in (*_MARKS, ""):
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
            if any(mark in text and _cells(text, mark) is None for mark in _MARKS):
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
    if best == "\t" and len({len(cut) for cut in found}) > 1:
        aligned = [[cell for cell in cut if cell] for cut in found]
        if len({len(cut) for cut in aligned}) == 1:  # several tabs that align the columns
            found = aligned
    return Cells(lines, _unquoted(_without_empty_columns(found)), best)


def _without_empty_columns(rows: list[list[str]]) -> list[list[str]]:
    if len({len(row) for row in rows}) > 1:
        return rows
    kept = [k for k in range(len(rows[0])) if any(row[k] for row in rows)]
    return [[row[k] for k in kept] for row in rows] if len(kept) > 1 else rows


def _unquoted(rows: list[list[str]]) -> list[list[str]]:
    """Remove single quotes if all cells except numbers have them."""
    marked = [c for row in rows for c in row if not re.fullmatch(NUMBER, c)]
    if not marked or not all(len(c) > 1 and c[0] == c[-1] == "'" for c in marked):
        return rows
    return [[cell.strip("'") for cell in row] for row in rows]


def _media_share(rows: Sequence[Sequence[str]]) -> float:
    """The largest share of cells with a video suffix among the columns."""
    shares = [
        sum(has_suffix(row[k]) for row in rows if len(row) > k) / len(rows)
        for k in range(max((len(row) for row in rows), default=0))
    ]
    return max(shares, default=0.0)


def has_suffix(cell: str) -> bool:
    """Return whether a cell ends in a video suffix."""
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
    """[path, label] or [path, num_frames, label] of each line; the path may contain blanks."""
    found = [_at_blanks(text, class_names) for _, text in lines]
    numbers = [_trailing_numbers(cut) for cut in found if cut is not None]
    if not numbers:
        return list(found)
    ((count, _),) = Counter(numbers).most_common(1)
    if count == 2:  # `folder 12 3`: 12 frames, or a folder called "folder 12"?
        sample = [cut for cut in found[:SAMPLE] if cut is not None]
        whole = sum(is_video(" ".join(cut[:-1])) for cut in sample)
        if whole > sum(is_video(" ".join(cut[:-2])) for cut in sample):
            count = 1
    if count > 2:
        number, text = lines[0]
        raise bad_line(
            file,
            number,
            text,
            f"{count} numbers after the path: parts of videos and several labels are not supported",
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


def _trailing_numbers(cut: list[str]) -> int:
    count = 0
    while count < len(cut) - 1 and re.fullmatch(NUMBER, cut[-1 - count]):
        count += 1
    return count


def _at_blanks(text: str, class_names: frozenset[str]) -> list[str] | None:
    """Path (in one piece if that is clear) and the rest of the line; None if unclear."""
    if text.startswith('"'):
        quoted = re.fullmatch(r'"([^"]+)"\s+(.+)', text)
        path, rest = quoted.groups() if quoted else (text, "")
    else:
        match = _PATH_AND_REST.fullmatch(text)
        path, rest = match.groups() if match else ("", "")
    if rest:
        words = rest.split()
        if all(re.fullmatch(NUMBER, word) for word in words):
            return [path, *words]
        return [path, rest.strip().strip('"')]
    for name in class_names:
        if text.endswith(name) and text[: -len(name)].rstrip() != text[: -len(name)]:
            return [text[: -len(name)].rstrip(), name]
    words = text.split()
    if len(words) == 2 or (len(words) > 2 and re.fullmatch(NUMBER, words[-1])):
        return words
    if len(words) > 2 and all(column_role(word) for word in words):
        return words
    return None


def _read_json(file: Path) -> Cells:
    """JSON objects, one per line or in a list, as cells with their keys as the header."""
    objects = 'objects such as {"file_name": "a.mp4", "label": "run"}'
    expected = f"{objects}, one per line"
    items: list[tuple[int, Any]] = []
    try:
        if file.suffix.lower() == ".json":
            content = json.loads(read_text(file, expected))
            if not isinstance(content, list):
                raise UserError(f"{file}: expected a list of {objects}.")
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
            raise bad_line(file, number, json.dumps(item), "not an object", expected)
        keys.update(dict.fromkeys(item))
    cells = [list(keys)]
    for number, item in items:
        row = []
        for key in keys:
            value = item.get(key, "")
            if isinstance(value, list | dict) and column_role(key) not in (None, "ignored", "part"):
                problem = f"{key} has several values, but a video has one label"
                raise bad_line(file, number, json.dumps(item), problem, expected)
            row.append("" if value is None or isinstance(value, list | dict) else str(value))
        cells.append(row)
    lines = [(1, "{}"), *((number, json.dumps(item)) for number, item in items)]
    return Cells(lines, cells, "{")
