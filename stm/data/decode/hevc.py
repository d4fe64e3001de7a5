"""Find out whether HEVC pictures that are marked "not a reference" may be left undecoded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

# Of the types below 16, the even ones are marked "not a reference" (ITU-T H.265, table 7-1).
_FIRST_TYPE_ALWAYS_REFERENCED = 16
_FIRST_TYPE_NO_SLICE = 32


def can_skip(pictures: list[tuple[int, int]]) -> bool:
    """Return whether the decoder may drop all pictures that are marked "not a reference".

    The mark is valid only within a picture's own temporal sub-layer: pictures in higher sub-layers may
    refer to it (H.265, 7.4.2.2). So the marked pictures must all be in the highest sub-layer.

    Args:
        pictures: (type, sub-layer) of each picture; empty if unknown.
    """
    highest = max((layer for _, layer in pictures), default=0)
    return bool(pictures) and not any(
        layer < highest and unit_type % 2 == 0 and unit_type < _FIRST_TYPE_ALWAYS_REFERENCED
        for unit_type, layer in pictures
    )


def pictures(extradata: bytes, packets: Iterable[Any]) -> list[tuple[int, int]]:
    """Return (type, temporal sub-layer) of the picture in each packet; [] if a packet cannot be parsed."""
    is_length_prefixed = extradata[:1] == b"\x01"
    if is_length_prefixed and (len(extradata) < 22 or extradata[21] & 3 != 3):
        return []  # unit lengths almost always have 4 bytes; others are not supported
    units = _units_by_length if is_length_prefixed else _units_by_start_code
    found = []
    for packet in packets:
        slices = (unit for unit in units(bytes(packet)) if unit[0] < _FIRST_TYPE_NO_SLICE)
        first = next(slices, None)  # all slices of a picture have the same type and sub-layer
        if first is None:
            return []
        found.append(first)
    return found


def _units_by_length(data: bytes) -> Iterator[tuple[int, int]]:
    """(type, temporal sub-layer) of each unit of a packet in MP4 or Matroska."""
    at = 0
    while at + 6 <= len(data):
        yield (data[at + 4] >> 1) & 0x3F, (data[at + 5] & 7) - 1
        at += 4 + int.from_bytes(data[at : at + 4], "big")


def _units_by_start_code(data: bytes) -> Iterator[tuple[int, int]]:
    """(type, temporal sub-layer) of each unit of a packet in MPEG-TS."""
    at = data.find(b"\x00\x00\x01")
    while at >= 0 and at + 5 <= len(data):
        yield (data[at + 3] >> 1) & 0x3F, (data[at + 4] & 7) - 1
        at = data.find(b"\x00\x00\x01", at + 3)
