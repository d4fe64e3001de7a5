"""Frames of every kind of file equal what decoding from the start gives, in any order."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from videos import (
    cut_by_copying_packets,
    frame_numbers,
    frames_as_ffmpeg_shows,
    set_display_matrix,
    write_video,
)

from stm.data.decode import plan as plan_module
from stm.data.decode import probe, read_frames
from stm.data.decode.source import open_video

NUM_FRAMES = 48
X264_B_PYRAMID = {"x264-params": "keyint=250:bframes=3:b-adapt=0:b-pyramid=normal:ref=4"}
X265 = "log-level=none:"
IRREGULAR_MS = np.cumsum(np.random.default_rng(0).integers(10, 90, NUM_FRAMES)).tolist()


def _cut(path: Path) -> None:
    whole = write_video(path.with_name("whole.mp4"), options={"g": "12", "bf": "2"}, num_frames=65)
    cut_by_copying_packets(whole, path, 17)


def _hide_a_vp8_frame(path: Path) -> None:
    """Alternate reference pictures are packets that show nothing: mark frame 5 as one."""
    whole = write_video(
        path.with_name("whole.webm"),
        codec="libvpx",
        num_frames=NUM_FRAMES,
        options={"g": "24", "cpu-used": "8", "auto-alt-ref": "0"},
    )
    with av.open(str(whole)) as source, av.open(str(path), "w") as output:
        stream = output.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            if packet.size:
                data = bytearray(bytes(packet))
                if number == 5:
                    data[0] &= ~0x10
                copy = av.Packet(bytes(data))
                copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
                copy.is_keyframe = packet.is_keyframe
                copy.stream = stream
                output.mux(copy)


# What a file is -> how it is written. Each is a way in which decoders are known to go wrong, or a
# container, codec or pixel format that people have.
FILES: dict[str, dict | Callable[[Path], None]] = {
    "h264 gop 12.mp4": {"options": {"g": "12", "bf": "0"}},
    "h264 gop 12 with B-frames.mp4": {"options": {"g": "12", "bf": "2"}},
    "h264 gop 250 with B-pyramid.mp4": {"options": X264_B_PYRAMID},
    "h264 open gop.mp4": {"options": {"x264-params": "open-gop=1:keyint=12:bframes=3:b-adapt=0"}},
    "h264 intra refresh.mp4": {"options": {"x264-params": "intra-refresh=1:keyint=12"}},
    "h264 interlaced.mp4": {"options": {"x264-params": "interlaced=1:keyint=12"}},
    "h264 interlaced.ts": {"options": {"x264-params": "interlaced=1:keyint=12"}},
    "h264 lossless 4:4:4 odd size.mp4": {"pix_fmt": "yuv444p", "width": 161, "height": 97},
    "h264 10-bit.mkv": {"pix_fmt": "yuv420p10le", "options": {"g": "12"}},
    "h264 grey.mp4": {"pix_fmt": "gray"},
    "h264 full range.mp4": {"pix_fmt": "yuvj420p"},
    "h264 fragmented.mp4": {"container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "h264 with sound.mp4": {"audio": True, "options": {"g": "12"}},
    "h264 edit list.mp4": _cut,
    "h264 irregular times.mp4": {"times_ms": IRREGULAR_MS, "options": {"g": "12"}},
    "h264 irregular times.mkv": {"times_ms": IRREGULAR_MS, "options": {"bf": "3"}},
    "h264.mov": {"options": {"g": "12", "bf": "2"}},
    "h264.flv": {"options": {"g": "12", "bf": "2"}},
    "h264.ts": {"options": {"g": "12", "bf": "2"}},
    "h264 intra refresh.ts": {"options": {"x264-params": "intra-refresh=1:keyint=12"}},
    "h264 without times.h264": {"options": {"g": "12", "bf": "2"}},
    "h264 with B-frames.avi": {"options": {"g": "12", "bf": "2"}},
    "hevc open gop.mp4": {"codec": "libx265", "options": {"x265-params": X265 + "keyint=16"}},
    "hevc temporal layers.mp4": {
        "codec": "libx265",
        "options": {"x265-params": X265 + "keyint=24:temporal-layers=3:bframes=7:b-adapt=0"},
    },
    "hevc.ts": {"codec": "libx265", "options": {"x265-params": X265 + "keyint=12:bframes=2"}},
    "mpeg4.avi": {"codec": "mpeg4", "options": {"g": "12"}},
    "mpeg4 with B-frames.avi": {"codec": "mpeg4", "options": {"g": "12", "bf": "2"}},
    "mpeg4 with B-frames.mp4": {"codec": "mpeg4", "options": {"g": "12", "bf": "2"}},
    "mpeg2 with B-frames.mpg": {"codec": "mpeg2video", "options": {"g": "12", "bf": "2"}},
    "mpeg2 with B-frames.ts": {"codec": "mpeg2video", "options": {"g": "12", "bf": "2"}},
    "mjpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "wmv2.wmv": {"codec": "wmv2", "options": {"g": "12"}},
    "gif.gif": {"codec": "gif", "pix_fmt": "rgb8"},
    "vp8.webm": {"codec": "libvpx", "options": {"g": "12", "cpu-used": "8"}},
    "vp8 with a hidden frame.webm": _hide_a_vp8_frame,
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"g": "12", "cpu-used": "8"}},
    "vp9 odd size.webm": {
        "codec": "libvpx-vp9",
        "options": {"cpu-used": "8"},
        "width": 161,
        "height": 97,
    },
    "av1.mp4": {"codec": "libsvtav1", "options": {"g": "12", "preset": "12"}},
    "one frame.mp4": {"num_frames": 1},
}

# Where the packets alone cannot say which frame is which.
DECODED_IN_SEQUENCE = {
    "h264 without times.h264",
    "h264 with B-frames.avi",
    "h264 interlaced.ts",
    "h264 intra refresh.mp4",
    "h264 intra refresh.ts",
}

TURNS = {  # display matrix (a, b, c, d) -> what a player does to the stored picture
    "a quarter turn clockwise": ((0, 1, -1, 0), lambda x: np.rot90(x, -1), 270),
    "half a turn": ((-1, 0, 0, -1), lambda x: np.rot90(x, 2), 180),
    "a quarter turn counter-clockwise": ((0, -1, 1, 0), np.rot90, 90),
    "mirrored left to right": ((-1, 0, 0, 1), lambda x: x[:, ::-1], 180),
    "mirrored top to bottom": ((1, 0, 0, -1), lambda x: x[::-1], 0),
    "mirrored along the diagonal": ((0, 1, 1, 0), lambda x: x.swapaxes(0, 1), 270),
}


def access_patterns(num_frames: int) -> dict[str, list[int]]:
    """Ways to ask for frames: each puts other packets into the plan's runs."""
    rng = np.random.default_rng(1)
    return {
        "all": list(range(num_frames)),
        "every fifth": list(range(0, num_frames, 5)),
        "every fifth from the third": list(range(min(2, num_frames - 1), num_frames, 5)),
        "the last": [num_frames - 1],
        "the middle": [num_frames // 2],
        "the first and the last": [0, num_frames - 1],
        "random with repeats": rng.integers(0, num_frames, 12).tolist(),
        "backwards": list(range(num_frames))[::-7],
    }


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, np.ndarray]]:
    """Name in FILES -> its path and all its frames, made once."""
    folder = tmp_path_factory.mktemp("files")
    made: dict[str, tuple[Path, np.ndarray]] = {}

    def get(name: str) -> tuple[Path, np.ndarray]:
        if name not in made:
            path = folder / name
            recipe = FILES[name]
            if callable(recipe):
                recipe(path)
            else:
                write_video(path, **{"num_frames": NUM_FRAMES, **recipe})
            made[name] = path, frames_as_ffmpeg_shows(path)
        return made[name]

    return get


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("decoder", ["packets", "sequential"])
def test_every_frame_equals_decoding_in_sequence(files, name, decoder):
    path, expected = files(name)
    for pattern, indices in access_patterns(len(expected)).items():
        frames = read_frames(path, indices, decoder)
        assert np.array_equal(frames, expected[indices]), f"{pattern}: {frame_numbers(frames)}"


