"""Functions that tests have called in other processes, here where a worker can import them."""

from __future__ import annotations

import ctypes
import os
import resource
import time
from pathlib import Path

from stm.data import decode


def probe_or_misbehave(path: str) -> decode.VideoInfo:
    """Probe for real, except that a file's name may ask for a hang, a death or a strange error."""
    name = os.path.basename(path)
    if name.startswith("hang"):
        while True:
            time.sleep(1)
    if name.startswith("exit"):
        os._exit(3)
    if name.startswith("segfault"):
        ctypes.string_at(0)
    if name.startswith("strange"):
        raise LookupError("what no decoder should raise")
    return decode.probe(path)


def probe_and_log(path: str) -> decode.VideoInfo:
    """Note the call in `probed.log` beside the file, and answer without opening it."""
    with open(Path(path).parent / "probed.log", "a") as log:
        log.write(f"{os.path.basename(path)}\n")
    return decode.VideoInfo(
        num_frames=os.stat(path).st_size,
        fps=25.0,
        width=8,
        height=6,
        codec="none",
        container="none",
        keyframe_interval=1,
        rotation=0,
        guard="not a video",
    )


def process_id() -> int:
    return os.getpid()


def peak_memory_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def sleep(seconds: float) -> None:
    time.sleep(seconds)


def sleep_after_noting_process(path: str) -> None:
    Path(path).write_text(str(os.getpid()))
    time.sleep(600)


def die(status: int) -> None:
    os._exit(status)


def die_once(path: str) -> str:
    """Take the process down at the first call, as the damage of an earlier call would."""
    if not os.path.exists(path):
        Path(path).touch()
        os._exit(1)
    return "alive"


class OddError(Exception):
    """An error that cannot be unpickled."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")


def raise_odd() -> None:
    raise OddError(1, 2)


def raise_video_error(path: str) -> None:
    raise decode.VideoError(path, "truncated", "for the test")


def reasons_and_growth(source: object, limits: decode.Limits) -> tuple[str, str, int]:
    """What probing and reading a clip end in ("ok", or the reason), and the bytes that this process grew by."""
    before = _peak_bytes()
    reasons = []
    for read in (
        lambda: decode.probe(source, limits),
        lambda: decode.read_clip(source, [0, 3], (0, 0, 64, 48), 32, limits=limits),
    ):
        try:
            read()
            reasons.append("ok")
        except decode.VideoError as error:
            reasons.append(error.reason)
    return reasons[0], reasons[1], _peak_bytes() - before


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
