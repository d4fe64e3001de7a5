"""A few bytes that claim gigabytes, and files that name other files: refused, with nothing taken or opened."""

from __future__ import annotations

import io
import os
import resource
import socket
import struct
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.index import build_parser
from stm.config import DataConfig
from stm.data.decode import DEFAULT_LIMITS, Limits, VideoError, memory, read_frames
from stm.data.decode.memory import memory_limit
from stm.data.isolation import IsolatedProcess
from stm.data.stream.clips import limits_of
from stm.data.video import naming_failures
from tests.data.probes import reasons_and_growth
from tests.videos import numbered_frame, rewrite_packets, write_video

LARGE = 30_000
MOST_BYTES = 300 * 2**20
"""By which a process may grow for what it refuses: the pictures would be of gigabytes."""


@pytest.fixture(scope="module")
def process():
    with IsolatedProcess(preload=["stm.data.decode.probing", "torch", "PIL.Image"]) as process:
        process.call(reasons_and_growth, b"nothing", DEFAULT_LIMITS, deadline_s=60)
        yield process


def gif(side: int) -> bytes:
    screen = struct.pack("<HHBBB", side, side, 0x80, 0, 0) + bytes(6)
    picture = b"\x2c" + struct.pack("<HHHHB", 0, 0, side, side, 0) + b"\x02\x02\x4c\x01\x00"
    return b"GIF89a" + screen + picture * 4 + b"\x3b"


def image(form: str, side: int) -> bytes:
    """A small image of that format whose header says that it is large."""
    file = io.BytesIO()
    Image.fromarray(numbered_frame(1, 64, 48)).save(file, form)
    data = bytearray(file.getvalue())
    if form == "PNG":
        data[16:24] = struct.pack(">II", side, side)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    elif form == "JPEG":
        at = data.index(b"\xff\xc0")
        data[at + 5 : at + 9] = struct.pack(">HH", side, side)
    elif form == "WEBP":
        at = data.index(b"\x9d\x01\x2a")
        data[at + 3 : at + 7] = struct.pack("<HH", 16383, 16383)
    elif form == "BMP":
        data[18:26] = struct.pack("<ii", side, side)
    else:
        first = struct.unpack_from("<I", data, 4)[0]
        for k in range(struct.unpack_from("<H", data, first)[0]):
            at = first + 2 + 12 * k
            if struct.unpack_from("<H", data, at)[0] in (256, 257):
                struct.pack_into("<HII", data, at + 2, 4, 1, side)
    return bytes(data)


@pytest.mark.parametrize("side", [16_000, 65_535])
def test_a_gif_that_claims_gigabytes_is_refused_before_they_are_taken(process, tmp_path, side):
    path = tmp_path / "a.mp4"
    path.write_bytes(gif(side))
    for source in (str(path), gif(side)):
        found = process.call(reasons_and_growth, source, DEFAULT_LIMITS, deadline_s=60)
        # Of sides that it cannot hold FFmpeg tells none.
        expected = ("too_large", "too_large") if side < 2**15 else ("no_frames", "bad_index")
        assert found[:2] == expected
        assert found[2] < MOST_BYTES


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP", "TIFF"])
def test_an_image_that_claims_gigabytes_is_refused_before_they_are_taken(process, tmp_path, form):
    for k in range(4):
        (tmp_path / f"{k}.{form.lower()}").write_bytes(image(form, LARGE))
    found = process.call(reasons_and_growth, str(tmp_path), DEFAULT_LIMITS, deadline_s=60)
    assert found[:2] == ("too_large", "too_large")
    assert found[2] < MOST_BYTES


def test_an_mp4_that_claims_more_than_its_stream_holds_takes_no_more(process, tmp_path):
    path = write_video(tmp_path / "a.mp4", num_frames=8)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 76
    assert struct.unpack_from(">II", data, at) == (160 << 16, 96 << 16)
    struct.pack_into(">II", data, at, 16384 << 16, 16384 << 16)
    at = data.rindex(b"avc1") + 4 + 24
    assert struct.unpack_from(">HH", data, at) == (160, 96)
    struct.pack_into(">HH", data, at, 16384, 16384)
    path.write_bytes(data)
    found = process.call(reasons_and_growth, str(path), DEFAULT_LIMITS, deadline_s=60)
    assert found[:2] in (("ok", "ok"), ("too_large", "too_large"))
    assert found[2] < MOST_BYTES


