"""The formats of annotations. Each module here is a format, named after the module with - for _.

A module has ``read(root, annotations, split) -> Annotations``: root is the folder or URL of the videos, annotations a
folder or file of the lists (None searches the root), and split the number of a published split. It may have

    NUM_SPLITS   the number of published splits, if there are several
    LANDMARKS    names (globs) of files by which the format `list` recognises this format
    TEST_LIST    the data set's name, if it has no validation list and `val` is its test list
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from types import ModuleType

ALSO = {"csv": "list"}
"""Older names of formats."""


def names() -> tuple[str, ...]:
    """Return the names of all formats, without importing their modules."""
    found = [module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__)]
    return (*sorted(found), *ALSO)


def module(name: str) -> ModuleType:
    """Return the module of a format of ``names()``."""
    return importlib.import_module(f"{__name__}.{ALSO.get(name, name).replace('-', '_')}")


def test_list_of(dataset: str) -> str | None:
    """Return the name of a manifest's data set if its `val` is the published test list, else None."""
    return getattr(module(dataset), "TEST_LIST", None) if dataset in names() else None


def landmarks() -> Iterator[tuple[str, str, ModuleType]]:
    """Yield (glob, name of the format, its module) of every format that is recognised by its files."""
    for name in names():
        found = module(name)
        for landmark in getattr(found, "LANDMARKS", ()):
            yield landmark, name, found
