"""Make a call that a library offers raise while one video is read, and for no other.

    with injected("demux", lambda: ValueError("no"), "clip.mp4") as fault:
        probe("clip.mp4")  # the demuxer raises
    fault.num_raised  # 1

It lies here, and finds its exceptions and calls by name, so that a child process can inject, too.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import av.error
import numpy as np

from stm.data import decode
from stm.data.prepare.transcode import Prepared, Settings, VideoFacts, make_video
from stm.data.stream.clips import ClipSpec, load_views


class NoWords(Exception):
    """An error that cannot even be told."""

    def __str__(self) -> str:
        raise ValueError("no words")


class Unpicklable(Exception):
    """As C extensions raise them: its arguments are not those of its constructor."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")
        self.hold = lambda: None


EXCEPTIONS: dict[str, Callable[[], Exception]] = {
    "MemoryError": MemoryError,
    "ValueError": lambda: ValueError("31 is not a valid Type"),
    "TypeError": lambda: TypeError("'NoneType' object is not subscriptable"),
    "KeyError": lambda: KeyError("codec"),
    "IndexError": lambda: IndexError("list index out of range"),
    "AttributeError": lambda: AttributeError("no attribute 'width'"),
    "RuntimeError": lambda: RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator"),
    "OSError": lambda: OSError(5, "Input/output error"),
    "BlockingIOError": lambda: BlockingIOError(11, "Resource temporarily unavailable"),
    "UnicodeDecodeError": lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    "AssertionError": AssertionError,
    "StopIteration": StopIteration,
    "EOFError": EOFError,
    "RecursionError": lambda: RecursionError("maximum recursion depth exceeded"),
    "ZeroDivisionError": lambda: ZeroDivisionError("division by zero"),
    "OverflowError": lambda: OverflowError("Python int too large to convert to C long"),
    "SystemError": lambda: SystemError("returned NULL without setting an exception"),
    "NotImplementedError": NotImplementedError,
    "struct.error": lambda: struct.error("unpack requires a buffer of 20 bytes"),
    "InvalidDataError": lambda: av.error.InvalidDataError(1094995529, "Invalid data found"),
    "NoWords": NoWords,
    "Unpicklable": lambda: Unpicklable(1, 2),
}

CALLS: dict[str, tuple[str, str]] = {
    "stat": ("os", "stat"),
    "listdir": ("os", "listdir"),
    "open": ("os", "open"),
    "fdopen": ("os", "fdopen"),
    "BytesIO": ("io", "BytesIO"),
    "limit": ("stm.data.decode.memory", "limit_memory"),
    "av.open": ("av", "open"),
    "demux": ("av.container.InputContainer", "demux"),
    "streams": ("av.container.streams.StreamContainer", "video"),
    "decode": ("av.video.codeccontext.VideoCodecContext", "decode"),
    "flush": ("av.video.codeccontext.VideoCodecContext", "flush_buffers"),
    "frame.side_data": ("av.video.frame.VideoFrame", "side_data"),
    "frame.planes": ("av.video.frame.VideoFrame", "planes"),
    "reformat": ("stm.data.decode.pictures.VideoReformatter", "reformat"),
    "graph.configure": ("av.filter.Graph", "configure"),
    "graph.push": ("av.filter.Graph", "push"),
    "graph.pull": ("av.filter.Graph", "pull"),
    "frombuffer": ("numpy", "frombuffer"),
    "empty": ("numpy", "empty"),
    "interpolate": ("torch.nn.functional", "interpolate"),
    "centre_indices": ("stm.data.stream.sampling", "centre_indices"),
    "centre_box": ("stm.data.stream.transforms", "centre_box"),
    "jpeg.header": ("simplejpeg", "decode_jpeg_header"),
    "jpeg.decode": ("simplejpeg", "decode_jpeg"),
    "Image.open": ("PIL.Image", "open"),
    "Image.convert": ("PIL.Image.Image", "convert"),
    "getexif": ("PIL.Image.Image", "getexif"),
    "url_to_fs": ("fsspec.core", "url_to_fs"),
    "url.size": ("fsspec.implementations.memory.MemoryFileSystem", "size"),
    "url.cat_file": ("fsspec.implementations.memory.MemoryFileSystem", "cat_file"),
    "url.open": ("fsspec.implementations.memory.MemoryFileSystem", "open"),
    "shard.open": ("stm.data.shards", "_open"),
    "fstat": ("os", "fstat"),
    "read_metadata": ("pyarrow.parquet", "read_metadata"),
    "json.loads": ("json", "loads"),
    "VideoReader": ("decord", "VideoReader"),
    "VideoReader.len": ("decord.VideoReader", "__len__"),
    "get_batch": ("decord.VideoReader", "get_batch"),
}
"""Name -> (module or class, attribute). A property counts as a call."""


