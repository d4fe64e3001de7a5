"""docs/pixels.md: how stored pictures become RGB, by references that share no code with the reader.

They are arithmetic on the stored planes, and the arrays that a lossless codec was given.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from videos import (
    deep_frames,
    frame_of_planes,
    frames_in_a_palette,
    numbered_frame,
    rewrite_packets,
    set_display_matrix,
    translucent_frames,
    write_streams,
    write_video,
)

from stm.data.decode import VideoError, probe, read_frames

# Without B-frames: of one or two frames with them the encoder at times gives times that are no numbers.
X265 = "log-level=none:bframes=0:"
LOSSLESS = {"qp": "0", "bf": "0"}

# How far FFmpeg's fast integer arithmetic was seen from the exact one, in steps of 255.
STEPS = 3.5

# (weight of red, weight of blue) in luma
BT601, BT2020 = (0.299, 0.114), (0.2627, 0.0593)


def all_frames(path: Path) -> np.ndarray:
    return read_frames(path, range(probe(path).num_frames))


def rgb_of(
    planes: Sequence[np.ndarray], weights: tuple[float, float], bits: int, full: bool
) -> Any:
    """float [height, width, 3], not rounded: the arithmetic of the standards.

    Args:
        planes: Luma, blue and red difference, all of one size.
        weights: Of red and blue in luma.
        bits: Of a sample.
        full: Whether all values are used, or 16 to 235 (240) of 256.
    """
    luma, blue_difference, red_difference = (plane.astype(float) for plane in planes)
    unit = 2.0 ** (bits - 8)
    middle = 128 * unit
    top = 2.0**bits - 1
    light = luma / top if full else (luma / unit - 16) / 219
    blue = (blue_difference - middle) / (top if full else 224 * unit)
    red = (red_difference - middle) / (top if full else 224 * unit)
    red_weight, blue_weight = weights
    r = light + 2 * (1 - red_weight) * red
    b = light + 2 * (1 - blue_weight) * blue
    g = (light - red_weight * r - blue_weight * b) / (1 - red_weight - blue_weight)
    return (255 * np.stack([r, g, b], axis=-1)).clip(0, 255)


def stored_planes(path: Path) -> list[np.ndarray]:
    """The planes of the first frame as decoded, [height, width] each."""
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        kind = np.dtype(np.uint16 if frame.format.components[0].bits > 8 else np.uint8)
        return [
            np.frombuffer(plane, np.uint8)
            .reshape(plane.height, plane.line_size)[:, : plane.width * kind.itemsize]
            .view(kind)
            for plane in frame.planes
        ]


def patches(width: int, height: int, bits: int = 8) -> list[np.ndarray]:
    """Luma and differences of flat squares, 4:2:0, all of them colours that RGB has."""
    kind = np.uint16 if bits > 8 else np.uint8
    rng = np.random.default_rng(0)
    columns, rows = width // 16, height // 16
    grids = [
        rng.integers(low, high, (rows, columns)) << (bits - 8)
        for low, high in ((90, 160), (100, 156), (100, 156))
    ]
    sizes = (16, 8, 8)
    return [
        np.kron(grid, np.ones((n, n), int)).astype(kind)
        for grid, n in zip(grids, sizes, strict=True)
    ]


def inside(picture: np.ndarray) -> np.ndarray:
    """The middle of each square of ``patches``, where no interpolation reaches."""
    height, width = picture.shape[:2]
    squares = picture.reshape(height // 16, 16, width // 16, 16, -1)
    return squares[:, 6:10, :, 6:10]


def spread(planes: Sequence[np.ndarray]) -> list[np.ndarray]:
    """4:2:0 planes with each sample of the differences repeated over its four pixels."""
    luma, *differences = planes
    return [luma, *(plane.repeat(2, 0).repeat(2, 1) for plane in differences)]


@pytest.mark.parametrize(("width", "height"), [(64, 48), (1280, 720), (720, 576)])
def test_a_file_that_states_no_matrix_is_converted_by_601_at_any_size(tmp_path, width, height):
    frames = [frame_of_planes(patches(width, height), "yuv420p")]
    path = write_video(tmp_path / "a.mp4", frames=frames, options=LOSSLESS)
    expected = rgb_of(spread(stored_planes(path)), BT601, 8, full=False)
    assert np.abs(inside(read_frames(path, [0])[0] - expected)).max() <= STEPS


@pytest.mark.parametrize(
    ("transfer", "why"), [("smpte2084", "PQ"), ("arib-std-b67", "HLG"), ("bt2020-10", "SDR")]
)
def test_hdr_is_converted_by_its_matrix_alone_and_not_tone_mapped(tmp_path, transfer, why):
    colours = f"colorprim=bt2020:transfer={transfer}:colormatrix=bt2020nc"
    frames = [frame_of_planes(patches(128, 96, bits=10), "yuv420p10le")]
    options = {"x265-params": X265 + "lossless=1:" + colours}
    path = write_video(
        tmp_path / f"{why}.mkv",
        frames=frames,
        codec="libx265",
        pix_fmt="yuv420p10le",
        options=options,
    )
    expected = rgb_of(spread(stored_planes(path)), BT2020, 10, full=False)
    assert np.abs(inside(read_frames(path, [0])[0] - expected)).max() <= STEPS


@pytest.mark.parametrize("full", [False, True])
def test_ten_bits_are_converted_by_the_range_that_the_file_states(tmp_path, full):
    frames = [frame_of_planes(patches(128, 96, bits=10), "yuv420p10le")]
    options = {"qp": "0", "color_range": "pc" if full else "tv"}
    path = write_video(tmp_path / "a.mp4", frames=frames, pix_fmt="yuv420p10le", options=options)
    expected = rgb_of(spread(stored_planes(path)), BT601, 10, full)
    assert np.abs(inside(read_frames(path, [0])[0] - expected)).max() <= STEPS


@pytest.mark.parametrize("full", [False, True])
def test_grey_is_stretched_by_the_range_that_the_file_states(tmp_path, full):
    ramp = np.arange(256, dtype=np.uint8).reshape(1, 256).repeat(16, 0)
    options = {"qp": "0", "color_range": "pc" if full else "tv"}
    frames = [frame_of_planes([ramp], "gray")]
    path = write_video(tmp_path / "a.mp4", frames=frames, pix_fmt="gray", options=options)
    grey = np.full_like(ramp, 128)
    expected = rgb_of([ramp, grey, grey], BT601, 8, full)
    assert np.abs(read_frames(path, [0])[0] - expected).max() <= 1


# BT.2020 constant luminance, YCgCo, one reserved
@pytest.mark.parametrize("matrix", [10, 8, 15])
def test_a_matrix_that_ffmpeg_cannot_convert_is_a_named_error(tmp_path, matrix):
    whole = write_video(tmp_path / "whole.mp4", num_frames=2, options={"bf": "0"})
    path = rewrite_packets(whole, tmp_path / "a.mp4", f"h264_metadata=matrix_coefficients={matrix}")
    with pytest.raises(VideoError):
        read_frames(path, [0])


@pytest.mark.parametrize("siting", ["left", "center", "topleft"])
def test_chroma_of_8_bits_is_repeated_whatever_siting_is_stated(tmp_path, siting):
    rng = np.random.default_rng(1)
    planes = [
        rng.integers(110, 140, size, dtype=np.uint8) for size in ((96, 160), (48, 80), (48, 80))
    ]
    options = {**LOSSLESS, "chroma_sample_location": siting}
    path = write_video(
        tmp_path / "a.mp4", frames=[frame_of_planes(planes, "yuv420p")], options=options
    )
    assert all(np.array_equal(a, b) for a, b in zip(stored_planes(path), planes, strict=True))
    expected = rgb_of(spread(planes), BT601, 8, full=False)
    assert np.abs(read_frames(path, [0])[0] - expected).max() <= STEPS


def test_chroma_of_10_bits_is_the_same_whatever_siting_is_stated(tmp_path):
    """0 says that a sample lies on each even column of luma, 1 that it lies between two columns."""
    rng = np.random.default_rng(3)
    row = rng.integers(400, 600, 80, dtype=np.uint16)
    blue, grey = np.broadcast_to(row, (48, 80)), np.full((48, 80), 512, np.uint16)
    frames = [frame_of_planes([np.full((96, 160), 500, np.uint16), blue, grey], "yuv420p10le")]
    shown = {}
    for chromaloc in (0, 1):
        path = write_video(
            tmp_path / f"{chromaloc}.mkv",
            frames=frames,
            codec="libx265",
            pix_fmt="yuv420p10le",
            options={"x265-params": f"{X265}lossless=1:chromaloc={chromaloc}"},
        )
        shown[chromaloc] = read_frames(path, [0])[0]
    assert np.array_equal(shown[0], shown[1])
    assert np.array_equal(shown[0][:, ::2], shown[0][:, 1::2])  # a sample for each two columns


def test_an_interlaced_frame_keeps_both_fields_and_is_not_deinterlaced(tmp_path):
    luma = np.empty((96, 160), np.uint8)
    luma[::2], luma[1::2] = 235, 16
    grey = np.full((48, 80), 128, np.uint8)
    path = write_video(
        tmp_path / "a.mp4",
        frames=[frame_of_planes([luma, grey, grey], "yuv420p")],
        options={"x264-params": "interlaced=1:qp=0"},
    )
    frame = read_frames(path, [0])[0]
    assert (frame[::2] == 255).all()
    assert (frame[1::2] == 0).all()


def test_chroma_of_an_interlaced_frame_is_spread_as_in_a_progressive_one(tmp_path):
    rng = np.random.default_rng(2)
    planes = [
        rng.integers(110, 140, size, dtype=np.uint8) for size in ((96, 160), (48, 80), (48, 80))
    ]
    frames = [frame_of_planes(planes, "yuv420p")]
    path = write_video(
        tmp_path / "a.mp4", frames=frames, options={"x264-params": "interlaced=1:qp=0"}
    )
    assert all(np.array_equal(a, b) for a, b in zip(stored_planes(path), planes, strict=True))
    expected = rgb_of(spread(planes), BT601, 8, full=False)
    assert np.abs(read_frames(path, [0])[0] - expected).max() <= STEPS


@pytest.mark.parametrize("aspect", ["16/15", "64/45", "1/2"])
def test_pixels_that_are_not_square_are_left_as_stored(tmp_path, aspect):
    square = write_video(tmp_path / "square.mp4", num_frames=2)
    path = write_video(tmp_path / "a.mp4", num_frames=2, options={"aspect": aspect})
    info = probe(path)
    assert (info.width, info.height) == (160, 96)
    assert np.array_equal(read_frames(path, [1]), read_frames(square, [1]))


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
@pytest.mark.parametrize("sides", [(16, 8, 10, 6), (2, 2, 0, 0), (64, 0, 0, 4)])
def test_cropping_in_the_header_is_honoured_on_every_side(tmp_path, codec, sides):
    left, top, right, bottom = sides
    options = {"bf": "0"} if codec == "libx264" else {"x265-params": X265 + "keyint=2"}
    whole = write_video(tmp_path / "whole.mp4", codec=codec, num_frames=3, options=options)
    name = "h264" if codec == "libx264" else "hevc"
    crop = f"crop_left={left}:crop_top={top}:crop_right={right}:crop_bottom={bottom}"
    path = rewrite_packets(whole, tmp_path / "a.mp4", f"{name}_metadata={crop}")
    info = probe(path)
    assert (info.width, info.height) == (160 - left - right, 96 - top - bottom)
    shown = read_frames(whole, [2, 0])[:, top : 96 - bottom, left : 160 - right]
    assert np.array_equal(read_frames(path, [2, 0]), shown)


def test_a_slanted_display_matrix_is_left_alone(tmp_path):
    stored = write_video(tmp_path / "stored.mp4", num_frames=2)
    path = set_display_matrix(Path(shutil.copy(stored, tmp_path / "a.mp4")), (0.7, 0.7, -0.7, 0.7))
    assert np.array_equal(read_frames(path, [0, 1]), read_frames(stored, [0, 1]))
    assert probe(path).rotation == 0


@pytest.mark.parametrize("every_frame", [False, True])
@pytest.mark.parametrize(
    ("orientation", "as_shown"),
    [
        ("rotate=90", np.rot90),
        ("rotate=180", lambda x: np.rot90(x, 2)),
        ("rotate=270", lambda x: np.rot90(x, -1)),
        ("rotate=0:flip=horizontal", lambda x: x[:, ::-1]),
        ("rotate=90:flip=vertical", lambda x: np.rot90(x.swapaxes(0, 1), 2)),
    ],
)
def test_an_orientation_in_h264_turns_all_frames(tmp_path, orientation, as_shown, every_frame):
    """Such a message holds until the next one, wherever it stands: as FFmpeg 9's command has it."""
    options = {"bf": "0", "g": "1"} if every_frame else {"bf": "0", "g": "10"}
    suffix = ".ts" if every_frame else ".mp4"  # an mp4 keeps it with the first frame alone
    stored = write_video(tmp_path / f"stored{suffix}", num_frames=5, options=options)
    path = rewrite_packets(
        stored,
        tmp_path / f"a{suffix}",
        f"h264_metadata=display_orientation=insert:{orientation}",
    )
    expected = [as_shown(frame) for frame in read_frames(stored, [3, 0])]
    info = probe(path)
    assert (info.height, info.width) == expected[0].shape[:2]
    assert np.array_equal(read_frames(path, [3, 0]), expected)
    assert np.array_equal(read_frames(path, [3]), expected[:1])


