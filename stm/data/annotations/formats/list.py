"""Formats `list` and `csv`: a list in any form, or a published format, which is recognised."""

from __future__ import annotations

from pathlib import Path

from stm.data.annotations import formats, lists
from stm.data.annotations.common import Annotations
from stm.data.annotations.formats import kinetics400
from stm.data.annotations.list_files import list_files
from stm.data.annotations.texts import note
from stm.storage import is_url

NUM_SPLITS = 3
_INSIDE = ("", "annotations", "ucfTrainTestlist", "testTrainMulti_7030_splits", "labels")


def read(root: str, annotations: str | None, split: int) -> Annotations:
    """Read a list in any form, or a published format that is recognised by its file names."""
    place = Path(annotations if annotations is not None else root)
    if not (annotations is None and is_url(root)) and place.is_dir():
        for landmark, name, module in formats.landmarks():
            if any(any((place / inside).glob(landmark)) for inside in _INSIDE):
                note(f"{place}: read as --format {name}, because of the file {landmark}")
                return module.read(root, annotations, split)
    files = list_files(root, annotations, split)
    if kinetics400.is_official(files):
        note(f"{files[0]}: read as --format kinetics400, because of its header")
        return kinetics400.read_official(root, files)
    return lists.read(root, annotations, split)