@pytest.mark.parametrize("name", FILES)
def test_probe_counts_the_frames_that_decoding_gives(files, name):
    path, expected = files(name)
    info = probe(path)
    assert info.num_frames == len(expected)
    assert (info.height, info.width) == expected.shape[1:3]


@pytest.mark.parametrize("name", FILES)
def test_each_frame_shows_the_number_it_was_written_with(files, name):
    path, expected = files(name)
    numbers = list(range(len(expected)))
    if name == "h264 edit list.mp4":
        numbers = list(range(17, 17 + len(expected)))
    if name == "vp8 with a hidden frame.webm":
        numbers = [k for k in range(NUM_FRAMES) if k != 5]
    assert frame_numbers(read_frames(path, range(len(expected)))) == numbers


def test_decord_agrees_wherever_the_guard_trusts_it(files):
    decord = pytest.importorskip("decord")
    trusted = [name for name in FILES if not probe(files(name)[0]).guard]
    assert len(trusted) > len(FILES) // 3
    for name in trusted:
        path, expected = files(name)
        assert len(decord.VideoReader(str(path), num_threads=1)) == len(expected), name
        for pattern, indices in access_patterns(len(expected)).items():
            numbers = frame_numbers(read_frames(path, indices, "decord"))
            assert numbers == frame_numbers(expected[indices]), f"{name}, {pattern}"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("h264 edit list.mp4", "edit list: 5 packets flagged discard"),
        ("h264 open gop.mp4", "open GOP"),
        ("hevc open gop.mp4", "open GOP"),
        ("h264.ts", "mpegts"),
        ("mpeg2 with B-frames.mpg", "mpeg"),
        ("wmv2.wmv", "asf"),
        ("mpeg4 with B-frames.avi", "AVI with B-frames"),
        ("h264 with B-frames.avi", "reordered pictures"),
        ("h264 without times.h264", "h264 container"),
        ("av1.mp4", "AV1"),
        ("h264 gop 12 with B-frames.mp4", ""),
        ("mpeg4.avi", ""),
    ],
)
def test_the_guard_names_what_decord_cannot_be_trusted_with(files, name, why):
    guard = probe(files(name)[0]).guard
    assert guard.startswith(why) if why else not guard


