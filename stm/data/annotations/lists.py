"""Format `list`: files that name a video and its class on each line, in whichever form they came.

`stm.data.annotations.tables` says which forms there are; this says which files are read, which
split each is, what their labels mean and where their videos lie.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.parse import unquote

from stm.data.annotations.class_lists import ClassList, find_class_list, look_alike
from stm.data.annotations.common import VIDEO_EXTENSIONS, Annotations, Entry, is_url, join
from stm.data.annotations.media import Media
from stm.data.annotations.tables import EXPECTED, Row, Table, read_table
from stm.data.annotations.texts import bad_line, note, printable, warn
from stm.data.annotations.words import split_of, split_of_folder, splits_in
from stm.errors import UserError

_SUFFIXES = (".csv", ".tsv", ".txt", ".list", ".lst", ".jsonl", ".ndjson", ".json")
_SPLITS = ("train", "val", "test")
_PLACES = ("", "annotations", "lists", "labels", "splits", "annotation")
_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\")


def read(root: str, annotations: str | None, split: int) -> Annotations:
    """Read one list, or the lists train, val and test of a folder.

    Paths are relative to `root`, else to the list's own folder. A split column decides the split;
    else the file's name does; else it is train. Labels are names, sorted, or the order of a class
    list beside the file; or numbers, whose names the class list gives, and else are the numbers.
    """
    files = list_files(root, annotations, split)
    where = _Places(root)
    folders = [files[0].resolve().parent]
    if not is_url(root):
        folders.append(Path(root).resolve())
    class_lists = find_class_list(dict.fromkeys(folders), files)
    names = frozenset(name for listed in class_lists for name in listed.names)
    tables = _labelled([read_table(file, where.looks_for(file), names) for file in files])
    tables = _one_a_split(tables, where)
    for table in tables:
        note(f"{table.file}: read as {table.form}; {len(table.rows)} videos")
    rows = [row for table in tables for row in table.rows]
    if not rows:
        raise UserError(f"{files[0]}: no video in it. Expected {EXPECTED}.")
    by_split = _without_blank_test(_by_split(tables))
    rows = [row for listed in by_split.values() for row in listed]
    classes, labels = _labels(rows, class_lists)
    where.learn(rows)
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
        warn(f"each of the {len(rows)} videos has a class of its own: is it the right column?")
    return Annotations(classes, splits, files[0].resolve().parent.name)


def known_group(path: str) -> str:
    """What a clip was cut from, where its name says so as UCF-101's and Kinetics' do; else ""."""
    parts = re.split(r"[\\/]", path.rstrip("\\/"))
    stem, extension = os.path.splitext(parts[-1])
    if extension.lower() not in VIDEO_EXTENSIONS:
        stem = parts[-1]
    if found := re.fullmatch(r"v_(\w+_g\d\d)_c\d\d", stem):
        return found.group(1)
    if found := re.fullmatch(r"([\w-]{11})_\d{6}_\d{6}", stem):
        return found.group(1)
    return ""


# Which files


def list_files(root: str, annotations: str | None, split: int) -> list[Path]:
    """The lists to read: the file named, or those in the folder named or in a usual place of root.

    Raises UserError where there is none, or where it is not clear which to take.
    """
    if annotations is None and is_url(root):
        raise UserError(f"--root {root} is a URL: name the list with --annotations FILE.")
    place = Path(annotations if annotations is not None else root)
    if place.is_file():
        return [place]
    tried = [place] if annotations is not None else [place / name for name in _PLACES]
    for folder in dict.fromkeys(tried):
        if folder.is_dir():
            files = _files_of_splits(folder, split) or _metadata(folder) or _only_list(root, folder)
            if files:
                return files
    raise UserError(
        f"{place}: no such file, nor a folder with a list (train.csv, val.txt, metadata.csv, ...) "
        "in it. Name the list with --annotations FILE."
    )


def _files_of_splits(folder: Path, split: int) -> list[Path]:
    found = [path for path in _candidates(folder) if splits_in(path.stem)]
    numbers = {path: _split_number(path.stem) for path in found}
    if any(numbers.values()):
        kept = [path for path in found if numbers[path] in (0, split)]
        if len(kept) < len(found):
            note(f"{folder}: of several published splits number {split} is read (--split)")
        found = kept
    return sorted(found, key=lambda path: (min(map(_SPLITS.index, splits_in(path.stem))), path))


def _split_number(stem: str) -> int:
    found = re.search(r"(?:split|list)[_-]?0?([1-9])(?!\d)", stem.lower())
    return int(found.group(1)) if found else 0


def _metadata(folder: Path) -> list[Path]:
    """Hugging Face's metadata.csv or metadata.jsonl, in the folder or in one for each split."""
    places = [folder, *sorted(p for p in folder.iterdir() if split_of_folder(p.name))]
    for name in ("metadata.csv", "metadata.jsonl", "metadata.tsv"):
        found = [place / name for place in places if (place / name).is_file()]
        if found:
            return found
    return []


