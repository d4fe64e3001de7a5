"""Format `list`: files with a video and its class on each line, in any form.

`stm.data.annotations.tables` names the forms. This module chooses the files to read, assigns their
splits and labels, and finds their videos.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from stm.data.annotations.cells import EXPECTED, has_suffix
from stm.data.annotations.class_lists import find_class_list, look_alike
from stm.data.annotations.common import VIDEO_EXTENSIONS, Annotations, Entry
from stm.data.annotations.labels import class_labels
from stm.data.annotations.list_files import list_files
from stm.data.annotations.places import Places
from stm.data.annotations.tables import Row, Table, read_table
from stm.data.annotations.texts import bad_line, note, warn
from stm.data.annotations.words import split_of, split_of_folder, splits_in
from stm.errors import UserError
from stm.plural import counted, have
from stm.storage import is_url

_SPLITS = ("train", "val", "test")


def read(root: str, annotations: str | None, split: int) -> Annotations:
    """Read one list, or the lists train, val and test of a folder.

    Paths are relative to `root`, or else to the list's own folder. The split comes from a split
    column, or else from the file's name, or else is train. If labels are names, the classes are in
    the order of a class list beside the file, or else sorted. If labels are numbers, the class list
    gives the names, or else the numbers are the names.

    Raises UserError, with file and line, if a list is ambiguous or malformed.
    """
    files = list_files(root, annotations, split)
    where = Places(root)
    folders = [files[0].resolve().parent]
    if not is_url(root):
        folders.append(Path(root).resolve())
    class_lists = find_class_list(dict.fromkeys(folders), files)
    names = frozenset(name for listed in class_lists for name in listed.names)
    tables = _labelled([read_table(file, where.looks_for(file), names) for file in files])
    tables = _one_a_split(tables, where)
    for table in tables:
        note(f"{table.file}: read as {table.form}; {counted(len(table.rows), 'video')}")
    rows = [row for table in tables for row in table.rows]
    if not rows:
        raise UserError(f"{files[0]}: it lists no videos. Expected {EXPECTED}.")
    by_split = _without_blank_test(_by_split(tables))
    rows = [row for listed in by_split.values() for row in listed]
    classes, labels = class_labels(rows, class_lists)
    where.learn(rows)
    _refuse_stray_lines(rows, where)
    splits = {
        name: [
            Entry(
                video_id=row.video_id or where.name(row),
                path=where.locate(row),
                label=labels[row.label],
                group=row.group or known_group(row.path),
                line=f"{row.file}:{row.number}",
            )
            for row in listed
        ]
        for name, listed in by_split.items()
    }
    where.tell()
    look_alike(classes)
    if len(labels) == len(rows) > 3:
        warn(f"each of the {len(rows)} videos has a class of its own: is this the right column?")
    return Annotations(classes, splits, files[0].resolve().parent.name)


def _refuse_stray_lines(rows: list[Row], where: Places) -> None:
    """Refuse a line, such as units or totals, that is not a video and whose label no video has."""
    bare = [row for row in rows if not has_suffix(row.path)]
    if not 0 < 2 * len(bare) < len(rows):
        return
    of_videos = {row.label for row in rows if has_suffix(row.path)}
    for row in bare:
        if row.label not in of_videos and not where.looks_for(row.file)(row.path):
            problem = f"{row.path!r} is not a video, and no video has the label {row.label!r}"
            raise bad_line(row.file, row.number, row.text, problem, EXPECTED)


def known_group(path: str) -> str:
    """Return the source of a video if its name has the form of UCF-101 or Kinetics; else ""."""
    parts = re.split(r"[\\/]", path.rstrip("\\/"))
    stem, extension = os.path.splitext(parts[-1])
    if extension.lower() not in VIDEO_EXTENSIONS:
        stem = parts[-1]
    if found := re.fullmatch(r"v_(\w+_g\d\d)_c\d\d", stem):
        return found.group(1)
    if found := re.fullmatch(r"([\w-]{11})_\d{6}_\d{6}", stem):
        return found.group(1)
    return ""


def _labelled(tables: list[Table]) -> list[Table]:
    """The lists that have labels. Lists without labels are left out with a warning, if others remain."""
    without = [table for table in tables if not table.labelled]
    if len(without) == len(tables) and without:
        table = without[0]
        header = f" (its header is `{','.join(table.header)}`)" if table.header else ""
        raise UserError(f"{table.file}: the videos have no labels{header}. Expected {EXPECTED}.")
    for table in without:
        warn(
            f"{table.file}: left out, because its {counted(len(table.rows), 'video')} {have(len(table.rows))} no labels"
        )
    for table in tables:
        if not table.rows:
            raise UserError(f"{table.file}: it lists no videos. Expected {EXPECTED}.")
    return [table for table in tables if table.labelled]


def _one_a_split(tables: list[Table], where: Places) -> list[Table]:
    """One list for each split: of several, the one whose videos exist."""
    by_split: dict[str, list[Table]] = {}
    for table in tables:
        name = "" if all(row.split for row in table.rows) else _split_of_file(table.file)
        by_split.setdefault(name, []).append(table)
    kept = []
    for name, listed in by_split.items():
        there = [t for t in listed if any(where.is_exactly_there(row) for row in t.rows[:50])]
        if len(listed) > 1 and len(there) == 1 and name:
            others = ", ".join(table.file.name for table in listed if table is not there[0])
            note(f"{there[0].file}: read as {name}, because the videos of {others} do not exist")
            listed = there
        if len(listed) > 1 and name:
            shown = " and ".join(table.file.name for table in listed)
            raise UserError(
                f"{listed[0].file.parent}: {shown} are both lists of {name}. Put the lists to read "
                "into a separate folder and give it with --annotations."
            )
        kept.extend(listed)
    return kept


def _split_of_file(file: Path) -> str:
    named = splits_in(file.stem)
    if len(named) > 1:
        raise UserError(
            f"{file}: its name contains the splits {' and '.join(sorted(named))}. Rename it, "
            "or give it a header with a column `split`."
        )
    if not named and file.stem == "metadata":
        return split_of_folder(file.resolve().parent.name) or "train"
    return next(iter(named), "train")


def _by_split(tables: list[Table]) -> dict[str, list[Row]]:
    splits: dict[str, list[Row]] = {name: [] for name in _SPLITS}
    for table in tables:
        for row in table.rows:
            name = split_of(row.split) if row.split else _split_of_file(table.file)
            if name is None:
                problem = f"split {row.split!r}"
                expected = "split to be train, val or test"
                raise bad_line(row.file, row.number, row.text, problem, expected)
            splits[name].append(row)
    return {name: rows for name, rows in splits.items() if rows}


def _without_blank_test(splits: dict[str, list[Row]]) -> dict[str, list[Row]]:
    """Leave out a test split with only label 0: TSM's scripts write 0 if no labels are published."""
    test = splits.get("test", [])
    elsewhere = {row.label for name, rows in splits.items() if name != "test" for row in rows}
    if len(test) >= 5 and {row.label for row in test} == {"0"} and len(elsewhere) > 1:
        warn(
            f"{test[0].file}: left out, because all of its {len(test)} videos have the label 0, as "
            "in lists without published labels"
        )
        return {name: rows for name, rows in splits.items() if name != "test"}
    return splits
