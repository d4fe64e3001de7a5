"""Formats `list` and `csv`: which published format, or which form of list, a folder or file has."""

from __future__ import annotations

from pathlib import Path

from stm.data.annotations import (
    hmdb51,
    jester,
    kinetics400,
    lists,
    something_v1,
    something_v2,
    ucf101,
)
from stm.data.annotations.common import Annotations
from stm.data.annotations.list_files import list_files
from stm.data.annotations.texts import note
from stm.storage import is_url

_LANDMARKS = (  # file in the folder, format's name, its reader
    ("trainlist0*.txt", "ucf101", ucf101.read),
    ("*_test_split1.txt", "hmdb51", hmdb51.read),
    ("jester-v1-labels.csv", "jester", jester.read),
    ("something-something-v1-labels.csv", "something-v1", something_v1.read),
    ("something-something-v2-labels.json", "something-v2", something_v2.read),
    # Today's download: labels.json, train.json, validation.json.
    ("labels/validation.json", "something-v2", something_v2.read),
)
_INSIDE = ("", "annotations", "ucfTrainTestlist", "testTrainMulti_7030_splits", "labels")


def read(root: str, annotations: str | None, split: int) -> Annotations:
    """Read a list in any form, or a published format that is known by its files' names."""
    place = Path(annotations if annotations is not None else root)
    if not (annotations is None and is_url(root)) and place.is_dir():
        for landmark, name, reader in _LANDMARKS:
            if any(any((place / inside).glob(landmark)) for inside in _INSIDE):
                note(f"{place}: read as --format {name}, which has a {landmark}")
                return reader(root, annotations, split)
    files = list_files(root, annotations, split)
    if kinetics400.is_official(files):
        note(f"{files[0]}: read as --format kinetics400, by its header")
        return kinetics400.read_official(root, files)
    return lists.read(root, annotations, split)