def _only_list(root: str, folder: Path) -> list[Path]:
    """The one file in a folder that reads as a list, whatever its name."""
    where = _Places(root)
    found = []
    for path in _candidates(folder):
        try:
            is_video = where.looks_for(path)
            table = read_table(path, is_video, frozenset())
        except UserError:
            continue
        if table.labelled and any(is_video(row.path) for row in table.rows[:50]):
            found.append(path)
    if len(found) > 1:
        shown = ", ".join(path.name for path in found[:6])
        raise UserError(
            f"{folder}: several lists and no word for a split in their names: {shown}. "
            "Name one with --annotations FILE, or call them train.csv and val.csv."
        )
    return found


def _candidates(folder: Path) -> list[Path]:
    return [
        path
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in _SUFFIXES and not path.name.startswith(".") and path.is_file()
    ]


def _labelled(tables: list[Table]) -> list[Table]:
    """The lists that have labels; one without is left out with a word, unless there is no other."""
    without = [table for table in tables if not table.labelled]
    if len(without) == len(tables) and without:
        table = without[0]
        header = f" (its header is `{','.join(table.header)}`)" if table.header else ""
        raise UserError(f"{table.file}: the videos have no label{header}. Expected {EXPECTED}.")
    for table in without:
        warn(f"{table.file}: left out, since its {len(table.rows)} videos have no label")
    for table in tables:
        if not table.rows:
            raise UserError(f"{table.file}: no video in it. Expected {EXPECTED}.")
    return [table for table in tables if table.labelled]


def _one_a_split(tables: list[Table], where: _Places) -> list[Table]:
    """One list for each split: of two, that whose videos are there."""
    by_split: dict[str, list[Table]] = {}
    for table in tables:
        name = "" if all(row.split for row in table.rows) else _split_of_file(table.file)
        by_split.setdefault(name, []).append(table)
    kept = []
    for name, listed in by_split.items():
        there = [t for t in listed if any(where.is_exactly_there(row) for row in t.rows[:50])]
        if len(listed) > 1 and len(there) == 1 and name:
            others = ", ".join(table.file.name for table in listed if table is not there[0])
            note(f"{there[0].file}: taken for {name}, since the videos of {others} are not there")
            listed = there
        if len(listed) > 1 and name:
            shown = " and ".join(table.file.name for table in listed)
            raise UserError(
                f"{listed[0].file.parent}: {shown} are both lists of {name}. Put the lists to read "
                "into a folder of their own and name it with --annotations."
            )
        kept.extend(listed)
    return kept