def test_a_second_orientation_in_h264_is_a_named_error(tmp_path):
    joined = b""
    for k, degrees in enumerate((90, 180)):
        part = tmp_path / f"{k}.ts"
        write_video(
            part, num_frames=4, options={"bf": "0"}, times_ms=[160 * k + 40 * j for j in range(4)]
        )
        turned = tmp_path / f"turned{k}.ts"
        rewrite_packets(part, turned, f"h264_metadata=display_orientation=insert:rotate={degrees}")
        joined += turned.read_bytes()
    path = tmp_path / "a.ts"
    path.write_bytes(joined)
    with pytest.raises(VideoError, match="unreadable"):
        read_frames(path, range(8))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_images_of_a_folder_are_turned_as_their_exif_says(tmp_path, form):
    image = pytest.importorskip("PIL.Image")
    from PIL import ImageOps

    expected = []
    for orientation in range(1, 9):
        exif = image.Exif()
        exif[274] = orientation
        folder = tmp_path / str(orientation)
        folder.mkdir()
        for k in range(2):
            path = folder / f"{k}.{form.lower()}"
            image.fromarray(numbered_frame(k)).save(path, form, exif=exif)
            with image.open(path) as stored:
                expected.append(np.asarray(ImageOps.exif_transpose(stored).convert("RGB")))
        info = probe(folder)
        assert (info.height, info.width) == expected[-1].shape[:2]
        assert np.array_equal(read_frames(folder, [1, 0]), expected[-2:][::-1])
    assert {picture.shape for picture in expected} == {(96, 160, 3), (160, 96, 3)}


