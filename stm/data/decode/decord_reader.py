"""Read with decord the files it can be trusted with: from paths only, with one thread.

Two rules avoid known faults of decord 0.6.0: it never gets bytes (damaged ones crash the process),
and each reader is used for one clip only (a reader opened before a fork hangs after it).
"""

from __future__ import annotations

import importlib.util
import os
import sys

from stm.data.decode.collector import Collector
from stm.data.video import VideoError, label


def is_installed() -> bool:
    """Whether decord is installed on this machine; it has no wheel for ARM."""
    return importlib.util.find_spec("decord") is not None


def read(source: str | os.PathLike[str], wanted: list[int], collector: Collector) -> Collector:
    """Fill ``collector`` with the wanted frames (distinct, ascending) and return it.

    Raises:
        VideoError: If decord cannot read them; ``no_decoder`` if it is not installed.
    """
    name = label(source)
    if not is_installed():
        detail = "decord is not installed (it has no wheel for ARM): choose decoder 'auto'"
        raise VideoError(name, "no_decoder", detail)
    if "torch" not in sys.modules:
        import torch  # noqa: F401  (decord before torch can crash a process that uses CUDA)
    import decord

    try:
        reader = decord.VideoReader(os.fspath(source), num_threads=1)
        if wanted[-1] >= len(reader):
            raise VideoError(
                name, "bad_index", f"frame {wanted[-1]} of a video of {len(reader)} frames"
            )
        frames = reader.get_batch(wanted).asnumpy()
    except (decord.DECORDError, RuntimeError, IndexError) as error:
        raise VideoError(name, "unreadable", f"decord: {str(error).splitlines()[0]}") from error
    for slot, frame in enumerate(frames):
        collector.put(slot, frame)
    return collector
