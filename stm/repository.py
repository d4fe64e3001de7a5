"""What lies beside stm in its repository and is not installed with it: the folder ``tests/tools``."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

from stm.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
"""The repository, where stm is used from one."""


def has_tools() -> bool:
    """Whether this stm lies in its repository."""
    return (ROOT / "tests" / "tools" / "__init__.py").is_file()


def tool(name: str, needed_by: str) -> ModuleType:
    """The module ``tests.tools.<name>``. Raises ``UserError`` where stm is installed without it."""
    if not has_tools():
        raise UserError(
            f"{needed_by} needs stm's repository, which this installation lacks: clone it, and run `stm` from there"
        )
    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))
    return importlib.import_module(f"tests.tools.{name}")