@pytest.mark.parametrize("depth", ["rgb48be", "gray16be"])
def test_a_16_bit_image_of_a_folder_is_what_pillow_shows(tmp_path, depth):
    """The high bytes of colours; grey cut off at 255."""
    rng = np.random.default_rng(4)
    picture = rng.integers(
        0, 1000, (24, 32, 3) if depth == "rgb48be" else (24, 32), dtype=np.uint16
    )
    encoder = av.CodecContext.create("png", "w")
    encoder.width, encoder.height, encoder.pix_fmt = 32, 24, depth
    encoder.time_base = Fraction(1, 25)
    frame = av.VideoFrame.from_ndarray(picture, format=depth)
    frame.pts = 0
    packets = encoder.encode(frame) + encoder.encode(None)
    (tmp_path / "0.png").write_bytes(b"".join(bytes(packet) for packet in packets))
    shown = picture >> 8 if depth == "rgb48be" else picture.clip(0, 255)[..., None]
    assert np.array_equal(read_frames(tmp_path, [0])[0], np.broadcast_to(shown, (24, 32, 3)))


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "suffix"),
    [("ffv1", "bgra", ".mkv"), ("png", "rgba", ".mov"), ("apng", "rgba", ".apng")],
)
def test_alpha_is_dropped_and_the_colours_under_it_stay(tmp_path, codec, pix_fmt, suffix):
    pictures = translucent_frames()
    path = write_video(tmp_path / f"a{suffix}", codec=codec, pix_fmt=pix_fmt, frames=pictures)
    assert np.array_equal(all_frames(path), [picture[..., :3] for picture in pictures])


