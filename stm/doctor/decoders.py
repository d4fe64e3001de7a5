"""Decoders: each node reads known frames of one clip, by the packet plan and by decord, and must get those frames.

Every frame of the clip spells its number in two colours, so another frame, a blend or swapped channels give
themselves away. The clip is made once and every node reads the same bytes.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stm.doctor.finding import Finding, fails, first_line, ok, warning
from stm.doctor.nodes import listed

NUM_FRAMES = 48
WANTED = (0, 5, 11, 12, 13, 30, 47)
"""Both sides of a key frame (there is one every 12), frames in between, and both ends."""

_ONE, _ZERO = (220, 120, 40), (40, 120, 220)
_EDGE = 16  # px of a block
_BITS = 8
_FARTHEST = 12.0
"""Mean difference from the drawn frame that compression may make, of 255; it makes about 2."""

DECODERS = ("packets", "decord")


def draw(number: int) -> NDArray[np.uint8]:
    """uint8 [32, 128, 3]: the bits of ``number`` (0 to 255) above, their complements below."""
    frame = np.empty((2 * _EDGE, _BITS * _EDGE, 3), np.uint8)
    for bit in range(_BITS):
        columns = slice(bit * _EDGE, (bit + 1) * _EDGE)
        on = number >> bit & 1
        frame[:_EDGE, columns] = _ONE if on else _ZERO
        frame[_EDGE:, columns] = _ZERO if on else _ONE
    return frame


def number_in(frame: NDArray[np.uint8]) -> int:
    """The number that a frame spells; -1 where it is no frame of the clip."""
    wide = frame.astype(np.float32)
    bits = [
        [
            wide[row : row + _EDGE, column : column + _EDGE, 0].mean()
            > wide[row : row + _EDGE, column : column + _EDGE, 2].mean()
            for column in range(0, _BITS * _EDGE, _EDGE)
        ]
        for row in (0, _EDGE)
    ]
    number = sum(1 << bit for bit, on in enumerate(bits[0]) if on)
    if any(above == below for above, below in zip(*bits, strict=True)):
        return -1
    return number if np.abs(wide - draw(number)).mean() <= _FARTHEST else -1


def make_clip() -> bytes:
    """The clip: H.264 with B-frames in mp4."""
    from stm.data.synthetic import encode

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "known.mp4"
        encode(path, np.stack([draw(number) for number in range(NUM_FRAMES)]))
        return path.read_bytes()


def read_everywhere(clip: bytes) -> dict[str, Any]:
    """Decoder -> {numbers, digest} or {error}; runs on every node."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "known.mp4"
        path.write_bytes(clip)
        return {decoder: _read(str(path), decoder) for decoder in DECODERS}


def _read(path: str, decoder: str) -> dict[str, Any]:
    try:
        frames = _frames(path, decoder)
    except Exception as error:
        return {"error": first_line(error)}
    return {
        "numbers": [number_in(frame) for frame in frames],
        "digest": hashlib.sha256(frames.tobytes()).hexdigest()[:12],
    }


def _frames(path: str, decoder: str) -> NDArray[np.uint8]:
    """uint8 [7, 32, 128, 3]."""
    if decoder == "decord":  # asked directly: `read_frames` may hand a file to the packet plan
        from stm.data.decode.collector import Collector
        from stm.data.decode.decord_reader import read

        whole = Collector(path, len(WANTED), lambda width, height: [(0, 0, width, height)])
        return read(path, list(WANTED), whole).views()[0]
    from stm.data.decode import read_frames

    return read_frames(path, WANTED, decoder)


def check(
    reports: dict[str, dict[str, Any]], absent: dict[str, str], expects_decord: bool
) -> Finding:
    """Exactly the wanted frames, by every decoder on every node."""
    wrong = dict(absent)
    without_decord = []
    for name, report in reports.items():
        for decoder, result in report.items():
            error = result.get("error", "")
            if decoder == "decord" and "not installed" in error:
                without_decord.append(name)
            elif error:
                wrong[name] = f"{decoder} cannot read the clip: {error}"
            elif result["numbers"] != list(WANTED):
                wrong[name] = (
                    f"{decoder} gave frames {result['numbers']} for {list(WANTED)} (-1: no frame of it)"
                )
    if wrong:
        return fails(
            "decoders",
            listed(wrong),
            "install the locked versions of av and decord on that node (requirements.lock); "
            "`--data.decoder auto` does not use decord",
        )
    if without_decord and expects_decord:
        return fails("decoders", f"no decord on {', '.join(without_decord)}", "`make install`")
    digests = {report["packets"]["digest"] for report in reports.values()}
    if len(digests) > 1:
        found = {name: report["packets"]["digest"] for name, report in reports.items()}
        return warning(
            "decoders",
            f"the right frames, but not the same to the bit on all nodes: {listed(found)}",
            "install the same av on nodes of one architecture, if runs are to repeat bit by bit",
        )
    names = "packets alone (decord has no wheel here)" if without_decord else "packets and decord"
    nodes = f"{len(reports)} node{'s' if len(reports) != 1 else ''}"
    return ok("decoders", f"{names} give exactly the {len(WANTED)} frames asked for, on {nodes}")
