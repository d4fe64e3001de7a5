"""Find the lists of a folder: files with the name of a split, else the only list in it."""

from __future__ import annotations

import re
from pathlib import Path

from stm.data.annotations.places import Places
from stm.data.annotations.tables import read_table
from stm.data.annotations.texts import note
from stm.data.annotations.words import split_of_folder, splits_in
from stm.errors import UserError
from stm.storage import is_url

_SUFFIXES = (".csv", ".tsv", ".txt", ".list", ".lst", ".jsonl", ".ndjson", ".json")
_SPLITS = ("train", "val", "test")
_PLACES = ("", "annotations", "lists", "labels", "splits", "annotation")


def list_files(root: str, annotations: str | None, split: int) -> list[Path]:
    """Return the lists to read: the given file, or those in the given folder or in a usual folder of root.

    Raises UserError if there is no list, or if it is unclear which one to read.
    """
    if annotations is None and is_url(root):
        raise UserError(f"--root {root} is a URL: give the list with --annotations FILE.")
    place = Path(annotations if annotations is not None else root)
    if place.is_file():
        return [place]
    tried = [place] if annotations is not None else [place / name for name in _PLACES]
    refused: list[str] = []
    for folder in dict.fromkeys(tried):
        if folder.is_dir():
            files = _files_of_splits(folder, split) or _metadata(folder)
            files = files or _only_list(root, folder, refused)
            if files:
                return files
    why = f" Not readable as lists: {'; '.join(refused[:3])}" if refused else ""
    raise UserError(
        f"{place}: there is no list (train.csv, val.txt, metadata.csv, ...) in this folder. Give the "
        f"list with --annotations FILE.{why}"
    )


def _files_of_splits(folder: Path, split: int) -> list[Path]:
    found = [path for path in _candidates(folder) if splits_in(path.stem)]
    numbers = {path: _split_number(path.stem) for path in found}
    if any(numbers.values()):
        kept = [path for path in found if numbers[path] in (0, split)]
        if len(kept) < len(found):
            note(f"{folder}: it has several published splits; number {split} is read (--split)")
        found = kept
    return sorted(found, key=lambda path: (min(map(_SPLITS.index, splits_in(path.stem))), path))


def _split_number(stem: str) -> int:
    found = re.search(r"(?:split|list)[_-]?0?([1-9])(?!\d)", stem.lower())
    return int(found.group(1)) if found else 0


def _metadata(folder: Path) -> list[Path]:
    """Hugging Face's metadata.csv or metadata.jsonl, in the folder or in its folders of splits."""
    places = [folder, *sorted(p for p in folder.iterdir() if split_of_folder(p.name))]
    for name in ("metadata.csv", "metadata.jsonl", "metadata.tsv"):
        found = [place / name for place in places if (place / name).is_file()]
        if found:
            return found
    return []


def _only_list(root: str, folder: Path, refused: list[str]) -> list[Path]:
    """The only file in a folder that can be read as a list, whatever its name.

    The problems of the other files are appended to `refused`.
    """
    where = Places(root)
    found, with_header = [], []
    for path in _candidates(folder):
        try:
            is_video = where.looks_for(path)
            table = read_table(path, is_video, frozenset())
        except UserError as error:
            refused.append(str(error))
            continue
        if table.labelled and any(is_video(row.path) for row in table.rows[:50]):
            found.append(path)
        elif table.labelled and table.rows and table.header:
            with_header.append(path)
        elif table.rows:
            problem = "none of its videos exists" if table.labelled else "its videos have no labels"
            refused.append(f"{path}: {problem}.")
    found = found or with_header
    if len(found) > 1:
        shown = ", ".join(path.name for path in found[:6])
        raise UserError(
            f"{folder}: there are several lists without a split in their names: {shown}. "
            "Give one with --annotations FILE, or rename them to train.csv and val.csv."
        )
    return found


def _candidates(folder: Path) -> list[Path]:
    return [
        path
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in _SUFFIXES and not path.name.startswith(".") and path.is_file()
    ]