def test_frames_that_grow_beyond_the_limit_midway_give_no_picture(process, tmp_path):
    parts = []
    for name, width, height in (("small", 160, 96), ("large", 640, 480)):
        whole = write_video(tmp_path / f"{name}.mkv", num_frames=8, width=width, height=height)
        rewrite_packets(whole, tmp_path / f"{name}.h264", "h264_mp4toannexb")
        parts.append((tmp_path / f"{name}.h264").read_bytes())
    path = tmp_path / "a.h264"
    path.write_bytes(b"".join(parts))
    limits = Limits(max_pixels=200 * 100)
    with pytest.raises(VideoError) as refused:
        read_frames(str(path), [1, 12], limits=limits)
    assert refused.value.reason in ("too_large", "unreadable", "bad_index")
    assert read_frames(str(path), [1], limits=limits).shape == (1, 96, 160, 3)


def names_of_others(other: str, port: int) -> dict[str, str]:
    """Files that name another: on this disk, and on this machine's network."""
    url = f"http://127.0.0.1:{port}/a.ts"
    return {
        "m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{other}\n#EXT-X-ENDLIST\n",
        "m3u8_url": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{url}\n#EXT-X-ENDLIST\n",
        "m3u": f"#EXTM3U\n#EXTINF:1,\n{other}\n",
        "ffconcat": f"ffconcat version 1.0\nfile '{other}'\n",
        "ffconcat_url": f"ffconcat version 1.0\nfile '{url}'\n",
        "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
        "m=video 9 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
        "mpd": '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'mediaPresentationDuration="PT1S" profiles="urn:mpeg:dash:profile:isoff-main:2011"><Period>'
        '<AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1"><BaseURL>'
        f"{url}</BaseURL></Representation></AdaptationSet></Period></MPD>",
        "asx": f'<ASX VERSION="3.0"><ENTRY><REF HREF="{url}"/></ENTRY></ASX>',
        "wpl": f'<?wpl version="1.0"?><smil><body><seq><media src="{other}"/></seq></body></smil>',
        "pls": f"[playlist]\nFile1={url}\nNumberOfEntries=1\n",
        "imf": '<?xml version="1.0"?><CompositionPlaylist><Id>urn:uuid:0</Id></CompositionPlaylist>',
        "rtsp": f"[Reference]\nRef1={url}\n",
    }


@pytest.mark.parametrize("kind", names_of_others("", 0))
def test_a_file_that_names_another_opens_it_from_nowhere(process, tmp_path, kind):
    """The other file is a FIFO: whoever opens it waits. The other address is one that nobody may call."""
    os.mkfifo(tmp_path / "other.ts")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0)
        text = names_of_others(str(tmp_path / "other.ts"), listener.getsockname()[1])[kind].encode()
        path = tmp_path / "clip.mp4"
        path.write_bytes(text)
        sources = [str(path), f"file://{path}", text]
        for suffix in ("m3u8", "ffconcat", "sdp", "mpd"):
            sources.append(str(tmp_path / f"clip.{suffix}"))
            Path(sources[-1]).write_bytes(text)
        for source in sources:
            found = process.call(reasons_and_growth, source, DEFAULT_LIMITS, deadline_s=60)
            assert found[:2] == ("not_a_video", "not_a_video")
            assert found[2] < MOST_BYTES
        with pytest.raises(BlockingIOError):
            listener.accept()


def limit() -> tuple[int, int]:
    return resource.getrlimit(resource.RLIMIT_DATA)


def test_a_memory_limit_is_gone_after_its_block_however_that_ends(monkeypatch):
    before = limit()
    with memory_limit(2**30):
        inside = limit()
        with memory_limit(2**20):
            assert limit() == inside  # of the process, which the outer block set
        assert limit() == inside != before
    assert limit() == before
    with pytest.raises(ZeroDivisionError), memory_limit(2**30):
        raise ZeroDivisionError
    with pytest.raises(MemoryError), memory_limit(2**27):
        np.ones(2**33, np.uint8)  # more than any heap that is kept could give
    assert limit() == before

    def refuse(num_bytes: int) -> None:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as broken:
        broken.setattr(memory, "limit_memory", refuse)
        with pytest.raises(OSError, match="Too many"), memory_limit(2**30):
            pass
    with memory_limit(2**30):
        assert limit() != before
    assert limit() == before


def test_of_two_threads_the_last_takes_the_memory_limit_away():
    before, inside, leave = limit(), threading.Barrier(2), threading.Event()

    def hold() -> None:
        with memory_limit(2**30):
            inside.wait(60)
            leave.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    with memory_limit(2**29):
        inside.wait(60)
    assert limit() != before
    leave.set()
    thread.join()
    assert limit() == before


def test_the_limits_have_one_default_and_are_told_by_their_names():
    config = DataConfig()
    assert limits_of(config) == DEFAULT_LIMITS
    options = build_parser().get_defaults()
    assert (options.max_pixels, options.decode_mib) == (config.max_pixels, config.decode_mib)
    with (
        pytest.raises(VideoError, match=r"memory than the limit decode_mib allows$"),
        naming_failures("a.mp4"),
    ):
        raise MemoryError
