"""HEVC pictures marked "not a reference" are skipped only where nothing can refer to them."""

from __future__ import annotations

import av
import pytest
from videos import write_video

from stm.data.decode import hevc

REFERENCED, NOT_REFERENCED, KEY = 1, 0, 19


@pytest.mark.parametrize(
    ("pictures", "expected"),
    [
        ([(KEY, 0), (REFERENCED, 0), (NOT_REFERENCED, 0)], True),
        ([(KEY, 0), (REFERENCED, 0), (REFERENCED, 1), (NOT_REFERENCED, 2)], True),
        # A picture of sub-layer 2 may refer to the one of sub-layer 1.
        ([(KEY, 0), (NOT_REFERENCED, 1), (NOT_REFERENCED, 2)], False),
        ([(KEY, 0), (NOT_REFERENCED, 0), (REFERENCED, 1)], False),
        ([], False),
    ],
)
def test_pictures_are_skipped_only_in_the_highest_sublayer(pictures, expected):
    assert hevc.can_skip(pictures) is expected


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_types_and_sublayers_are_read_from_every_container(tmp_path, suffix):
    params = "log-level=none:keyint=24:temporal-layers=3:bframes=7:b-adapt=0"
    path = write_video(
        tmp_path / f"a{suffix}", codec="libx265", options={"x265-params": params}, num_frames=24
    )
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        pictures = hevc.pictures(stream.codec_context.extradata or b"", packets)
    assert len(pictures) == 24
    assert pictures[0][0] in (19, 20, 21)
    assert {layer for _, layer in pictures} == {0, 1, 2}
