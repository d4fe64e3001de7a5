"""The formats of annotations, one module each; a file put here is a format, called as the file with - for _.

A module has ``read(root, annotations, split) -> Annotations``: root is the folder or URL of the videos, annotations a
folder or file of the lists (None looks in the root), split the number of a published split. It may have

    NUM_SPLITS   how many published splits there are, where that is more than one
    LANDMARKS    names (globs) of files by which format `list` knows this one
    TEST_LIST    the data set's name, where it has no validation list and `val` is its test list
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from types import ModuleType

ALSO = {"csv": "list"}
"""Older names."""


def names() -> tuple[str, ...]:
    """Of all formats; no module is imported for it."""
    found = [module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__)]
    return (*sorted(found), *ALSO)


def module(name: str) -> ModuleType:
    """The module of a format of ``names()``."""
    return importlib.import_module(f"{__name__}.{ALSO.get(name, name).replace('-', '_')}")


def test_list_of(dataset: str) -> str | None:
    """The name of a manifest's data set, where its `val` is the published test list."""
    return getattr(module(dataset), "TEST_LIST", None) if dataset in names() else None


def landmarks() -> Iterator[tuple[str, str, ModuleType]]:
    """(glob, name of the format, its module) of every format that is known by its files."""
    for name in names():
        found = module(name)
        for landmark in getattr(found, "LANDMARKS", ()):
            yield landmark, name, found
