"""docs/pixels.md: frames of one file after another, beside those of FFmpeg, decord and torchcodec."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from videos import (
    cut_by_copying_packets,
    deep_frames,
    frame_numbers,
    frames_as_ffmpeg_shows,
    frames_in_a_palette,
    numbered_frame,
    rewrite_packets,
    set_display_matrix,
    translucent_frames,
    write_streams,
    write_video,
)

from stm.data.decode import probe, read_frames

NUM_FRAMES = 4
X265 = "log-level=none:bframes=0:"
PQ = X265 + "colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc:hdr10=1"
HLG = X265 + "colorprim=bt2020:transfer=arib-std-b67:colormatrix=bt2020nc"


def _rewritten(bitstream_filter: str, **recipe: Any) -> Callable[[Path], None]:
    """A video whose packets went through a bitstream filter."""

    def make(path: Path) -> None:
        options = {"g": "2", "bf": "0"}
        whole = write_video(
            path.with_name(f"whole {path.name}"),
            **{"num_frames": NUM_FRAMES, "options": options, **recipe},
        )
        rewrite_packets(whole, path, bitstream_filter)

    return make


def _turned(matrix: tuple[int, int, int, int]) -> Callable[[Path], None]:
    """A video with a display matrix in its container."""

    def make(path: Path) -> None:
        stored = path.with_name(f"stored {path.stem}.mp4")
        write_video(stored, num_frames=NUM_FRAMES, options={"g": "2"})
        set_display_matrix(stored, matrix)
        rewrite_packets(stored, path)

    return make


def _turned_by_exif(path: Path) -> None:
    """Motion JPEG whose pictures say that they are to be turned clockwise, as cameras write it."""
    image = pytest.importorskip("PIL.Image")
    exif = image.Exif()
    exif[274] = 6
    with av.open(str(path), "w") as output:
        stream = output.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuvj420p"
        for k in range(NUM_FRAMES):
            picture = io.BytesIO()
            image.fromarray(numbered_frame(k)).save(picture, "JPEG", exif=exif)
            packet = av.Packet(picture.getvalue())
            packet.pts = packet.dts = k
            packet.time_base, packet.stream, packet.is_keyframe = Fraction(1, 25), stream, True
            output.mux(packet)


def _streams(first: str, second: str) -> Callable[[Path], None]:
    """A small video and then a large one, with these dispositions."""

    def make(path: Path) -> None:
        small, large = (path.with_name(f"{size} {path.stem}.mp4") for size in ("small", "large"))
        # The smaller one has the higher bit rate.
        write_video(small, num_frames=NUM_FRAMES, width=96, height=64, options={"qp": "1"})
        write_video(large, num_frames=NUM_FRAMES, seed=1, options={"qp": "40"})
        write_streams(path, [(small, first), (large, second)])

    return make


def _cut(path: Path) -> None:
    whole = path.with_name("whole.mp4")
    write_video(whole, num_frames=8, options={"g": "4", "bf": "0"})
    cut_by_copying_packets(whole, path, 3)


def _with_cover(path: Path) -> None:
    cover, video = path.with_name("cover.avi"), path.with_name("video.mp4")
    write_video(cover, num_frames=1, width=320, height=200, codec="mjpeg", pix_fmt="yuvj420p")
    write_video(video, num_frames=NUM_FRAMES)
    write_streams(path, [(cover, "attached_pic"), (video, "default")])


def _joined(*parts: dict[str, Any]) -> Callable[[Path], None]:
    """Streams that follow one another in one file, each written in its own way."""

    def make(path: Path) -> None:
        joined = b""
        for k, recipe in enumerate(parts):
            part = path.with_name(f"part {k} of {path.name}")
            times_ms = [40 * (NUM_FRAMES * k + j) for j in range(NUM_FRAMES)]
            write_video(part, **{"num_frames": NUM_FRAMES, "times_ms": times_ms, **recipe})
            data = part.read_bytes()
            joined += data[32:] if k and data.startswith(b"DKIF") else data  # one file header
        path.write_bytes(joined)

    return make


def _changing_size(codec: str) -> Callable[[Path], None]:
    return _joined({"codec": codec}, {"codec": codec, "width": 240, "height": 144})


def _translucent(path: Path, codec: str, pix_fmt: str, **options: str) -> None:
    write_video(path, codec=codec, pix_fmt=pix_fmt, frames=translucent_frames(), options=options)


def _in_a_palette(path: Path, codec: str) -> None:
    write_video(path, codec=codec, pix_fmt="pal8", frames=frames_in_a_palette())


@dataclass(frozen=True)
class Case:
    """A file, and what decord and torchcodec make of it, compared with FFmpeg.

    "same" to the bit; "rounded" the same pictures, rounded or interpolated otherwise; "other" wrong ones;
    "refused".
    """

    make: dict[str, Any] | Callable[[Path], None]
    decord: str = "same"
    torchcodec: str = "same"


def _ffv1(pix_fmt: str, **others: str) -> Case:
    return Case({"codec": "ffv1", "pix_fmt": pix_fmt}, **others)


def _alpha(codec: str, pix_fmt: str, decord: str = "same", **options: str) -> Case:
    return Case(lambda path: _translucent(path, codec, pix_fmt, **options), decord=decord)


FILES: dict[str, Case] = {
    "sample aspect 16:15.mp4": Case({"options": {"aspect": "16/15"}}),
    "sample aspect 64:45.mkv": Case({"codec": "mpeg2video", "options": {"aspect": "64/45"}}),
    "matrix not stated.mp4": Case({}),
    "matrix 601.mp4": Case({"options": {"colorspace": "smpte170m"}}),
    "matrix 709.mp4": Case({"options": {"colorspace": "bt709"}}),
    "matrix 2020.mp4": Case({"options": {"colorspace": "bt2020nc"}}),
    "full range.mp4": Case({"pix_fmt": "yuvj420p"}),
    "full range 10-bit.mkv": Case(
        {"pix_fmt": "yuv422p10le", "options": {"color_range": "pc"}},
        torchcodec="other",
    ),
    "grey.mp4": Case({"pix_fmt": "gray"}),
    "grey limited.mp4": Case({"pix_fmt": "gray", "options": {"color_range": "tv"}}),
    "siting left.mp4": Case({"options": {"chroma_sample_location": "left"}}),
    "siting centre.mp4": Case({"options": {"chroma_sample_location": "center"}}),
    "siting top left.mp4": Case({"options": {"chroma_sample_location": "topleft"}}),
    "HDR10.mp4": Case(
        {"codec": "libx265", "pix_fmt": "yuv420p10le", "options": {"x265-params": PQ}},
        decord="rounded",
    ),
    "HLG.mp4": Case(
        {"codec": "libx265", "pix_fmt": "yuv420p10le", "options": {"x265-params": HLG}},
        decord="rounded",
    ),
    "10-bit, no siting.mkv": _ffv1("yuv420p10le", decord="rounded"),
    "interlaced.mp4": Case(
        {"options": {"x264-params": "interlaced=1"}},
    ),
    "interlaced.mpg": Case(
        {"codec": "mpeg2video", "options": {"flags": "+ilme+ildct"}},
        decord="refused",
        torchcodec="refused",
    ),
    "irregular times.mkv": Case({"times_ms": [0, 40, 300, 1000], "options": {"bf": "2"}}),
    "edit list.mp4": Case(_cut, decord="other", torchcodec="refused"),
    "4:1:0.mkv": _ffv1("yuv410p", decord="rounded"),
    "4:1:1.mkv": _ffv1("yuv411p", decord="rounded"),
    "4:4:0.mkv": _ffv1("yuv440p", decord="rounded"),
    "4:2:2.mkv": _ffv1("yuv422p"),
    "4:4:4.mkv": _ffv1("yuv444p"),
    "4:4:4 16-bit.mkv": _ffv1("yuv444p16le"),
    "grey 10-bit.mkv": _ffv1("gray10le"),
    "33x17 4:2:0.mkv": Case(
        {"codec": "ffv1", "pix_fmt": "yuv420p", "width": 33, "height": 17}, decord="rounded"
    ),
    "33x17 4:1:1.mkv": Case(
        {"codec": "ffv1", "pix_fmt": "yuv411p", "width": 33, "height": 17}, decord="rounded"
    ),
    "33x17.webm": Case(
        {"codec": "libvpx-vp9", "width": 33, "height": 17, "options": {"cpu-used": "8"}},
        decord="rounded",
    ),
    "alpha VP8.webm": _alpha("libvpx", "yuva420p", **{"auto-alt-ref": "0", "cpu-used": "8"}),
    "alpha VP9.webm": _alpha("libvpx-vp9", "yuva420p", **{"cpu-used": "8"}),
    "alpha ProRes.mov": _alpha("prores_ks", "yuva444p10le", decord="rounded"),
    "alpha PNG.mov": _alpha("png", "rgba"),
    "alpha FFV1.mkv": _alpha("ffv1", "bgra"),
    "palette.gif": Case({"codec": "gif", "pix_fmt": "rgb8"}, decord="refused"),
    "palette PNG.mov": Case(lambda path: _in_a_palette(path, "png")),
    "palette raw.avi": Case(
        lambda path: _in_a_palette(path, "rawvideo"), decord="other", torchcodec="other"
    ),
    "16-bit PNG.mov": Case(
        lambda path: write_video(path, codec="png", pix_fmt="rgb48be", frames=deep_frames())
    ),
    "16-bit grey PNG.mov": Case({"codec": "png", "pix_fmt": "gray16be"}),
    "16-bit FFV1.mkv": Case(
        lambda path: write_video(path, codec="ffv1", pix_fmt="rgb48le", frames=deep_frames()),
        decord="rounded",
    ),
    "second stream the default.mkv": Case(_streams("", "default"), decord="other"),
    "both streams the default.mkv": Case(
        _streams("default", "default"), decord="other", torchcodec="other"
    ),
    "no stream the default.ts": Case(_streams("", ""), decord="refused", torchcodec="refused"),
    "with a cover picture.mp4": Case(_with_cover),
    "changing size VP9.ivf": Case(
        _changing_size("libvpx-vp9"), decord="refused", torchcodec="refused"
    ),
    "changing size H.264.ts": Case(
        _changing_size("libx264"),
        decord="other",
        torchcodec="refused",
    ),
    "changing matrix.ts": Case(
        _joined(
            {"options": {"colorspace": "smpte170m", "bf": "0"}},
            {"options": {"colorspace": "bt709", "bf": "0"}},
        ),
    ),
    "changing sampling.ts": Case(
        _joined({"options": {"bf": "0"}}, {"pix_fmt": "yuv444p", "options": {"bf": "0"}}),
    ),
    "TIFF.mov": Case({"codec": "tiff", "pix_fmt": "rgb24"}),
    "cropped on four sides.mp4": Case(
        _rewritten("h264_metadata=crop_left=16:crop_top=8:crop_right=10:crop_bottom=6"),
        decord="other",
        torchcodec="refused",
    ),
    "cropped HEVC.mp4": Case(
        _rewritten(
            "hevc_metadata=crop_left=16:crop_top=8:crop_right=10:crop_bottom=6",
            codec="libx265",
            options={"x265-params": X265 + "keyint=2"},
        ),
        decord="other",
        torchcodec="refused",
    ),
    "turned.mp4": Case(_turned((0, 1, -1, 0))),
    "turned.mkv": Case(_turned((0, 1, -1, 0)), decord="other"),
    "mirrored.mp4": Case(_turned((-1, 0, 0, 1)), decord="other", torchcodec="other"),
    "mirrored.mkv": Case(_turned((-1, 0, 0, 1)), decord="other", torchcodec="other"),
    "turned by EXIF.avi": Case(_turned_by_exif, decord="other", torchcodec="other"),
    "turned by SEI.mp4": Case(
        _rewritten("h264_metadata=display_orientation=insert:rotate=90"),
        decord="other",
        torchcodec="other",
    ),
}

# FFmpeg 5.1 keeps the columns on the left of the first two, and turns single frames of the third; 9.0 does not.
NEED_NEW_FFMPEG = {"cropped on four sides.mp4", "cropped HEVC.mp4", "turned by SEI.mp4"}

TURNED = {
    "turned.mp4": lambda frames: np.rot90(frames, -1, (1, 2)),
    "turned.mkv": lambda frames: np.rot90(frames, -1, (1, 2)),
    "mirrored.mp4": lambda frames: frames[:, :, ::-1],
    "mirrored.mkv": lambda frames: frames[:, :, ::-1],
    "turned by EXIF.avi": lambda frames: np.rot90(frames, -1, (1, 2)),
    "turned by SEI.mp4": lambda frames: np.rot90(frames, 1, (1, 2)),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Name in FILES -> its path, made once."""
    folder = tmp_path_factory.mktemp("pixels")

    def get(name: str) -> Path:
        path = folder / name
        if not path.exists():
            make = FILES[name].make
            if callable(make):
                make(path)
            else:
                write_video(path, **{"num_frames": NUM_FRAMES, **make})
        return path

    return get


