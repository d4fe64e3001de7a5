"""Display order of MPEG-4 part 2 in AVI, which stores no presentation times (UCF101, HMDB51).

An AVI's pictures are in decoding order. Their display order follows from their types alone: a
bidirectional picture is shown at once, any other when the next one that is not bidirectional comes.
DivX "packed" files hide a bidirectional picture behind the picture before it, in the same packet,
and leave a placeholder packet in its place; these are unpacked first.
"""

from __future__ import annotations

from typing import Any

import av.error

# No picture of a real video is this small: it is a placeholder, or a picture marked "not coded".
PLACEHOLDER_BYTES = 20

_PICTURE_START = b"\x00\x00\x01\xb6"
_INTRA, _BIDIRECTIONAL = 0, 2


def number_packets(video: Any, packets: list[Any]) -> list[Any] | None:
    """One packet a picture, with its display rank for presentation time; None if that is uncertain.

    Args:
        video: The open video that the packets come from.
        packets: All its packets, in file order. They must not be used afterwards.
    """
    if any(packet.size < PLACEHOLDER_BYTES for packet in packets):
        try:
            unpack = av.bitstream.BitStreamFilterContext("mpeg4_unpack_bframes", video.stream)
            packets = [one for packet in packets for one in unpack.filter(packet)]
            packets += unpack.filter(None)
        except av.error.FFmpegError:
            return None
    rank = 0
    waiting: Any = None  # the picture whose turn comes with the next one that is not bidirectional
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
