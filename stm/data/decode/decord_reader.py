"""Read local video files with decord, with one thread.

Two rules avoid known bugs of decord 0.6.0. It never gets bytes, because damaged bytes crash the process.
Each reader serves one clip only, because a reader that was opened before a fork hangs after it.
"""

from __future__ import annotations

import importlib.util
import os
import sys

from stm.data.decode.collector import Collector
from stm.data.video import VideoError, label


def is_installed() -> bool:
    """Whether decord is installed on this machine. It has no wheel for ARM."""
    return importlib.util.find_spec("decord") is not None


def read(source: str | os.PathLike[str], wanted: list[int], collector: Collector) -> Collector:
    """Fill ``collector`` with the wanted frames (distinct, ascending) and return it.

    Raises:
        VideoError: ``unreadable`` or ``bad_index`` if decord cannot read the frames; ``no_decoder`` if it is not
            installed.
    """
    name = label(source)
    if not is_installed():
        detail = "decord is not installed (it has no wheel for ARM): choose decoder 'auto'"
        raise VideoError(name, "no_decoder", detail)
    if "torch" not in sys.modules:
        import torch  # noqa: F401  (importing decord first can crash a process that uses CUDA)
    import decord

    try:
        reader = decord.VideoReader(os.fspath(source), num_threads=1)
        if wanted[-1] >= len(reader):
            raise VideoError(
                name,
                "bad_index",
                f"frame {wanted[-1]} was requested, but the frame count is {len(reader)}",
            )
        frames = reader.get_batch(wanted).asnumpy()
    except (decord.DECORDError, RuntimeError, IndexError) as error:
        raise VideoError(name, "unreadable", f"decord: {str(error).splitlines()[0]}") from error
    for slot, frame in enumerate(frames):
        collector.put(slot, frame)
    return collector