@dataclass
class Fault:
    """What was injected, and how often it was met."""

    num_raised: int = 0


@contextlib.contextmanager
def injected(
    call: str, make: Callable[[], Exception], victim: Any, nth: int = 1
) -> Iterator[Fault]:
    """Let ``CALLS[call]`` raise ``make()`` from its nth time on that ``victim`` is being read."""
    place, name = CALLS[call]
    owner = _find(place)
    original = vars(owner).get(name, getattr(owner, name))
    fault, times = Fault(), 0

    def meet() -> None:
        nonlocal times
        if _is_reading(victim):
            times += 1
            if times >= nth:
                fault.num_raised += 1
                raise make()

    if isinstance(original, property) or type(original).__name__ == "getset_descriptor":

        def get(self: Any) -> Any:
            meet()
            return original.__get__(self, type(self))

        replacement: Any = property(get)
    else:

        def replacement(*arguments: Any, **named: Any) -> Any:
            meet()
            return original(*arguments, **named)

    setattr(owner, name, replacement)
    try:
        yield fault
    finally:
        setattr(owner, name, original)


def file_name(call: str, exception: str) -> str:
    """What a file is called at which the functions below meet that fault."""
    return f"fault--{call}--{exception}--.mp4"


@contextlib.contextmanager
def _as_named(path: str) -> Iterator[None]:
    _, call, exception, _ = os.path.basename(path).split("--") if "--" in path else ("",) * 4
    with injected(call, EXCEPTIONS[exception], path) if call else contextlib.nullcontext():
        yield


def probe_as_named(path: str) -> decode.VideoInfo:
    """Probe, with the fault that the file's name asks for."""
    with _as_named(path):
        return decode.probe(path)


def make_as_named(facts: VideoFacts, target: str, settings: Settings) -> Prepared:
    """Prepare a video, likewise."""
    with _as_named(facts.path):
        return make_video(facts, target, settings)


def load_as_named(path: str, *arguments: Any) -> tuple[np.ndarray, int]:
    """Read the views of a clip, likewise."""
    with _as_named(path):
        return load_views(path, *arguments)


@dataclass(frozen=True)
class FaultySpec(ClipSpec):
    """Brings a fault into the process that unpickles it, for one victim."""

    call: str = ""
    exception: str = ""
    victim: Any = None

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        _lasting.append(injected(self.call, EXCEPTIONS[self.exception], self.victim))
        _lasting[-1].__enter__()


_lasting: list[Any] = []


def _find(place: str) -> Any:
    parts = place.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for name in parts[end:]:
            found = getattr(found, name)
        return found
    raise LookupError(place)


def _is_reading(victim: Any) -> bool:
    """Whether a function of stm's that is under way was given the victim, or holds it."""
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith("stm."):
            for value in frame.f_locals.values():
                if value is victim or (isinstance(value, (str, bytes)) and value == victim):
                    return True
        frame = frame.f_back  # type: ignore[assignment]
    return False
