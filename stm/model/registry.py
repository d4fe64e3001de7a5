"""The kinds of blocks that a network is built of: each is a function (or class) that makes one, registered by name.

    @register("mine")
    def mine(in_channels: int, channels: int, stride: int, *, heads: int = 4) -> nn.Module: ...

What it makes is called as ``block(x, num_frames)``: float ``[N*T, in_channels, H, W]``, the T frames of a clip in a
row, -> float ``[N*T, 4 * channels, H/stride, W/stride]`` (rounded up). Its settings are its keyword arguments, and the
first line of its docstring says what it is. The command line, the check of a config, recipes, benchmarks and the
loading of ImageNet weights all go by what stands here. stm's own are the modules of ``stm.model.variants``; anybody
else's come from a plugin (``stm.model.plugins``).
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
    """Its keyword arguments, and their defaults."""
    origin: str = ""
    """Digest of the plugin that registered it; "" for stm's own, and for what was registered by hand."""

    @property
    def summary(self) -> str:
        """The first line of what its documentation says."""
        return (inspect.getdoc(self.build) or "").partition("\n")[0]


def register(name: str) -> Callable[[Builder], Builder]:
    """Register a function or class as the variant ``name``. Names of stm's own are refused; others can be replaced.

    Raises:
        UserError: (a ValueError) the name is taken by stm, is no word, or an argument beyond the first three has no
            default.
    """

    def add(build: Builder) -> Builder:
        if not name.replace("-", "_").isidentifier():
            raise UserError(f"block {name!r}: a name is one word of letters, digits and _")
        is_own = build.__module__.startswith(_OWN)
        if not is_own and name in names() and _registered[name].build.__module__.startswith(_OWN):
            raise UserError(f"block {name!r} is one of stm's own: give yours another name")
        _registered[name] = Variant(name, build, _settings(name, build), (_origins or [""])[-1])
        return build

    return add


def get(name: str) -> Variant:
    """The variant of this name. Raises ``UserError`` (a ValueError) where there is none."""
    if name not in names():
        raise UserError(f"variant is {name!r}; allowed: one of {', '.join(names())}")
    return _registered[name]


def names() -> tuple[str, ...]:
    """Of all variants, stm's own first: importing ``stm.model`` registers them."""
    return tuple(_registered)


def those_with(setting: str) -> tuple[str, ...]:
    """Names of the variants that have this setting."""
    return tuple(name for name in names() if setting in _registered[name].settings)


def of_origin(origin: str) -> tuple[str, ...]:
    """Names of what the plugin with this digest registered."""
    return tuple(name for name in names() if _registered[name].origin == origin)


@contextmanager
def registering(origin: str) -> Iterator[None]:
    """What is registered inside comes from the plugin with this digest."""
    _origins.append(origin)
    try:
        yield
    finally:
        _origins.pop()


def forget(origin: str) -> None:
    """Take out what the plugin with this digest registered."""
    for name in of_origin(origin):
        del _registered[name]


def _settings(name: str, build: Callable[..., nn.Module]) -> dict[str, Any]:
    keywords: dict[str, Any] = {}
    for parameter in list(inspect.signature(build).parameters.values())[3:]:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if parameter.default is parameter.empty:
            raise UserError(
                f"block {name!r}: {parameter.name} has no default; only in_channels, channels and "
                "stride are given to every block"
            )
        keywords[parameter.name] = parameter.default
    return keywords
