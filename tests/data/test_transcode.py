"""One prepared video: every frame once, in order, as displayed; what is wrong with it is noticed."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stm.data import decode
from stm.data.decode import VideoError
from stm.data.prepare import transcode
from stm.data.prepare.transcode import (
    CODECS,
    NoGain,
    Prepared,
    Settings,
    VideoFacts,
    make_video,
    prepared_size,
)
from stm.data.shards import read_images
from tests.videos import (
    cut_by_copying_packets,
    frame_numbers,
    numbered_frame,
    set_display_matrix,
    write_frame_folder,
    write_video,
)


def facts_of(path: Path) -> VideoFacts:
    info = decode.probe(str(path))
    is_frames = info.codec == "jpeg-folder"
    return VideoFacts(str(path), info.num_frames, info.fps, info.width, info.height, is_frames)


def make(path: Path, settings: Settings = Settings()) -> tuple[Prepared, np.ndarray]:  # noqa: B008
    """The facts of the result, and all its frames."""
    is_jpeg = settings.codec == "jpeg"
    facts, target = facts_of(path), path.with_name("result.parquet" if is_jpeg else "result")
    made = make_video(facts, str(target), settings)
    result = f"{target}#0" if is_jpeg else str(target)
    frames = decode.read_frames(result, range(facts.num_frames), "sequential")
    with pytest.raises(VideoError, match="bad_index"):
        decode.read_frames(result, [facts.num_frames], "sequential")
    assert frames.shape[1:3] == (made.height, made.width)
    return made, frames


def irregular_ms(num_frames: int) -> list[int]:
    """Times between frames of 20 to 60 ms, and a pause of two seconds."""
    return [40 * k + 20 * (k % 2) + 2000 * (k > 20) for k in range(num_frames)]


SOURCES = {
    "plain.mp4": {"options": {"g": "48", "bf": "3"}},
    "vfr.mp4": {"times_ms": irregular_ms(33), "num_frames": 33},
    "odd.mp4": {"width": 161, "height": 97, "pix_fmt": "yuv444p"},
    "b-frames.avi": {"codec": "mpeg4", "options": {"bf": "2"}},
    "ten bits.mp4": {"pix_fmt": "yuv420p10le"},
    "full range.mp4": {"pix_fmt": "yuvj420p"},
    "grey.mp4": {"pix_fmt": "gray"},
    "sound.mp4": {"audio": True},
    "one frame.mp4": {"num_frames": 1},
}


@pytest.mark.parametrize("name", SOURCES)
def test_every_frame_of_the_source_appears_once_in_order(tmp_path: Path, name: str) -> None:
    kind = {"num_frames": 40, **SOURCES[name]}
    path = write_video(tmp_path / name, **kind)
    made, frames = make(path)
    assert frame_numbers(frames) == list(range(kind["num_frames"]))
    assert (made.width, made.height, made.codec, made.guard) == (160, 96, "h264", "")
    assert made.keyframe_interval <= 16
    assert made.num_bytes == (tmp_path / "result").stat().st_size


@pytest.mark.parametrize("name", SOURCES)
def test_every_frame_of_the_source_becomes_an_image_in_order(tmp_path: Path, name: str) -> None:
    kind = {"num_frames": 40, **SOURCES[name]}
    made, frames = make(write_video(tmp_path / name, **kind), Settings(codec="jpeg"))
    assert frame_numbers(frames) == list(range(kind["num_frames"]))
    assert (made.width, made.height, made.codec) == (160, 96, "jpeg-folder")
    row = read_images(f"{tmp_path / 'result.parquet'}#0")
    assert made.num_bytes == sum(4 + len(image) for image in row)
    assert made.keyframe_interval == 1


@pytest.mark.parametrize("gop", [1, 5])
def test_key_frames_are_as_far_apart_as_was_asked_for(tmp_path: Path, gop: int) -> None:
    path = write_video(tmp_path / "a.mp4", num_frames=20)
    made, frames = make(path, Settings(gop=gop))
    assert frame_numbers(frames) == list(range(20))
    assert made.keyframe_interval == gop


@pytest.mark.parametrize("codec", CODECS)
def test_a_video_that_would_not_gain_enough_is_left_alone(tmp_path: Path, codec: str) -> None:
    path = write_video(tmp_path / "a.mp4", num_frames=8)
    with pytest.raises(NoGain, match=r"8 frames, \d+\.\d ms if prepared"):
        make(path, Settings(codec=codec, min_gain=1e6))
    made, _ = make(path, Settings(codec=codec, min_gain=1e-6))
    assert made.num_bytes


def test_frames_hidden_by_an_edit_list_stay_hidden(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.mp4", num_frames=48, options={"g": "12", "bf": "2"})
    cut = cut_by_copying_packets(whole, tmp_path / "cut.mp4", 17)
    _, frames = make(cut)
    assert frame_numbers(frames) == list(range(17, 48))


def test_a_frame_folder_becomes_a_video(tmp_path: Path) -> None:
    made, frames = make(write_frame_folder(tmp_path / "frames", num_frames=20))
    assert frame_numbers(frames) == list(range(20))
    assert made.codec == "h264"


@pytest.mark.parametrize("matrix", [(0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0), (-1, 0, 0, 1)])
def test_a_turned_or_mirrored_video_is_stored_as_displayed(
    tmp_path: Path, matrix: tuple[int, int, int, int]
) -> None:
    path = set_display_matrix(write_video(tmp_path / "a.mp4", num_frames=5), matrix)
    made, frames = make(path)
    assert (made.width, made.height) == ((96, 160) if matrix[0] == 0 else (160, 96))
    displayed = decode.read_frames(str(path), range(5))
    assert np.abs(frames.astype(int) - displayed).mean() < 8
    with av.open(str(tmp_path / "result")) as container:
        assert next(container.decode(video=0)).rotation == 0


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("colorspace", [1, 6, 9], ids=["bt709", "smpte170m", "bt2020"])
def test_colours_are_shown_as_the_source_shows_them(
    tmp_path: Path, colorspace: int, codec: str
) -> None:
    path = tmp_path / "a.mp4"
    red = np.full((64, 96, 3), (230, 40, 20), np.uint8)
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=25, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.colorspace = colorspace
        frame = av.VideoFrame.from_ndarray(red, format="rgb24").reformat(format="yuv420p")
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    _, frames = make(path, Settings(codec=codec))
    shown = decode.read_frames(str(path), [0])
    assert np.abs(frames.astype(int) - shown).max() <= 4


def test_the_file_is_made_for_reading(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", num_frames=40, fps=30, audio=True, options={"g": "5"})
    make(path)
    with av.open(str(tmp_path / "result")) as container:
        assert [stream.type for stream in container.streams] == ["video"]
        assert container.streams.video[0].average_rate == 30
        packets = [p for p in container.demux(video=0) if p.size]
    keys = [k for k, packet in enumerate(packets) if packet.is_keyframe]
    assert keys[:2] == [0, 16], "the source's key frames are not taken over"
    data = (tmp_path / "result").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(16, 512))
def test_sizes_are_even_never_enlarged_and_keep_their_shape(
    width: int, height: int, short_side: int
) -> None:
    new = prepared_size(width, height, short_side)
    assert all(side % 2 == 0 and side >= 2 for side in new)
    assert min(new) <= max(2, min(short_side, width, height))
    if min(width, height) >= 2:
        assert min(new) == min(short_side, width, height) // 2 * 2
        scale = min(new) / min(width, height)
        assert abs(max(new) - max(width, height) * scale) <= 1 + 1e-6


def test_a_large_video_is_made_smaller(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", num_frames=6, width=320, height=180)
    made, frames = make(path, Settings(short_side=96))
    assert (made.width, made.height) == (170, 96)
    assert frame_numbers(frames) == list(range(6))


def test_images_are_packed_as_they_are(tmp_path: Path) -> None:
    folder = write_frame_folder(tmp_path / "frames", num_frames=5)
    target = str(tmp_path / "result.parquet")
    made = make_video(facts_of(folder), target, Settings(keep_jpeg=True))
    frames = decode.read_frames(f"{target}#0", range(5))
    assert (frames == decode.read_frames(str(folder), range(5))).all()
    assert (made.codec, made.width, made.height) == ("jpeg-folder", 160, 96)
    (folder / "00003.jpg").write_bytes((folder / "00003.jpg").read_bytes()[:500])
    with pytest.raises(VideoError, match="unreadable"):
        make_video(facts_of(folder), target, Settings(keep_jpeg=True))


@pytest.mark.parametrize(
    ("name", "value"), [("num_frames", 19), ("num_frames", 21), ("width", 158), ("height", 98)]
)
def test_a_source_that_is_not_what_the_manifest_says_is_refused(
    tmp_path: Path, name: str, value: int
) -> None:
    for path in (
        write_video(tmp_path / "a.mp4", num_frames=20),
        write_frame_folder(tmp_path / "frames", num_frames=20),
    ):
        facts = VideoFacts(**{**facts_of(path).__dict__, name: value})
        with pytest.raises(VideoError, match=f"changed: .*{value}"):
            make_video(facts, str(tmp_path / "result"), Settings())


def test_a_damaged_source_is_refused(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi", num_frames=40, codec="mpeg4")
    facts = facts_of(path)
    data = bytearray(path.read_bytes())
    at = len(data) // 2
    data[at : at + 2000] = b"\xff" * 2000
    path.write_bytes(data)
    with pytest.raises(VideoError):
        make_video(facts, str(tmp_path / "result"), Settings())


def give(order: list[int]):  # type: ignore[no-untyped-def]
    """A source reader that gives the encoder these of the numbered frames."""

    def each_frame(facts: VideoFacts, encoder: transcode._Encoder) -> None:
        for slot, k in enumerate(order):
            encoder.put(slot, numbered_frame(k))

    return each_frame


@pytest.mark.parametrize(
    "order", [[*range(19)], [*range(21)], [1, *range(1, 20)], [*range(19, -1, -1)]]
)
def test_a_result_that_shows_other_frames_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: list[int]
) -> None:
    path = write_video(tmp_path / "a.mp4", num_frames=20)
    monkeypatch.setattr(transcode, "_each_frame", give(order))
    with pytest.raises(VideoError, match="not_verified"):
        make_video(facts_of(path), str(tmp_path / "result"), Settings())


@pytest.mark.parametrize("order", [[*range(9), 10, 9, *range(11, 20)], [*range(19)], [*range(21)]])
def test_a_file_that_does_not_hold_what_was_encoded_is_noticed(
    tmp_path: Path, order: list[int]
) -> None:
    """Two frames swapped where no sample falls, one lost, one more."""
    facts = facts_of(write_video(tmp_path / "a.mp4", num_frames=20))
    with av.open(facts.path) as container:
        expected = [transcode._luma_grid(frame) for frame in container.decode(video=0)]
    transcode._compare_all(facts, facts.path, expected)
    other = write_video(tmp_path / "b.mp4", frames=[numbered_frame(k) for k in order])
    with pytest.raises(VideoError, match="not_verified"):
        transcode._compare_all(facts, str(other), expected)


def test_a_target_that_cannot_be_written_is_no_fault_of_the_video(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", num_frames=3)
    with pytest.raises(transcode.OutputFailed, match="no/such"):
        make_video(facts_of(path), str(tmp_path / "no/such/result"), Settings())
    with pytest.raises(transcode.OutputFailed, match="No space left"):
        make_video(facts_of(path), "/dev/full", Settings())
