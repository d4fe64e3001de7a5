"""Check the decoders: each node reads chosen frames of a known clip with the packet plan and with decord.

Every frame of the clip shows its number in binary, in two colours, so a wrong frame, a blend or swapped channels are
detected. The clip is encoded once, and every node reads the same bytes.
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
from stm.plural import counted

NUM_FRAMES = 48
WANTED = (0, 5, 11, 12, 13, 30, 47)
"""Frames on both sides of a key frame (every 12th), others in between, the first and the last."""

_ONE, _ZERO = (220, 120, 40), (40, 120, 220)
_EDGE = 16  # px of a block
_BITS = 8
_FARTHEST = 12.0
"""Largest mean difference from the drawn frame, of 255; compression causes about 2."""

DECODERS = ("packets", "decord")


def draw(number: int) -> NDArray[np.uint8]:
    """Return uint8 [32, 128, 3] with the bits of ``number`` (0 to 255) above and their complements below."""
    frame = np.empty((2 * _EDGE, _BITS * _EDGE, 3), np.uint8)
    for bit in range(_BITS):
        columns = slice(bit * _EDGE, (bit + 1) * _EDGE)
        on = number >> bit & 1
        frame[:_EDGE, columns] = _ONE if on else _ZERO
        frame[_EDGE:, columns] = _ZERO if on else _ONE
    return frame


def number_in(frame: NDArray[np.uint8]) -> int:
    """Return the number that a frame shows, or -1 if it is not a frame of the clip."""
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
    """Return the clip, H.264 with B-frames in mp4."""
    from stm.data.synthetic import encode

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "known.mp4"
        encode(path, np.stack([draw(number) for number in range(NUM_FRAMES)]))
        return path.read_bytes()


def read_everywhere(clip: bytes) -> dict[str, Any]:
    """Return {numbers, digest} or {error} of each decoder. Runs on every node."""
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
    """Return the frames `WANTED`, uint8 [7, 32, 128, 3]."""
    if decoder == "decord":  # directly, since `read_frames` may use the packet plan instead
        from stm.data.decode.collector import Collector
        from stm.data.decode.decord_reader import read

        whole = Collector(path, len(WANTED), lambda width, height: [(0, 0, width, height)])
        return read(path, list(WANTED), whole).views()[0]
    from stm.data.decode import read_frames

    return read_frames(path, WANTED, decoder)


def check(
    reports: dict[str, dict[str, Any]], absent: dict[str, str], expects_decord: bool
) -> Finding:
    """Check that every decoder on every node returned exactly the frames `WANTED`."""
    wrong = {name: [reason] for name, reason in absent.items()}
    without_decord = []
    for name, report in reports.items():
        for decoder, result in report.items():
            error = result.get("error", "")
            if decoder == "decord" and "not installed" in error:
                without_decord.append(name)
            elif error:
                wrong.setdefault(name, []).append(f"{decoder} cannot read the clip: {error}")
            elif result["numbers"] != list(WANTED):
                wrong.setdefault(name, []).append(
                    f"{decoder} gave frames {result['numbers']} for {list(WANTED)} (-1: not a frame of the clip)"
                )
    if wrong:
        return fails(
            "decoders",
            listed({name: ", ".join(reasons) for name, reasons in wrong.items()}),
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
            f"the frames are right, but their pixels differ between nodes: {listed(found)}",
            "for runs that repeat bit by bit, use the same av version and the same architecture on all nodes",
        )
    names = "packets (decord is not installed)" if without_decord else "packets and decord"
    nodes = counted(len(reports), "node")
    return ok("decoders", f"{names} return exactly the {len(WANTED)} requested frames, on {nodes}")
