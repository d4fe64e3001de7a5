"""Find the orientation of a video if its stream states it, rather than its container.

A container has one display matrix for the whole file, and FFmpeg attaches it to every frame. An H.264
or HEVC stream may contain an SEI message instead (display orientation, H.264 D.1.27), which is valid
until another replaces it. FFmpeg attaches it only to the frame of the message. So if the first packet
has such a message, the matrix of the first frame applies to all frames.
"""

from __future__ import annotations

from collections.abc import Iterator

from stm.data.decode import sequential
from stm.data.decode.pictures import display_matrix
from stm.data.decode.plan import PacketPlan

_DISPLAY_ORIENTATION = 47
# codec -> (bytes in a NAL unit's header, function from its first byte to its type, SEI types, picture types)
_SYNTAX = {
    "h264": (1, lambda first: first & 0x1F, frozenset([6]), frozenset(range(1, 6))),
    "hevc": (2, lambda first: first >> 1 & 0x3F, frozenset([39]), frozenset(range(32))),
}


def find_matrix(plan: PacketPlan) -> None:
    """Set ``plan.matrix`` if the stream states the orientation. This costs one decoded frame."""
    context = plan.video.context
    if states_orientation(context.name, context.extradata or b"", plan.head):
        first = sequential.first_frame(plan)
        plan.matrix = None if first is None else display_matrix(first)


def states_orientation(codec: str, extradata: bytes, packet: bytes) -> bool:
    """Return whether a packet, or its first bytes, has a display orientation message before its first picture."""
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
    """A number that is coded as bytes of 255 plus a last byte, and the position after it."""
    value = 0
    while at < len(payload) and payload[at] == 255:
        value, at = value + 255, at + 1
    return (value + payload[at], at + 1) if at < len(payload) else (value, at)


def _by_length(data: bytes) -> Iterator[bytes]:
    """The NAL units of a packet in MP4 or Matroska, each stored after its length in 4 bytes."""
    at = 0
    while at + 4 < len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "big")
        yield data[at + 4 : end]
        at = end


def _by_start_code(data: bytes) -> Iterator[bytes]:
    """The NAL units of a packet in an elementary stream or in MPEG-TS."""
    yield from (unit.rstrip(b"\0") for unit in data.split(b"\0\0\1")[1:])
