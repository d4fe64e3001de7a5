"""Format `kinetics400`: the official CSV files of Kinetics-400, -600 and -700, or `path label` lists."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stm.data.annotations import lists
from stm.data.annotations.cells import EXPECTED
from stm.data.annotations.class_lists import find_class_list, plain
from stm.data.annotations.common import (
    VIDEO_EXTENSIONS,
    Annotations,
    Entry,
    is_hidden,
    join,
)
from stm.data.annotations.list_files import list_files
from stm.data.annotations.texts import bad_line, read_lines, warn
from stm.data.annotations.words import split_of, splits_in
from stm.errors import UserError
from stm.storage import is_url

_HEADER = ["label", "youtube_id", "time_start", "time_end", "split"]
_EXPECTED = (
    "`label,youtube_id,time_start,time_end,split`, with the label in quotes if it has a comma"
)


@dataclass(frozen=True, slots=True)
class _Clip:
    file: Path
    number: int
    text: str
    label: str
    youtube_id: str
    start: int
    end: int
    split: str

    @property
    def stem(self) -> str:
        """The file name in the published archives, with the times in seconds as six digits."""
        return f"{self.youtube_id}_{self.start:06d}_{self.end:06d}"


def read(root: str, annotations: str | None, split: int) -> Annotations:
    """Read official CSV files if there are any, else `path label` lists.

    `annotations` is a file, or a folder with lists or with train.csv, val.csv (validate.csv) and
    test.csv. A clip's group is its YouTube id. Official CSV files without labels are left out.
    """
    files = list_files(root, annotations, split)
    if is_official(files) or files[0].suffix.lower() == ".csv":
        return read_official(root, files)
    return replace(lists.read(root, annotations, split), dataset="kinetics400")


def is_official(files: Sequence[Path]) -> bool:
    """Return whether the first file has the header of the official CSV files."""
    if not files or files[0].suffix.lower() != ".csv":
        return False
    for _, text in read_lines(files[0], EXPECTED):
        return {"youtube_id", "time_start", "time_end"} <= set(_column_names(text.split(",")))
    return False


def read_official(root: str, files: Sequence[Path]) -> Annotations:
    """Read official CSV files. Videos are found by YouTube id and times, anywhere below root."""
    clips: list[_Clip] = []
    for file in files:
        found = _clips(file)
        if found is None:
            if len(files) == 1:
                raise UserError(f"{file}: the videos have no labels. Expected {_EXPECTED}.")
            warn(f"{file}: left out, because its videos have no labels")
        else:
            clips.extend(found)
    if not clips:
        raise UserError(f"{files[0]}: it lists no videos with labels. Expected {_EXPECTED}.")
    listed = find_class_list([files[0].parent], files)
    classes = listed[0].names if listed else tuple(sorted({clip.label for clip in clips}))
    labels = {plain(name): label for label, name in enumerate(classes)}
    located = _videos_by_stem(root)
    splits: dict[str, list[Entry]] = {"train": [], "val": [], "test": []}
    for clip in clips:
        label = labels.get(plain(clip.label))
        if label is None:
            problem = f"label {clip.label!r} is unknown"
            raise bad_line(clip.file, clip.number, clip.text, problem, f"one of {listed[0].file}")
        stems = (clip.stem, f"{clip.youtube_id}_{clip.start}_{clip.end}", clip.youtube_id)
        path = next((located[stem] for stem in stems if stem in located), None)
        splits[clip.split].append(
            Entry(
                video_id=clip.stem,
                path=path or join(root, f"{clip.label}/{clip.stem}.mp4"),
                label=label,
                group=clip.youtube_id,
                line=f"{clip.file}:{clip.number}",
            )
        )
    listed_splits = {name: entries for name, entries in splits.items() if entries}
    return Annotations(classes, listed_splits, "kinetics400")


def _clips(file: Path) -> list[_Clip] | None:
    """The clips of one file; None if it has no column of labels."""
    columns = {name: k for k, name in enumerate(_HEADER)}
    named = splits_in(file.stem)
    clips: list[_Clip] = []
    for number, text in read_lines(file, _EXPECTED):
        try:
            cells = [cell.strip() for cell in next(csv.reader([text], strict=True))]
        except csv.Error as error:
            raise bad_line(file, number, text, str(error), _EXPECTED) from error
        names = _column_names(cells)
        if "youtube_id" in names:
            columns = {name: k for k, name in enumerate(names)}
            if "label" not in columns:
                return None
            continue
        value = {name: cells[k] for name, k in columns.items() if k < len(cells)}
        if len(value) < len(set(columns) & set(_HEADER)) or not value.get("youtube_id"):
            raise bad_line(file, number, text, "cannot be read", _EXPECTED)
        if not value["label"]:
            raise bad_line(file, number, text, "empty label", _EXPECTED)
        given = value.get("split", "")
        split = split_of(given) if given else min(named, default=None)
        if split is None:
            raise bad_line(file, number, text, f"split {given!r}", "train, val, validate or test")
        start = _seconds(file, number, text, value, "time_start")
        end = _seconds(file, number, text, value, "time_end")
        youtube_id = value["youtube_id"]
        clips.append(_Clip(file, number, text, value["label"], youtube_id, start, end, split))
    return clips


def _column_names(cells: Sequence[str]) -> list[str]:
    return [cell.strip().strip('"').lower() for cell in cells]


def _seconds(file: Path, number: int, text: str, value: dict[str, str], name: str) -> int:
    given = value.get(name, "")
    if not re.fullmatch(r"\d{1,6}(\.0*)?", given):
        problem = f"{name} {given!r}"
        raise bad_line(file, number, text, problem, "whole seconds")
    return int(float(given))


def _videos_by_stem(root: str) -> dict[str, str]:
    """Every video file below `root`, by its name without extension, and every folder that may contain
    frames, by its name. Links are followed, each folder once."""
    if is_url(root):
        return {}
    found: dict[str, str] = {}
    folders: dict[str, str] = {}
    seen: set[str] = set()
    for folder, subfolders, names in os.walk(
        os.path.abspath(root), followlinks=True, onerror=_tell
    ):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if not is_hidden(name))
        if not subfolders:
            folders.setdefault(os.path.basename(folder), folder)
        for name in sorted(names):
            stem, extension = os.path.splitext(name)
            if extension.lower() not in VIDEO_EXTENSIONS or is_hidden(name):
                continue
            while os.path.splitext(stem)[1].lower() in VIDEO_EXTENSIONS:  # youtube-dl's .mp4.mkv
                stem = os.path.splitext(stem)[0]
            found.setdefault(stem, os.path.join(folder, name))
    return {**folders, **found}


def _tell(error: OSError) -> None:
    warn(f"{error.filename}: cannot list this folder ({error.strerror}): its videos are not found")