@pytest.mark.parametrize(
    "name", ["h264 gop 12 with B-frames.mp4", "mpeg4 with B-frames.avi", "hevc open gop.mp4"]
)
def test_a_file_too_large_to_keep_in_memory_is_read_in_two_passes(files, name, monkeypatch):
    path, expected = files(name)
    monkeypatch.setattr(plan_module, "KEEP_BYTES", 1000)
    with open_video(path) as video:
        assert not plan_module.scan(video).packets
    for decoder in ("packets", "sequential"):
        indices = [40, 3, 21, 3]
        assert np.array_equal(read_frames(path, indices, decoder), expected[indices])


@pytest.mark.parametrize("turn", TURNS)
def test_frames_are_turned_as_a_player_shows_them(files, tmp_path, turn):
    stored, expected = files("h264 gop 12 with B-frames.mp4")
    matrix, as_shown, degrees = TURNS[turn]
    path = set_display_matrix(Path(shutil.copy(stored, tmp_path)), matrix)
    info = probe(path)
    assert (info.height, info.width) == as_shown(expected[0]).shape[:2]
    assert info.rotation == degrees
    for k, frame in zip([30, 4], read_frames(path, [30, 4]), strict=True):
        assert np.array_equal(frame, as_shown(expected[k]))


def test_the_packet_plan_decodes_a_small_part_of_a_video_with_many_key_frames(files, monkeypatch):
    from stm.data.decode import packets, sequential

    path, _ = files("h264 gop 12 with B-frames.mp4")
    sent = []
    decode_run = packets._decode_run

    def count_packets(plan, run, *args):
        sent.append(run.stop - run.start)
        decode_run(plan, run, *args)

    def refuse(*args, **kwargs):
        raise AssertionError("decoded in sequence")

    monkeypatch.setattr(packets, "_decode_run", count_packets)
    monkeypatch.setattr(sequential, "decode", refuse)
    read_frames(path, [13, 37])
    assert sum(sent) <= 12
    assert len(sent) == 2


@pytest.mark.parametrize("name", [name for name in FILES if name not in DECODED_IN_SEQUENCE])
def test_the_packet_plan_needs_no_second_decoding(files, name, monkeypatch):
    from stm.data.decode import sequential

    path, expected = files(name)

    def refuse(*args, **kwargs):
        raise AssertionError("decoded in sequence")

    monkeypatch.setattr(sequential, "decode", refuse)
    for indices in access_patterns(len(expected)).values():
        read_frames(path, indices)
