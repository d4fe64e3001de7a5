"""Format `something-v1`: *_videofolder.txt with class names, or the official `id;label` lists."""

from __future__ import annotations

from dataclasses import replace

from stm.data.annotations import lists
from stm.data.annotations.common import Annotations, annotation_folder
from stm.data.annotations.semicolon import read_semicolon

LANDMARKS = ("something-something-v1-labels.csv",)

_PUBLISHED = "something-something-v1"


def read(root: str, annotations: str | None, split: int) -> Annotations:
    """Read the lists in either form; ROOT/id contains a video's frames.

    The numbers of frames in a list are ignored, because indexing counts the frames.
    """
    return read_videofolder_or(root, annotations, split, _PUBLISHED, "something-v1")


def read_videofolder_or(
    root: str, annotations: str | None, split: int, published: str, dataset: str
) -> Annotations:
    """Read TSM's `id num_frames label` lists with category.txt or label_map.txt, else `published`'s lists."""
    official = f"{published}-labels.csv"
    folder = annotation_folder(root, annotations, official, "*_videofolder.txt")
    if not (folder / official).is_file():
        return replace(lists.read(root, str(folder), split), dataset=dataset)
    return read_semicolon(root, folder, published, dataset)