@pytest.mark.parametrize(
    ("codec", "suffix"), [("png", ".mov"), ("rawvideo", ".avi"), ("rawvideo", ".nut")]
)
def test_a_palette_gives_its_colours(tmp_path, codec, suffix):
    frames = frames_in_a_palette()
    path = write_video(tmp_path / f"a{suffix}", codec=codec, pix_fmt="pal8", frames=frames)
    drawn, colours = frames[2].to_ndarray()
    assert np.array_equal(read_frames(path, [2])[0], colours[drawn][..., 1:])


@pytest.mark.parametrize("disposal", [0, 1, 2, 3])
def test_a_gif_shows_whole_pictures_as_a_viewer_does(tmp_path, disposal):
    """Parts of pictures over what was there, with every way of clearing it; white where nothing is."""
    image = pytest.importorskip("PIL.Image")
    from PIL import ImageSequence

    pictures = []
    for k in range(4):
        picture = image.new("RGBA", (64, 48), (0, 0, 0, 0) if k else (200, 30, 30, 255))
        picture.paste((0, 255 - 60 * k, 60 * k, 255), (5 + 10 * k, 5, 20 + 10 * k, 30))
        pictures.append(picture)
    path = tmp_path / "a.gif"
    options = {"save_all": True, "duration": 40, "disposal": disposal, "optimize": False}
    pictures[0].save(path, append_images=pictures[1:], **options)
    shown = np.stack(
        [np.asarray(frame.convert("RGBA")) for frame in ImageSequence.Iterator(image.open(path))]
    )
    colours, opaque = shown[..., :3], shown[..., 3:] == 255
    assert np.array_equal(all_frames(path), np.where(opaque, colours, 255))


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "suffix"), [("ffv1", "rgb48le", ".mkv"), ("png", "rgb48be", ".mov")]
)
def test_sixteen_bits_become_eight_within_one_step(tmp_path, codec, pix_fmt, suffix):
    pictures = deep_frames()
    path = write_video(tmp_path / f"a{suffix}", codec=codec, pix_fmt=pix_fmt, frames=pictures)
    high_bytes = np.stack(pictures) >> 8
    assert np.abs(all_frames(path).astype(int) - high_bytes).max() <= 1


