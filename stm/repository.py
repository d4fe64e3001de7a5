"""Access to ``tests/tools``, which is in stm's repository but is not installed."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

from stm.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
"""The repository, if stm is used from one."""


def has_tools() -> bool:
    """Return whether stm is used from its repository."""
    return (ROOT / "tests" / "tools" / "__init__.py").is_file()


def tool(name: str, needed_by: str) -> ModuleType:
    """Import the module ``tests.tools.<name>``. Raises ``UserError`` if stm is installed without it."""
    if not has_tools():
        raise UserError(
            f"{needed_by} needs stm's repository, which this installation lacks: clone it, and run `stm` from there"
        )
    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))
    return importlib.import_module(f"tests.tools.{name}")