def _split_of_file(file: Path) -> str:
    named = splits_in(file.stem)
    if len(named) > 1:
        raise UserError(
            f"{file}: its name has words for the splits {' and '.join(sorted(named))}. Rename it, "
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
    """Without a test split of label 0 alone: TSM's scripts write 0 where no label is published."""
    test = splits.get("test", [])
    elsewhere = {row.label for name, rows in splits.items() if name != "test" for row in rows}
    if len(test) >= 5 and {row.label for row in test} == {"0"} and len(elsewhere) > 1:
        warn(
            f"{test[0].file}: left out, since all of its {len(test)} videos have the label 0, as "
            "lists have where no labels are published"
        )
        return {name: rows for name, rows in splits.items() if name != "test"}
    return splits


# What the labels mean


def _labels(
    rows: list[Row], class_lists: list[ClassList]
) -> tuple[tuple[str, ...], dict[str, int]]:
    """Class names, and the label of each label text."""
    texts = list(dict.fromkeys(row.label for row in rows))
    if any(row.class_name for row in rows):
        return _numbers_with_names(rows)
    for listed in class_lists:
        if set(texts) <= set(listed.names):
            note(f"classes: the {len(listed.names)} names of {listed.file}, in its order")
            places = {name: label for label, name in enumerate(listed.names)}
            return listed.names, {text: places[text] for text in texts}
    by_text = {text: _number(text) for text in texts}
    numbers = [number for number in by_text.values() if number is not None]
    if not numbers:
        for listed in class_lists:
            lacking = next(text for text in texts if text not in listed.names)
            warn(f"{listed.file} is not used: the label {lacking!r} is not in it")
        classes = tuple(sorted(texts))
        return classes, {name: label for label, name in enumerate(classes)}
    _check_numbers(rows, by_text)
    if any("." in text for text in texts):
        note("labels are written with a decimal point, and read as whole numbers")
    if class_lists:
        listed = _only(class_lists)
        first = {by_text[row.label]: f"{row.file}:{row.number}" for row in reversed(rows)}
        labels = listed.of_numbers({n: where for n, where in first.items() if n is not None})
        note(f"classes: the {len(listed.names)} names of {listed.file} for the numbers")
        return listed.names, {t: labels[n] for t, n in by_text.items() if n is not None}
    found = sorted(set(numbers))
    if found != list(range(len(found))):
        note(
            f"classes: {len(found)}, called by their numbers {found[0]} to {found[-1]}; numbers "
            "that do not occur are no classes"
        )
    places_of = {number: label for label, number in enumerate(found)}
    return (
        tuple(str(number) for number in found),
        {text: places_of[number] for text, number in by_text.items() if number is not None},
    )


def _numbers_with_names(rows: list[Row]) -> tuple[tuple[str, ...], dict[str, int]]:
    """Classes of a table with a column for the number and one for the name."""
    names: dict[int, Row] = {}
    by_name: dict[str, int] = {}
    for row in rows:
        number = _number(row.label)
        if number is None:
            problem = f"class number {row.label!r}"
            raise bad_line(row.file, row.number, row.text, problem, "an integer")
        first = names.setdefault(number, row)
        if (
            first.class_name != row.class_name
            or by_name.setdefault(row.class_name, number) != number
        ):
            problem = (
                f"class {row.class_name!r} has number {number}, unlike {first.file}:{first.number}"
            )
            raise bad_line(row.file, row.number, row.text, problem, "one number for each name")
    order = sorted(names)
    labels = {row.label: order.index(_number(row.label) or 0) for row in rows}
    return tuple(names[number].class_name for number in order), labels


def _only(class_lists: list[ClassList]) -> ClassList:
    if len({listed.names for listed in class_lists}) > 1:
        shown = " and ".join(listed.file.name for listed in class_lists)
        raise UserError(
            f"{class_lists[0].file.parent}: {shown} name the classes differently. Keep the one "
            "that belongs to the labels there."
        )
    return class_lists[0]


def _number(text: str) -> int | None:
    """A label text as an integer, 3.0 as 3; None for a name."""
    return int(float(text)) if re.fullmatch(r"[+-]?\d{1,15}(\.0*)?", text) else None


def _check_numbers(rows: list[Row], by_text: dict[str, int | None]) -> None:
    """Refuse names among numbers, numbers below 0, and numbers that can be no classes."""
    first = next(row for row in rows if by_text[row.label] is not None)
    for row in rows:
        number = by_text[row.label]
        if number is None and re.fullmatch(r"[+-]?\d*\.\d+", row.label):
            raise bad_line(row.file, row.number, row.text, f"label {row.label}", "whole numbers")
        if number is None:
            problem = (
                f"label {row.label!r} is a name, while {first.file}:{first.number} has the number "
                f"{first.label}"
            )
            expected = "names throughout, or integers throughout"
            raise bad_line(row.file, row.number, row.text, problem, expected)
        if number < 0:
            raise bad_line(row.file, row.number, row.text, f"label {number}", "integers from 0")
    highest = max(number for number in by_text.values() if number is not None)
    if highest >= 2 * len(by_text) + 1000:
        raise UserError(
            f"{rows[0].file}: labels reach {highest} but only {len(by_text)} of them occur. Number "
            "the classes from 0 without gaps, or write their names."
        )


# Where the videos lie


class _Places:
    """Finds the videos of a list under the root, or beside the list."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._url = is_url(root)
        self._media = Media()
        self._learned: list[str] = []
        self._told: dict[str, tuple[int, str]] = {}

    def looks_for(self, file: Path) -> Callable[[str], bool]:
        """Whether a cell of a list looks like a video: its suffix is one's, or there is one."""

        def is_video(cell: str) -> bool:
            if os.path.splitext(cell)[1].lower() in VIDEO_EXTENSIONS or is_url(cell):
                return True
            return bool(cell.strip()) and self._find(cell, file) is not None

        return is_video

    def is_exactly_there(self, row: Row) -> bool:
        """Whether a row's video is there as it is written."""
        path = _slashes(row.path).rstrip("/")
        bases = self._bases(row.file)
        return any(self._media.exists(os.path.join(base, path)) for base in bases)

    def learn(self, rows: list[Row]) -> None:
        """Where no listed video is found, look one folder below the root."""
        sample = rows[:50]
        if self._url or any(self._find(row.path, row.file) for row in sample):
            return
        best, most = "", 0
        for folder in self._media.subfolders(self._root):
            hits = sum(self._media.find(folder, _slashes(row.path)) is not None for row in sample)
            if hits > most:
                best, most = folder, hits
        if best:
            note(f"the listed videos lie under {best}")
            self._learned.append(best)

    def name(self, row: Row) -> str:
        """A row's path as the video's id: without `./` and the like, below the root."""
        path = row.path
        if is_url(path):
            return path
        if "\\" in path and (self._url or not self._media.exists(join(self._root, path))):
            path = _slashes(path)
        path = re.sub(r"^(\./)+", "", re.sub(r"(?<!^)/+$", "", path))
        if row.file.stem == "metadata" and not self._url:
            inner = os.path.relpath(row.file.resolve().parent, os.path.realpath(self._root))
            if inner != "." and not inner.startswith(".."):
                return f"{inner}/{path}"
        return path

    def _bases(self, file: Path) -> list[str]:
        """Folders that a list's paths may be relative to: the root, the list's own."""
        if self._url:
            return []
        bases = [os.path.abspath(self._root), str(file.resolve().parent)]
        if file.stem == "metadata":  # Hugging Face's are relative to their own folder
            bases.reverse()
        return list(dict.fromkeys([*bases, *self._learned]))

    def locate(self, row: Row) -> str:
        """The absolute path or URL of a row's video; where it should be if there is none.

        Raises UserError, naming the line, for a path of Windows, and one that leads nowhere.
        """
        path = row.path
        if is_url(path):
            return path
        if _WINDOWS.match(path):
            problem = "an absolute path of Windows"
            expected = "paths relative to --root, such as " + re.split(r"[\\/]", path)[-1]
            raise bad_line(row.file, row.number, row.text, problem, expected)
        found = self._find(path, row.file)
        if found is None:
            if "\\" in path:
                self._tell("backslashes are read as slashes", path)
                path = _slashes(path)
            return join(self._root, path)
        place, how = found
        for what in how:
            self._tell(what, row.path)
        return place

    def tell(self) -> None:
        """Say how paths were understood other than as written, each way once."""
        for what, (count, example) in self._told.items():
            note(f"{count} path(s) such as {printable(example)}: {what}")
        self._media.tell()

    def _tell(self, what: str, path: str) -> None:
        count, example = self._told.get(what, (0, path))
        self._told[what] = (count + 1, example)

    def _find(self, path: str, file: Path) -> tuple[str, list[str]] | None:
        """(where it is, what had to be changed for it)"""
        bases = self._bases(file)
        for variant, how in self._variants(path):
            for exact in (True, False):
                for base in bases:
                    place = os.path.normpath(os.path.join(base, variant))
                    found = place if exact and self._media.exists(place) else None
                    if not exact:
                        found = self._media.find(base, variant)
                    if found:
                        changes = list(how)
                        if base != bases[0] and not os.path.isabs(variant):
                            changes.append(f"found in {base}")
                        if not exact and os.path.splitext(found)[1] != os.path.splitext(place)[1]:
                            changes.append("found with another suffix, or as a folder of frames")
                        return found, changes
        return None

    def _variants(self, path: str) -> Iterable[tuple[str, list[str]]]:
        yield path, []
        slashed, how = path, []
        if "\\" in path:
            slashed, how = _slashes(path), ["backslashes are read as slashes"]
            yield slashed, how
        last = os.path.basename(os.path.abspath(self._root))
        inner = re.sub(r"^(\./)+", "", slashed)
        if inner.startswith(f"{last}/"):
            yield inner[len(last) + 1 :], [*how, "they begin with the last folder of --root"]
        if "%" in slashed and unquote(slashed) != slashed:
            yield unquote(slashed), [*how, "percent signs are read as in a URL"]
        if not slashed.isascii():
            try:  # a list in Windows-1252 for files that are named so
                yield os.fsdecode(slashed.encode("cp1252")), how
            except UnicodeEncodeError:
                return


def _slashes(path: str) -> str:
    return path.replace("\\", "/")
