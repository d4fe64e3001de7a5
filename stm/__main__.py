"""The command ``stm``, also run as ``python -m stm``.

Its verbs are in the package ``pipelines`` beside this one. That package is loaded by its path, not by its name, because
a folder of the user's that is also called ``pipelines`` may come first on Python's path, for example in a Ray job.
"""

from __future__ import annotations

import importlib
import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path


def main(argv: list[str] | None = None) -> int:
    """Run a verb and return its exit status (listed in ``pipelines.console``)."""
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
