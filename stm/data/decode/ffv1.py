"""Whether an FFV1 packet is whole, by the checksums of its slices (RFC 9043, 4.9).

FFmpeg only logs a slice whose checksum is wrong, and shows there what the frame before showed.
"""

from __future__ import annotations

import zlib

_FOOTER_BYTES = 8  # size of the slice (3), error status (1), checksum (4)
_MIRRORED = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))


def is_whole(packet: bytes) -> bool:
    """Whether the packet is slices from end to start, each with the checksum that it states.

    Never true of a stream without checksums, as an encoder may be told to write it.
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
    """CRC-32 as FFV1 has it, high bit first and without inversions, mirrored; 0 over a whole slice."""
    return zlib.crc32(data.translate(_MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
