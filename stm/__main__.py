"""The command ``stm``, also as ``python -m stm``: the verbs that lie beside this package.

A folder of the user's own that is called ``pipelines``, too, may come first on Python's path, as in a job, whose folder
does. So the package is taken from its place, and not by its name.
"""

from __future__ import annotations

import importlib
import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path


def main(argv: list[str] | None = None) -> int:
    """Run a verb; exit status as in ``pipelines.console``."""
    beside = Path(__file__).parents[1]
    spec = PathFinder.find_spec("pipelines", [str(beside)])
    if spec is None or spec.loader is None:
        raise ImportError(
            f"this installation of stm is incomplete: there is no package `pipelines` in {beside}"
        )
    known = sys.modules.get("pipelines")
    if known is None or known.__file__ != spec.origin:
        sys.modules["pipelines"] = package = module_from_spec(spec)
        spec.loader.exec_module(package)
    return int(importlib.import_module("pipelines.cli").main(argv))


if __name__ == "__main__":
    sys.exit(main())
