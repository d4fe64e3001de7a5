"""The registry of variants, the kinds of blocks: functions or classes that make a block, each with a name.

    @register("mine")
    def mine(in_channels: int, channels: int, stride: int, *, heads: int = 4) -> nn.Module: ...

The block is called as ``block(x, num_frames)``: float ``[N*T, in_channels, H, W]``, in which the T frames of a clip are
consecutive, -> float ``[N*T, 4 * channels, H/stride, W/stride]`` (rounded up). The keyword arguments are the variant's
settings. The command line, the check of a config, recipes, benchmarks and the loading of ImageNet weights read this
registry. stm's own variants are the modules of ``stm.model.variants``; other variants come from a plugin
(``stm.model.plugins``).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import nn

from stm.errors import UserError

Builder = TypeVar("Builder", bound=Callable[..., nn.Module])

_registered: dict[str, Variant] = {}
_origins: list[str] = []
_OWN = "stm.model.variants."


@dataclass(frozen=True)
class Variant:
    """A kind of block."""

    name: str
    build: Callable[..., nn.Module]
    """(in_channels, channels, stride, **settings) -> block."""
    settings: Mapping[str, Any]
    """Keyword arguments of ``build`` and their defaults."""
    origin: str = ""
    """Digest of the plugin that registered it; "" for stm's own variants and for those registered without a plugin."""


def register(name: str) -> Callable[[Builder], Builder]:
    """Register a function or class as the variant ``name``, which replaces one of that name unless it is stm's own.

    Raises:
        UserError: (a ValueError) the name is one of stm's or is not a single word, or an argument after the first three
            has no default.
    """

    def add(build: Builder) -> Builder:
        if not name.replace("-", "_").isidentifier():
            raise UserError(
                f"block {name!r}: the name must be one word of letters, digits, _ and -"
            )
        is_own = build.__module__.startswith(_OWN)
        if not is_own and name in names() and _registered[name].build.__module__.startswith(_OWN):
            raise UserError(f"block {name!r} is one of stm's own: choose another name for yours")
        _registered[name] = Variant(name, build, _settings(name, build), (_origins or [""])[-1])
        return build

    return add


def get(name: str) -> Variant:
    """Return the variant of this name; ``UserError`` (a ValueError) if there is none."""
    if name not in names():
        raise UserError(f"variant is {name!r}; allowed: one of {', '.join(names())}")
    return _registered[name]


def names() -> tuple[str, ...]:
    """Names of all variants. stm's own are first, because importing ``stm.model`` registers them."""
    return tuple(_registered)


def those_with(setting: str) -> tuple[str, ...]:
    """Names of the variants that have this setting."""
    return tuple(name for name in names() if setting in _registered[name].settings)


def of_origin(origin: str) -> tuple[str, ...]:
    """Names of the variants that the plugin with this digest registered."""
    return tuple(name for name in names() if _registered[name].origin == origin)


@contextmanager
def registering(origin: str) -> Iterator[None]:
    """Set the origin of variants that are registered inside this context to the digest of a plugin."""
    _origins.append(origin)
    try:
        yield
    finally:
        _origins.pop()


def forget(origin: str) -> None:
    """Remove the variants that the plugin with this digest registered."""
    for name in of_origin(origin):
        del _registered[name]


def _settings(name: str, build: Callable[..., nn.Module]) -> dict[str, Any]:
    keywords: dict[str, Any] = {}
    for parameter in list(inspect.signature(build).parameters.values())[3:]:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if parameter.default is parameter.empty:
            raise UserError(
                f"block {name!r}: {parameter.name} has no default; stm passes only in_channels, "
                "channels and stride to every block"
            )
        keywords[parameter.name] = parameter.default
    return keywords
