"""Functions that tests of preparing have called in other processes, here where a worker can import them."""

from __future__ import annotations

import os
import time
from pathlib import Path

from stm.data.prepare.transcode import OutputFailed, Prepared, Settings, VideoFacts, make_video


def make_or_misbehave(facts: VideoFacts, target: str, settings: Settings) -> Prepared:
    """Make a video for real, except that a file's name may ask for a hang, a death, a full disk."""
    name = os.path.basename(facts.path)
    if name.startswith("hang"):
        Path(target).write_bytes(b"begun")
        time.sleep(600)
    if name.startswith("die"):
        os._exit(3)
    if name.startswith("strange"):
        raise LookupError("what no encoder should raise")
    if name.startswith("full"):
        raise OutputFailed("no space left on device")
    return make_video(facts, target, settings)


def make_and_note(facts: VideoFacts, target: str, settings: Settings) -> Prepared:
    """Note the call in `made.log` beside the source, and make something without decoding."""
    source = Path(facts.path)
    with open(source.parent / "made.log", "a") as log:
        log.write(f"{source.name}\n")
    Path(target).write_bytes(source.read_bytes())
    size = os.path.getsize(target)
    return Prepared(facts.width, facts.height, "h264", 16, "", size)
