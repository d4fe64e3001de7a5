"""Check that an FFV1 packet is intact, by the checksums of its slices (RFC 9043, section 4.9).

FFmpeg only logs a slice with a wrong checksum, and shows the previous frame's pixels in its place.
"""

from __future__ import annotations

import zlib

_FOOTER_BYTES = 8  # size of the slice (3), error status (1), checksum (4)
_MIRRORED = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))


def is_whole(packet: bytes) -> bool:
    """Return whether the packet consists of slices without gaps, each with the right checksum.

    The result is always False for a stream without checksums, which some encoder settings write.
    """
    end = len(packet)
    while end >= _FOOTER_BYTES:
        footer = end - _FOOTER_BYTES
        start = footer - int.from_bytes(packet[footer : footer + 3], "big")
        if start < 0 or _checksum(packet[start:end]):
            return False
        end = start
    return end == 0 and bool(packet)


def _checksum(data: bytes) -> int:
    """The CRC-32 of FFV1 (high bit first, no inversions), with its bits mirrored; 0 for an intact slice."""
    return zlib.crc32(data.translate(_MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
