"""Read the text of lists in any usual encoding, and collect warnings and notes about them."""

from __future__ import annotations

import codecs
import contextlib
import re
import unicodedata
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

from stm.errors import UserError

_BYTE_ORDER_MARKS = (  # UTF-32 first, because its mark begins with that of UTF-16
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


@dataclass
class _Said:
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


_said: ContextVar[_Said] = ContextVar("said")


@contextlib.contextmanager
def listening() -> Iterator[_Said]:
    """Collect the texts passed to `warn` and `note` inside the block, each once."""
    said = _Said()
    token = _said.set(said)
    try:
        yield said
    finally:
        _said.reset(token)


def warn(text: str) -> None:
    """Warn the user of a possible error, in `Annotations.warnings`."""
    said = _said.get(None)
    if said is not None and text not in said.warnings:
        said.warnings.append(text)


def note(text: str) -> None:
    """Tell the user how a list was read, in `Annotations.notes`."""
    said = _said.get(None)
    if said is not None and text not in said.notes:
        said.notes.append(text)


def printable(text: str) -> str:
    """Return `text` on one line, with control characters and bytes that are not UTF-8 escaped."""
    if text.isprintable():
        return text
    return "".join(_escaped(character) for character in text)


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # how Python represents a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp"):
        return character.encode("unicode_escape").decode()
    return character


def is_utf8(path: str) -> bool:
    """Return whether a path is valid UTF-8; names on Linux may have any bytes."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_text(path: Path, expected: str) -> str:
    """Return the content of a text file in UTF-8, UTF-16, UTF-32, or else Windows-1252 with a warning.

    `expected` describes the expected content, for the UserError if the file cannot be read or is
    not text.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path}: cannot read it ({error.strerror}). Expected {expected}. "
            "Give the folder or file of the lists with --annotations."
        ) from error
    try:
        return _decoded(path, content)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: is not valid {error.encoding} (byte {error.start}). Save it as UTF-8. "
            f"Expected {expected}."
        ) from error
    except _NoText as error:
        raise UserError(f"{path}: {error}. Expected {expected}.") from error


class _NoText(ValueError):
    pass


def _decoded(path: Path, content: bytes) -> str:
    for mark, encoding in _BYTE_ORDER_MARKS:
        if content.startswith(mark):
            return content[len(mark) :].decode(encoding)
    if content.startswith(b"PK\x03\x04"):
        raise _NoText("is a zip archive or a spreadsheet, not text; save the sheet as CSV (UTF-8)")
    if content.startswith(b"PAR1"):
        raise _NoText("is a Parquet file, not text; a manifest does not need `stm index`")
    if content.startswith(b"version https://git-lfs."):
        raise _NoText("is a Git LFS pointer, not the list itself; `git lfs pull` fetches the list")
    head = content[:4096]
    # UTF-16 without its mark: every other byte of ordinary letters is zero.
    for first, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
        zeros = head[first::2].count(0)
        if zeros > len(head) // 4 and head[1 - first :: 2].count(0) == 0:
            return content.decode(encoding)
    if b"\0" in content:
        raise _NoText("is not text: it contains NUL bytes")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = 1 + len(re.findall(rb"\r\n|\r|\n", content[: error.start]))
        warn(
            f"{path}:{line}: is not UTF-8; the file is read as Windows-1252. If letters come "
            "out wrong, save it as UTF-8"
        )
        text = content.decode("cp1252", errors="surrogateescape")
        # Five bytes are undefined in Windows-1252; Latin-1 has control characters for them.
        return re.sub("[\udc80-\udcff]", lambda found: chr(ord(found.group()) - 0xDC00), text)


def read_lines(path: Path, expected: str) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, text without surrounding blanks) for every line that is not blank.

    Line ends are CR, LF or both. `expected` and the UserError are as in `read_text`.
    """
    for number, line in enumerate(re.split(r"\r\n|\r|\n", read_text(path, expected)), start=1):
        text = line.strip(" \t\ufeff\xa0\v\f")
        if text:
            yield number, text


def bad_line(path: Path, number: int, text: str, problem: str, expected: str) -> UserError:
    """Return the error for a malformed line, with file, line, text, problem and what is expected."""
    shown = text if len(text) <= 120 else text[:117] + "..."
    return UserError(f"{path}:{number}: {problem}: {shown}\n  expected {expected}")


def read_int(path: Path, number: int, text: str, value: str, low: int, high: int, what: str) -> int:
    """Return `value` as an integer in [low, high]; raise the UserError of `bad_line` if it is not."""
    try:
        parsed = int(value)
    except ValueError:
        parsed = low - 1
    if not low <= parsed <= high:
        raise bad_line(path, number, text, f"{what} {value!r}", f"an integer from {low} to {high}")
    return parsed