def all_frames(path: Path) -> np.ndarray:
    return read_frames(path, range(probe(path).num_frames))


@pytest.mark.parametrize("name", FILES)
def test_frames_equal_those_of_ffmpegs_filters(files, name):
    path = files(name)
    expected = TURNED.get(name, lambda frames: frames)(frames_as_ffmpeg_shows(path))
    info = probe(path)
    assert (info.num_frames, info.height, info.width) == expected.shape[:3]
    for decoder in ("packets", "sequential"):
        frames = read_frames(path, range(info.num_frames), decoder)
        assert np.array_equal(frames, expected), decoder
    for k in range(info.num_frames):
        assert np.array_equal(read_frames(path, [k])[0], expected[k]), f"frame {k} alone"


def read_with_decord(path: Path) -> np.ndarray:
    decord = pytest.importorskip("decord")
    reader = decord.VideoReader(str(path), num_threads=1)
    return reader.get_batch(range(len(reader))).asnumpy()


def read_with_torchcodec(path: Path) -> np.ndarray:
    from torchcodec.decoders import VideoDecoder

    return VideoDecoder(str(path), dimension_order="NHWC")[:].numpy()


def compared(theirs: np.ndarray, ours: np.ndarray) -> str:
    """ "same", "rounded" or "other"."""
    if theirs.shape != ours.shape:
        return "other"
    difference = np.abs(theirs.astype(int) - ours)
    return "same" if not difference.any() else "rounded" if difference.mean() < 4 else "other"


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.tool(f"ffmpeg{' 9' * (name in NEED_NEW_FFMPEG)}"))
        for name in FILES
    ],
)
def test_frames_equal_those_of_the_ffmpeg_command(files, name):
    path = files(name)
    command = ["ffmpeg", "-nostdin", "-v", "error", "-i", str(path)]
    command += ["-fps_mode", "passthrough", "-pix_fmt", "rgb24", "-f", "rawvideo", "-"]
    pixels = subprocess.run(command, capture_output=True, check=True).stdout
    ours = all_frames(path)
    assert len(pixels) == ours.size
    assert np.array_equal(np.frombuffer(pixels, np.uint8).reshape(ours.shape), ours)


