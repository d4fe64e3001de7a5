"""Display order of MPEG-4 part 2 in AVI, which stores no presentation times (UCF101, HMDB51).

An AVI file stores pictures in decoding order. Their types determine the display order: a bidirectional
picture is shown at once, any other picture when the next one that is not bidirectional arrives. DivX
"packed" files put a bidirectional picture into the packet of the picture before it, and a placeholder
packet in its place. They are unpacked first.
"""

from __future__ import annotations

from typing import Any

import av.error

# A smaller packet is a placeholder or a picture marked "not coded"; pictures of real videos are larger.
PLACEHOLDER_BYTES = 20

_PICTURE_START = b"\x00\x00\x01\xb6"
_INTRA, _BIDIRECTIONAL = 0, 2


def number_packets(video: Any, packets: list[Any]) -> list[Any] | None:
    """Return one packet per picture, with its display rank as presentation time; None if that is uncertain.

    Args:
        video: The open video of the packets.
        packets: All its packets, in file order. Do not use them afterwards.
    """
    if any(packet.size < PLACEHOLDER_BYTES for packet in packets):
        try:
            unpack = av.bitstream.BitStreamFilterContext("mpeg4_unpack_bframes", video.stream)
            packets = [one for packet in packets for one in unpack.filter(packet)]
            packets += unpack.filter(None)
        except av.error.FFmpegError:
            return None
    rank = 0
    waiting: Any = None  # shown when the next picture that is not bidirectional arrives
    for packet in packets:
        data = bytes(packet)
        at = data.find(_PICTURE_START)
        if at < 0 or at + 4 >= len(data) or len(data) < PLACEHOLDER_BYTES:
            return None
        if data.find(_PICTURE_START, at + 4) >= 0:
            return None
        picture_type = data[at + 4] >> 6
        packet.is_keyframe = picture_type == _INTRA
        if picture_type == _BIDIRECTIONAL:
            packet.pts, rank = rank, rank + 1
            continue
        if waiting is not None:
            waiting.pts, rank = rank, rank + 1
        waiting = packet
    if waiting is not None:
        waiting.pts = rank
    return packets
