"""Format `jester`: jester-v1-{labels,train,validation}.csv, lines of `id;label`, frame folders."""

from __future__ import annotations

from stm.data.annotations.common import Annotations, annotation_folder
from stm.data.annotations.semicolon import read_semicolon


def read(root: str, annotations: str | None, split: int) -> Annotations:
    """Read the published lists; ROOT/id (or ROOT/20bn-jester-v1/id) holds a video's frames."""
    del split
    folder = annotation_folder(root, annotations, "jester-v1-labels.csv")
    return read_semicolon(root, folder, "jester-v1", "jester")