@pytest.mark.parametrize(
    ("first", "second", "taken", "suffix"),
    [
        (*case, suffix)
        for case in [
            ("", "default", "second"),
            ("default", "", "first"),
            ("", "", "second"),
            ("default", "default", "second"),
        ]
        for suffix in (".mkv", ".mp4", ".nut")
        # The mp4 muxer makes the first stream the default where none is.
        if suffix != ".mp4" or any(case[:2])
    ],
)
def test_of_several_video_streams_the_default_or_else_the_largest_is_read(
    tmp_path, suffix, first, second, taken
):
    small = write_video(tmp_path / "small.mp4", num_frames=3, width=96, height=64)
    large = write_video(tmp_path / "large.mp4", num_frames=4, options={"qp": "51"})
    path = write_streams(tmp_path / f"a{suffix}", [(small, first), (large, second)])
    expected = read_frames(large if taken == "second" else small, [2])
    assert (probe(path).width, probe(path).height) == (expected.shape[2], expected.shape[1])
    assert np.array_equal(read_frames(path, [2]), expected)


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv411p", "yuv410p", "yuv422p", "yuv440p"])
def test_odd_sizes_keep_their_last_row_and_column(tmp_path, pix_fmt):
    picture = np.full((17, 33, 3), (200, 40, 90), np.uint8)
    path = write_video(tmp_path / "a.mkv", codec="ffv1", pix_fmt=pix_fmt, frames=[picture])
    frame = read_frames(path, [0])[0]
    assert frame.shape == picture.shape
    assert np.abs(frame.astype(int) - picture).max() <= STEPS
