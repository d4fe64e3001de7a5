"""Load plugins: Python files (or importable modules) that register blocks of the user's own.

    # my_blocks.py
    from stm.model import Block, register

    @register("mine")
    class Mine(Block): ...

    stm train --model.plugin my_blocks.py --model.variant mine ...

A plugin is one file, which can import only installed packages. Its source is copied to every worker and into every
checkpoint, with its digest. **stm never runs code from a checkpoint by itself**: to load such a checkpoint, name the
same file again (``--plugin``, ``stm.model.plugins.load``, or ``STM_PLUGIN`` in the environment). You can name the copy
in the checkpoint, after you have read it.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import linecache
import os
import sys
import traceback
import types
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from stm.errors import UserError
from stm.model import registry

VARIABLE = "STM_PLUGIN"


@dataclass(frozen=True)
class Plugin:
    """The name and the source of a plugin."""

    name: str
    """As the user gave it: a file, or a dotted module name."""
    source: str

    @property
    def digest(self) -> str:
        """SHA-256 of the source, in hex."""
        return hashlib.sha256(self.source.encode()).hexdigest()


_loaded: dict[str, Plugin] = {}
"""Digest -> plugin that this process was told to run."""
_names: dict[str, tuple[str, ...]] = {}
"""Digest -> names of the variants that the plugin registered."""
_received: dict[str, Plugin] = {}
"""Name -> plugin that another process of the same job sent here."""


def load(name: str) -> Plugin:
    """Read a plugin and run it in this process, which registers its blocks.

    Args:
        name: a Python file, or an importable module. If another process of the job has sent a plugin of this name
            (``receive``), that one is used.

    Raises:
        UserError: (a ValueError) the plugin does not exist, fails to run, or registers no block.
    """
    plugin = _received.get(name) or _read(name)
    _run(plugin)
    return plugin


def receive(plugins: Iterable[Plugin]) -> None:
    """Run the driver's plugins in a worker. A later ``load`` of their names then needs no file."""
    for plugin in plugins:
        _run(plugin)
        _received[plugin.name] = plugin


def loaded() -> tuple[Plugin, ...]:
    """All plugins that this process was told to run, to be sent to workers."""
    return tuple(_loaded.values())


def require(name: str, digest: str, where: str) -> Plugin:
    """Return the plugin with this digest and register its blocks again, if this process was told to run it.

    Args:
        name: the plugin's name when the network was trained.
        digest: SHA-256 of its source, in hex.
        where: the checkpoint that needs it, for the message; the copy is ``where/plugin.py``.

    Raises:
        UserError: (a ValueError) this process has not loaded it.
    """
    for path in os.environ.get(VARIABLE, "").split(os.pathsep):
        if digest not in _loaded and path:
            load(path)
    if digest not in _loaded:
        others = [plugin.name for plugin in _loaded.values()]
        other = f" (the given {', '.join(others)} has another source)" if others else ""
        raise UserError(
            f"{where}: its network has blocks from the plugin {name} (sha256 {digest[:12]}){other}. stm runs no code "
            f"from a checkpoint by itself: give the same file as --plugin {Path(name).name}, or read its copy and "
            f"give it as --plugin {where}/plugin.py (in Python, stm.model.plugins.load; or {VARIABLE}=FILE)"
        )
    _run(_loaded[digest])
    return _loaded[digest]


def _read(name: str) -> Plugin:
    path = Path(name)
    if not os.path.isfile(path) and not name.endswith(".py"):
        with contextlib.suppress(ImportError, ValueError):  # no such package, or not a module name
            spec = importlib.util.find_spec(name)
            if spec is not None and (spec.origin or "").endswith(".py"):
                path = Path(str(spec.origin))
    if not os.path.isfile(path):
        raise UserError(f"plugin {name}: no such file, and no module of this name can be imported")
    try:
        return Plugin(name, path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"plugin {name}: cannot be read: {error}") from error


def _run(plugin: Plugin) -> None:
    """Register the plugin's blocks, unless they are registered. For a name that two plugins use, the last one wins."""
    digest = plugin.digest
    if digest in _loaded and registry.of_origin(digest) == _names.get(digest):
        return
    module = types.ModuleType(f"stm_plugin_{digest[:12]}")
    module.__file__ = filename = f"<plugin {plugin.name}>"
    if "." in plugin.name and not plugin.name.endswith(".py"):
        module.__package__ = plugin.name.rpartition(".")[0]  # for its relative imports
    lines = plugin.source.splitlines(keepends=True)
    linecache.cache[filename] = (
        len(plugin.source),
        None,
        lines,
        filename,
    )  # for tracebacks and inspect
    sys.modules[module.__name__] = module
    registry.forget(digest)
    try:
        code = compile(plugin.source, filename, "exec", dont_inherit=True)
        with registry.registering(digest):
            exec(code, module.__dict__)
    except SyntaxError as error:
        raise UserError(f"plugin {plugin.name}, line {error.lineno}: {error.msg}") from error
    except Exception as error:
        registry.forget(digest)  # blocks registered above the line that failed
        numbers = [
            f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == filename
        ]
        line = f", line {numbers[-1]}" if numbers else ""
        said = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        hint = ""
        if isinstance(error, ImportError):
            hint = ". A plugin is one file, which can import only installed packages"
        raise UserError(f"plugin {plugin.name}{line}: {said}{hint}") from error
    names = registry.of_origin(digest)
    if not names:
        raise UserError(
            f'plugin {plugin.name}: it registers no block; put @register("NAME") from stm.model above the class or '
            "function that makes the block"
        )
    _loaded[digest], _names[digest] = plugin, names
