"""Which way up a video is, where its stream and not its container says so.

A container states a display matrix for the whole file, and FFmpeg hands it out with every frame. An
H.264 or HEVC stream may state it in an SEI message instead (display orientation, H.264 D.1.27),
which holds until another replaces it; FFmpeg hands it out with the one frame that the message
belongs to. So where the first packet has one, the first frame's matrix is that of all frames.
"""

from __future__ import annotations

from collections.abc import Iterator

from stm.data.decode import sequential
from stm.data.decode.pictures import display_matrix
from stm.data.decode.plan import PacketPlan

_DISPLAY_ORIENTATION = 47
# codec -> (bytes of a NAL unit's header, its type by the first byte, types of SEI, types of pictures)
_SYNTAX = {
    "h264": (1, lambda first: first & 0x1F, frozenset([6]), frozenset(range(1, 6))),
    "hevc": (2, lambda first: first >> 1 & 0x3F, frozenset([39]), frozenset(range(32))),
}


def find_matrix(plan: PacketPlan) -> None:
    """Set ``plan.matrix`` where the stream states it.

    Costs the decoding of one frame where there is such a message, and nothing elsewhere.
    """
    context = plan.video.context
    if states_orientation(context.name, context.extradata or b"", plan.head):
        first = sequential.first_frame(plan)
        plan.matrix = None if first is None else display_matrix(first)


def states_orientation(codec: str, extradata: bytes, packet: bytes) -> bool:
    """Whether the packet, or what there is of it, begins with an SEI of the display orientation."""
    if codec not in _SYNTAX:
        return False
    header_bytes, type_of, sei, pictures = _SYNTAX[codec]
    units = _by_length if extradata[:1] == b"\x01" else _by_start_code
    for unit in units(packet):
        if not unit or type_of(unit[0]) in pictures:
            return False
        if type_of(unit[0]) in sei and _DISPLAY_ORIENTATION in _messages(unit[header_bytes:]):
            return True
    return False


def _messages(payload: bytes) -> Iterator[int]:
    """The types of the messages in an SEI unit."""
    payload = payload.replace(b"\0\0\3", b"\0\0")  # H.264 7.4.1.1, emulation prevention
    at = 0
    while at + 2 < len(payload):
        kind, at = _number(payload, at)
        size, at = _number(payload, at)
        yield kind
        at += size


def _number(payload: bytes, at: int) -> tuple[int, int]:
    """A number coded as 255s and a rest, and where it ends."""
    value = 0
    while at < len(payload) and payload[at] == 255:
        value, at = value + 255, at + 1
    return (value + payload[at], at + 1) if at < len(payload) else (value, at)


def _by_length(data: bytes) -> Iterator[bytes]:
    """The NAL units of a packet as MP4 and Matroska store it, each after its length in 4 bytes."""
    at = 0
    while at + 4 < len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "big")
        yield data[at + 4 : end]
        at = end


def _by_start_code(data: bytes) -> Iterator[bytes]:
    """The NAL units of a packet of an elementary stream, or of MPEG-TS."""
    yield from (unit.rstrip(b"\0") for unit in data.split(b"\0\0\1")[1:])
