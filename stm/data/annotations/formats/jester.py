"""Format `jester`: jester-v1-{labels,train,validation}.csv, lines of `id;label`, frame folders."""

from __future__ import annotations

from stm.data.annotations.common import Annotations
from stm.data.annotations.formats.something_v1 import read_videofolder_or

LANDMARKS = ("jester-v1-labels.csv",)


def read(root: str, annotations: str | None, split: int) -> Annotations:
    """Read the published lists, or *_videofolder.txt; ROOT/id (or ROOT/20bn-jester-v1/id) contains a
    video's frames."""
    return read_videofolder_or(root, annotations, split, "jester-v1", "jester")