@pytest.mark.parametrize("name", FILES)
def test_decord_does_what_the_page_says(files, name):
    decord = pytest.importorskip("decord")
    path = files(name)
    try:
        theirs = read_with_decord(path)
    except (decord.DECORDError, RuntimeError):
        assert FILES[name].decord == "refused"
        return
    assert compared(theirs, all_frames(path)) == FILES[name].decord


@pytest.mark.tool("torchcodec")
@pytest.mark.parametrize("name", FILES)
def test_torchcodec_does_what_the_page_says(files, name):
    path = files(name)
    try:
        theirs = read_with_torchcodec(path)
    except RuntimeError:
        assert FILES[name].torchcodec == "refused"
        return
    assert compared(theirs, all_frames(path)) == FILES[name].torchcodec


@pytest.mark.parametrize(
    "read",
    [read_with_decord, pytest.param(read_with_torchcodec, marks=pytest.mark.tool("torchcodec"))],
)
def test_others_take_a_matrix_that_they_do_not_know_for_601(tmp_path, read):
    stored, path = tmp_path / "stored.mp4", tmp_path / "a.mp4"
    write_video(stored, num_frames=2)
    rewrite_packets(stored, path, "h264_metadata=matrix_coefficients=8")  # YCgCo
    assert np.array_equal(read(path), all_frames(stored))


@pytest.mark.parametrize("name", [name for name, case in FILES.items() if case.decord == "other"])
def test_decord_is_not_asked_where_it_would_show_other_pictures(files, name):
    path = files(name)
    assert probe(path).guard
    assert np.array_equal(read_frames(path, [2], "decord"), read_frames(path, [2]))


def test_a_cover_picture_is_not_the_video(files):
    path = files("with a cover picture.mp4")
    assert (probe(path).width, probe(path).num_frames) == (160, NUM_FRAMES)
    assert frame_numbers(all_frames(path)) == list(range(NUM_FRAMES))


@pytest.mark.parametrize("name", ["changing size VP9.ivf", "changing size H.264.ts"])
def test_frames_after_a_change_of_size_are_scaled_to_the_first_size(files, name):
    frames = all_frames(files(name))
    assert frames.shape == (2 * NUM_FRAMES, 96, 160, 3)
    assert frame_numbers(frames) == 2 * list(range(NUM_FRAMES))
