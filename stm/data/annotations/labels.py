"""Interpret the labels of a list: names, numbers or both, with the class list beside the file."""

from __future__ import annotations

import re

from stm.data.annotations.class_lists import ClassList
from stm.data.annotations.tables import Row
from stm.data.annotations.texts import bad_line, note, warn
from stm.errors import UserError
from stm.plural import counted


def class_labels(
    rows: list[Row], class_lists: list[ClassList]
) -> tuple[tuple[str, ...], dict[str, int]]:
    """Return the class names, and the label, from 0, of each label text.

    Raises UserError, with the line, if the labels are inconsistent or not in the class list.
    """
    texts = list(dict.fromkeys(row.label for row in rows))
    if any(row.class_name for row in rows):
        return _numbers_with_names(rows)
    for listed in class_lists:
        if set(texts) <= set(listed.names):
            note(
                f"classes: the {counted(len(listed.names), 'name')} of {listed.file}, in the order of the file"
            )
            places = {name: label for label, name in enumerate(listed.names)}
            return listed.names, {text: places[text] for text in texts}
    by_text = {text: _number(text) for text in texts}
    numbers = [number for number in by_text.values() if number is not None]
    if not numbers:
        for listed in class_lists:
            lacking = next(text for text in texts if text not in listed.names)
            warn(f"{listed.file} is not used, because it does not contain the label {lacking!r}")
        classes = tuple(sorted(texts))
        return classes, {name: label for label, name in enumerate(classes)}
    _check_numbers(rows, by_text)
    if any(re.search("[.,eE]", text) for text in texts):
        note("labels have a decimal point or an exponent, and are read as whole numbers")
    if class_lists:
        listed = _only(class_lists)
        first = {by_text[row.label]: f"{row.file}:{row.number}" for row in reversed(rows)}
        labels = listed.of_numbers({n: where for n, where in first.items() if n is not None})
        note(f"classes: the {counted(len(listed.names), 'name')} of {listed.file} for the numbers")
        if not listed.numbered and 0 not in numbers and max(numbers) < len(listed.names):
            warn(
                f"{rows[0].file}: no label is 0 or {len(listed.names)}; labels are assumed to "
                f"count from 0, so label {min(numbers)} is {listed.names[min(numbers)]!r}. If they "
                f"count from 1, write `NUMBER name` in {listed.file}"
            )
        return listed.names, {t: labels[n] for t, n in by_text.items() if n is not None}
    found = sorted(set(numbers))
    if found != list(range(len(found))):
        note(
            f"classes: {len(found)}, named by their numbers {found[0]} to {found[-1]}; numbers "
            "that do not occur are not classes"
        )
    places_of = {number: label for label, number in enumerate(found)}
    return (
        tuple(str(number) for number in found),
        {text: places_of[number] for text, number in by_text.items() if number is not None},
    )


def _numbers_with_names(rows: list[Row]) -> tuple[tuple[str, ...], dict[str, int]]:
    """Classes of a table with a column for numbers and one for names."""
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
            f"{class_lists[0].file.parent}: {shown} have different class names. Keep only the "
            "one that belongs to the labels."
        )
    return class_lists[0]


def _number(text: str) -> int | None:
    """A label text as an integer, such as 3 for 3.0; None for a name."""
    if not re.fullmatch(r"[+-]?\d{1,15}([.,]0*)?(?:[eE][+-]?\d{1,2})?", text):
        return None
    value = float(text.replace(",", "."))
    return int(value) if value.is_integer() and abs(value) < 1e15 else None


def _check_numbers(rows: list[Row], by_text: dict[str, int | None]) -> None:
    """Refuse names among numbers, negative numbers, and numbers that are too high for classes."""
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
            expected = "only names, or only integers"
            raise bad_line(row.file, row.number, row.text, problem, expected)
        if number < 0:
            raise bad_line(row.file, row.number, row.text, f"label {number}", "integers from 0")
    highest = max(number for number in by_text.values() if number is not None)
    if highest >= 2 * len(by_text) + 1000:
        raise UserError(
            f"{rows[0].file}: the highest label is {highest}, but the number of labels is {len(by_text)}. "
            "Number the classes from 0 without gaps, or write their names."
        )
