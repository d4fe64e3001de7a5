"""Read class names from separate files: beside a list of numbers, or given with `--classes`.

    classes = read_class_list(Path("label_map.txt"))
    classes.names  # ("abseiling", "air drumming", ...)

A class list has one name per line, or lines of `NUMBER name`, `NUMBER,name` or `name NUMBER`. It may also be a JSON
list of names, a JSON object from name to number or from number to name, or a manifest.
"""

from __future__ import annotations

import csv
import difflib
import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stm.data.annotations.common import VIDEO_EXTENSIONS, Annotations, Entry
from stm.data.annotations.texts import bad_line, note, read_lines, read_text, warn
from stm.data.annotations.words import column_role
from stm.errors import UserError
from stm.plural import counted

_EXPECTED = "one class name per line, or `NUMBER name`"
_NAMES = re.compile(
    r"(.*_)?(label_?map|category|categories|class_?ind|class_?index|classes|class_?names?|class_?list"
    r"|labels|label_?list|label_?names|class_?to_?idx|id2label|label2id|actions)(_.*)?"
    r"\.(txt|csv|json|names)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class ClassList:
    """Class names in order, each with the number that means it in lists."""

    file: Path
    names: tuple[str, ...]
    numbers: tuple[int, ...]
    """Number of each class in the file; 0, 1, ... if the file has no numbers."""

    numbered: bool
    """Whether the file contains the numbers."""

    def of_numbers(self, found: Mapping[int, str]) -> dict[int, int]:
        """Return the label, from 0, of each number that occurs in a list.

        The list uses the numbers of this file. If some are not in it, the list may count from 1 while
        the file counts from 0, or the reverse. `found` maps each number to its place in the list.
        Raises UserError, which begins with this place, if a number has no class.
        """
        labels = {number: label for label, number in enumerate(self.numbers)}
        used = sorted(set(found))
        count = len(self.names)
        if used and not set(used) <= set(labels):
            first = min(self.numbers)
            shifted = {number + (1 - 2 * first): label for number, label in labels.items()}
            if (
                first in (0, 1)
                and set(used) <= set(shifted)
                and sorted(self.numbers) == list(range(first, first + count))
            ):
                labels = shifted
                note(
                    f"labels count from {1 - first}: label {used[0]} is "
                    f"{self.names[labels[used[0]]]!r} in {self.file}"
                )
            else:
                wrong = next(number for number in used if number not in labels)
                raise UserError(
                    f"{found[wrong]}: label {wrong}, but {self.file} has the {counted(count, 'class')} "
                    f"{min(self.numbers)} to {max(self.numbers)}. Give the class list that belongs "
                    "to the labels with --classes FILE."
                )
        return {number: labels[number] for number in used}


def read_class_list(path: Path) -> ClassList:
    """Read a class list in any form that the module's docstring names.

    Raises UserError, with file and line, if it is not a class list or lists a class twice.
    """
    if path.suffix.lower() == ".parquet":
        from stm.data.manifest import Manifest

        names = Manifest.read(path).classes
        return ClassList(path, names, tuple(range(len(names))), numbered=False)
    if path.suffix.lower() == ".json":
        return _from_json(path)
    lines = without_header(path, list(read_lines(path, _EXPECTED)))
    if not lines:
        raise UserError(f"{path}: it contains no classes. Expected {_EXPECTED}.")
    pairs = _numbered_lines(lines)
    numbered = pairs is not None
    if pairs is None:
        pairs = [(k, text) for k, (_, text) in enumerate(lines)]
    seen: set[str] = set()
    for (number, text), (_, name) in zip(lines[len(lines) - len(pairs) :], pairs, strict=True):
        if name in seen:
            raise bad_line(path, number, text, "class listed twice", "each class once")
        seen.add(name)
    return _ordered(path, pairs, numbered)


def without_header(path: Path, lines: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """Return the lines of a class list, without the header `label`, `name` or similar of a CSV file."""
    if len(lines) > 1 and path.suffix.lower() == ".csv":
        first = lines[0][1].strip('"')
        if column_role(first) == "label" or first.casefold() in ("name", "names"):
            note(f"{path}: its first line, {first!r}, is read as a header")
            return lines[1:]
    return lines


def find_class_list(folders: Iterable[Path], exclude: Iterable[Path]) -> list[ClassList]:
    """Return the class lists in the first of `folders` that has any, recognised by their file names.

    Files in `exclude`, and files whose lines name videos, are skipped.
    """
    left_out = {path.resolve() for path in exclude}
    for folder in folders:
        found = []
        for path in sorted(folder.iterdir()) if folder.is_dir() else []:
            if _NAMES.fullmatch(path.name) and path.is_file() and path.resolve() not in left_out:
                try:
                    listed = read_class_list(path)
                except UserError:
                    continue  # labels.json and labels.txt may have any content
                if not any(_names_video(name) for name in listed.names):
                    found.append(listed)
        if found:
            return found
    return []


def match_classes(read: Annotations, given: ClassList) -> Annotations:
    """Return `read` with the names and the order of `given`. Classes are matched by name.

    If all classes of `read` are numbers and `given` has none of them as a name, the numbers are
    positions in `given`, as in `ClassList.of_numbers`. A note reports this.

    Raises UserError, with the names, if `given` does not have all classes of `read`.
    """
    numbers = [int(name) for name in read.classes if re.fullmatch(r"\d+", name)]
    labels: dict[int, int]
    if len(numbers) == len(read.classes) and not set(read.classes) & set(given.names):
        by_number = given.of_numbers(dict.fromkeys(numbers, "--classes"))
        labels = {label: by_number[number] for label, number in enumerate(numbers)}
        shown = ", ".join(
            f"{number} is {given.names[by_number[number]]!r}" for number in sorted(numbers)[:3]
        )
        note(f"labels are numbers, read as positions in {given.file}: {shown}")
    else:
        places = {name: label for label, name in enumerate(given.names)}
        missing = [name for name in read.classes if name not in places]
        if missing:
            raise UserError(_missing_message(missing, given))
        labels = {label: places[name] for label, name in enumerate(read.classes)}
    splits = {
        name: [_relabelled(entry, labels) for entry in entries]
        for name, entries in read.splits.items()
    }
    return Annotations(given.names, splits, read.dataset)


def look_alike(classes: Sequence[str]) -> None:
    """Warn of class names that differ only in letter case, blanks and punctuation."""
    alike: dict[str, list[str]] = {}
    for name in classes:
        alike.setdefault(plain(name), []).append(name)
    for names in alike.values():
        if len(names) > 1:
            shown = " and ".join(repr(name) for name in names)
            warn(f"{shown} are different classes, although their names are nearly the same")


def plain(name: str) -> str:
    """Return a class name without letter case, blanks and punctuation, which vary between publishers."""
    name = unicodedata.normalize("NFKC", name)
    return re.sub(r"[\W_]+", "", name).casefold() or name


def _relabelled(entry: Entry, labels: dict[int, int]) -> Entry:
    return Entry(entry.video_id, entry.path, labels[entry.label], entry.group, entry.line)


def _missing_message(missing: list[str], given: ClassList) -> str:
    shown = []
    for name in missing[:5]:
        near = [other for other in given.names if plain(other) == plain(name)]
        near = near or difflib.get_close_matches(name, given.names, n=1)
        shown.append(repr(name) + (f" (there is {near[0]!r})" if near else ""))
    more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
    return (
        f"--classes {given.file}: lacks {counted(len(missing), 'class')} of the annotations: "
        f"{', '.join(shown)}{more}. Spell them as in this file, or remove their videos."
    )


def _names_video(name: str) -> bool:
    words = name.split()
    return any(os.path.splitext(word)[1].lower() in VIDEO_EXTENSIONS for word in words)


def _numbered_lines(lines: list[tuple[int, str]]) -> list[tuple[int, str]] | None:
    """(number, name) of each line if all lines have both, else None; a header is skipped."""
    for form in (
        r"(?P<number>\d+)\s*[\s,;:\t]\s*(?P<name>.+)",
        r"(?P<name>.+?)\s*[\s,;:\t]\s*(?P<number>\d+)",
    ):
        found = [re.fullmatch(form, text) for _, text in lines]
        if found[0] is None and len(found) > 1:  # `id,name`
            found = found[1:]
        pairs = [(int(m["number"]), _unquoted(m["name"])) for m in found if m is not None]
        numbers = sorted(number for number, _ in pairs)
        # "2 people dancing" is a name: class numbers start at 0 or 1 and have no gaps.
        if len(pairs) == len(found) and numbers in (
            list(range(len(numbers))),
            list(range(1, len(numbers) + 1)),
        ):
            return pairs
    return None


def _unquoted(name: str) -> str:
    if name.startswith('"'):
        return next(csv.reader([name]), [name])[0]
    return name


def _ordered(path: Path, pairs: Sequence[tuple[int, str]], numbered: bool) -> ClassList:
    repeated = [n for n, count in Counter(number for number, _ in pairs).items() if count > 1]
    if repeated:
        raise UserError(
            f"{path}: two classes have the number {repeated[0]}. Give each its own number."
        )
    ordered = sorted(pairs)
    return ClassList(
        path, tuple(name for _, name in ordered), tuple(n for n, _ in ordered), numbered
    )


def _from_json(path: Path) -> ClassList:
    expected = f"{path}: expected a JSON list of class names, or an object of names and numbers."
    try:
        content: Any = json.loads(read_text(path, "JSON"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not JSON ({error.msg}).") from error
    if isinstance(content, dict):
        content = content.get("id2label", content.get("label2id", content))
    if isinstance(content, list) and content and all(isinstance(name, str) for name in content):
        if len(set(content)) < len(content):
            raise UserError(f"{path}: a class is listed twice.")
        return _ordered(path, list(enumerate(content)), numbered=False)
    if isinstance(content, dict) and content:
        for pairs in (
            [(value, name) for name, value in content.items()],
            [(number, name) for number, name in content.items()],
        ):
            if all(
                re.fullmatch(r"\d+", str(n)) and isinstance(name, str) and not isinstance(n, bool)
                for n, name in pairs
            ):
                # Files of one benchmark have the names in a second pair of quotes.
                numbered = [(int(str(n)), name.strip('"')) for n, name in pairs]
                return _ordered(path, numbered, numbered=True)
    raise UserError(expected)
