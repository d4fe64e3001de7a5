"""Clips and views: the right part of the right frames, resized once, from any kind of source."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import av
import fsspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from videos import frame_numbers, numbered_frame, write_frame_folder, write_jpeg, write_video

from stm.data.decode import VideoError, probe, read_clip, read_frames, read_views
from stm.data.decode.resize import pixel_box, resize_clip

FULL = (0, 0, 160, 96)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "a.mp4"
    return write_video(path, options={"g": "12", "bf": "2"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_frame_folder(tmp_path_factory.mktemp("folder") / "frames", num_frames=12)


def test_a_clip_is_the_box_of_each_frame_resized_once(video):
    import torch

    indices, (left, top, width, height) = [5, 40, 17], (30, 7, 84, 80)
    crops = read_frames(video, indices)[:, top : top + height, left : left + width]
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(crops).permute(0, 3, 1, 2).float(),
        (56, 56),
        mode="bilinear",
        antialias=True,
    )
    clip = read_clip(video, indices, (left, top, width, height), 56)
    assert clip.shape == (3, 56, 56, 3)
    assert clip.dtype == np.uint8
    assert np.abs(clip - expected.permute(0, 2, 3, 1).numpy()).max() <= 1.5


def test_shrinking_averages_instead_of_picking_pixels():
    stripes = np.zeros((1, 64, 64, 3), np.uint8)
    stripes[:, :, ::2] = 255
    assert np.abs(resize_clip(stripes, 8).astype(int) - 127).max() <= 6


def test_a_box_of_the_wanted_size_is_cut_out_untouched(video):
    expected = read_frames(video, [9])[:, 10:90, 20:100]
    assert np.array_equal(read_clip(video, [9], (20, 10, 80, 80), 80), expected)


def test_each_view_equals_the_clip_of_its_box(video):
    boxes = [(0, 0, 96, 96), (32.3, 0, 96, 96), (64, 0, 96, 96), (10, 5, 40.5, 60)]
    indices = [30, 2, 2, 11]
    views = read_views(video, indices, boxes, 64)
    assert views.shape == (4, 4, 64, 64, 3)
    for view, box in zip(views, boxes, strict=True):
        assert np.array_equal(view, read_clip(video, indices, box, 64))


@pytest.mark.parametrize("decoder", ["auto", "packets", "sequential", "decord"])
def test_frames_come_in_the_order_asked_for_with_repeats(video, decoder):
    if decoder == "decord":
        pytest.importorskip("decord")
    indices = np.array([47, 3, 3, 20, 0, 47], dtype=np.int32)
    assert frame_numbers(read_frames(video, indices, decoder)) == indices.tolist()


def test_the_decoders_give_the_same_clip(video):
    pytest.importorskip("decord")
    clips = [
        read_clip(video, [4, 19, 33], (10.4, 3.2, 80.7, 80.1), 64, decoder).astype(int)
        for decoder in ("packets", "sequential", "decord")
    ]
    assert np.array_equal(clips[0], clips[1])
    assert np.abs(clips[0] - clips[2]).mean() < 0.5


def test_decord_is_not_used_on_a_file_it_cannot_be_trusted_with(tmp_path, monkeypatch):
    from stm.data.decode import decord_reader

    def refuse(*args):
        raise AssertionError("read with decord")

    monkeypatch.setattr(decord_reader, "read", refuse)
    path = write_video(tmp_path / "a.ts", options={"g": "12", "bf": "2"})
    assert frame_numbers(read_frames(path, [31], "decord")) == [31]


def test_without_decord_its_choice_is_a_named_error(video, monkeypatch):
    from stm.data.decode import decord_reader

    monkeypatch.setattr(decord_reader, "is_installed", lambda: False)
    with pytest.raises(VideoError, match=r"no_decoder.*not installed"):
        read_frames(video, [0], "decord")


@given(
    left=st.floats(-0.5, 100),
    top=st.floats(-0.5, 60),
    width=st.floats(1, 60),
    height=st.floats(1, 36),
)
def test_a_box_is_rounded_to_whole_pixels_inside_the_frame(left, top, width, height):
    x0, y0, x1, y1 = pixel_box((left, top, width, height), 160, 96)
    assert 0 <= x0 < x1 <= 160
    assert 0 <= y0 < y1 <= 96
    for edge, wanted in ((x0, left), (y0, top), (x1, left + width), (y1, top + height)):
        assert abs(edge - wanted) <= 0.5


@pytest.mark.parametrize(
    "box",
    [
        (-1, 0, 96, 96),
        (65, 0, 96, 96),
        (0, 1, 96, 96),
        (0, 0, 0, 96),
        (0, 0, 96, -3),
        (0, 0, float("nan"), 96),
        (0, 0, float("inf"), 96),
    ],
)
def test_a_box_that_leaves_the_frame_is_refused(video, box):
    with pytest.raises(ValueError, match="box"):
        read_clip(video, [0], box, 64)


def test_a_box_less_than_half_a_pixel_outside_is_moved_onto_the_edge(video):
    assert np.array_equal(
        read_clip(video, [3], (-0.4, -0.3, 96, 96), 64), read_clip(video, [3], (0, 0, 96, 96), 64)
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], FULL, 64), "indices is empty"),
        (([0], FULL, 0), "size"),
        (([0], (0, 0, 10), 64), "box"),
        (([0], FULL, 64, "opencv"), "decoder must be one of auto, packets"),
    ],
)
def test_an_impossible_request_is_a_value_error(video, arguments, message):
    with pytest.raises(ValueError, match=message):
        read_clip(video, *arguments)


@pytest.mark.parametrize("indices", [[48], [-1], [0, 5000]])
@pytest.mark.parametrize("decoder", ["auto", "packets", "sequential", "decord"])
def test_a_frame_number_outside_the_video_is_named(video, indices, decoder):
    with pytest.raises(VideoError) as caught:
        read_frames(video, indices, decoder)
    assert caught.value.reason == "bad_index"


def test_a_clip_of_a_turned_video_is_cut_in_displayed_pixels(video, tmp_path):
    from videos import set_display_matrix

    turned = tmp_path / "turned.mp4"
    turned.write_bytes(video.read_bytes())
    set_display_matrix(turned, (0, 1, -1, 0))
    shown = np.rot90(read_frames(video, [8])[0], -1)
    clip = read_clip(turned, [8], (11, 60, 80, 80), 80)
    assert np.array_equal(clip[0], shown[60:140, 11:91])


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize(
    ("matrix", "red_weight", "blue_weight"),
    [("bt709", 0.2126, 0.0722), ("smpte170m", 0.299, 0.114), ("bt2020nc", 0.2627, 0.0593)],
)
def test_colours_follow_the_matrix_and_range_that_the_file_states(
    tmp_path, matrix, red_weight, blue_weight, full_range
):
    colours = np.array(
        [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255] * 3, [0] * 3, [128, 64, 200]], float
    )
    luma = colours @ [red_weight, 1 - red_weight - blue_weight, blue_weight]
    blue = (colours[:, 2] - luma) / (2 * (1 - blue_weight))
    red = (colours[:, 0] - luma) / (2 * (1 - red_weight))
    if not full_range:
        luma, blue, red = luma * 219 / 255 + 16, blue * 224 / 255, red * 224 / 255
    planes = np.round(np.stack([luma, blue + 128, red + 128])).clip(0, 255).astype(np.uint8)
    picture = planes[:, None].repeat(64, 1).repeat(16, 2)

    path = tmp_path / "colours.mp4"
    options = {"qp": "0", "colorspace": matrix, "color_range": "pc" if full_range else "tv"}
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv444p"
        frame = av.VideoFrame.from_ndarray(picture, format="yuv444p")
        frame.pts = 0
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    decoded = read_frames(path, [0])[0, 32, 8::16]
    assert np.abs(decoded - colours).max() <= 2


def test_bytes_file_objects_and_urls_are_read_like_paths(video):
    data = video.read_bytes()
    expected = read_clip(video, [20, 7], (0, 0, 96, 96), 64)
    fsspec.filesystem("memory").pipe("/clips/a.mp4", data)
    with video.open("rb") as file:
        for source in (data, file, str(video), "memory://clips/a.mp4", f"file://{video}"):
            assert np.array_equal(read_clip(source, [20, 7], (0, 0, 96, 96), 64), expected)
            assert probe(source) == probe(video)


def test_a_large_remote_file_is_read_without_fetching_it_whole(video, monkeypatch):
    from stm.data.decode import source

    def refuse(*args, **kwargs):
        raise AssertionError("fetched whole")

    memory = fsspec.filesystem("memory")
    memory.pipe("/clips/large.mp4", video.read_bytes())
    monkeypatch.setattr(source, "FETCH_WHOLE_BYTES", 100)
    monkeypatch.setattr(type(memory), "cat_file", refuse)
    assert frame_numbers(read_frames("memory://clips/large.mp4", [33, 5])) == [33, 5]


def test_a_path_that_looks_like_a_protocol_or_an_option_is_a_file(video, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("pipe:0", "concat:a|b.mp4", "-i.mp4", "%03d.mp4", "späte Übung.mp4"):
        Path(name).write_bytes(video.read_bytes())
        assert frame_numbers(read_frames(name, [21])) == [21]


def test_a_frame_folder_is_read_like_a_video(folder):
    info = probe(folder)
    assert (info.num_frames, info.width, info.height) == (12, 160, 96)
    assert info.codec == "jpeg-folder"
    assert frame_numbers(read_frames(folder, [11, 0, 5, 5])) == [11, 0, 5, 5]
    assert read_clip(folder, [3], (0, 0, 96, 96), 64).shape == (1, 64, 64, 3)
    with pytest.raises(VideoError, match="bad_index"):
        read_frames(folder, [12])


def test_a_jpeg_frame_shows_what_was_written(folder):
    difference = read_frames(folder, [4])[0].astype(int) - numbered_frame(4)
    assert np.abs(difference).mean() < 6


def test_frames_of_a_folder_are_ordered_by_number_not_by_letter(tmp_path):
    for k in (1, 2, 10, 9):
        write_jpeg(tmp_path / f"frame{k}.jpg", numbered_frame(k))
    assert frame_numbers(read_frames(tmp_path, range(4))) == [1, 2, 9, 10]


def test_importing_the_package_imports_no_decoder_and_no_torch():
    code = (
        "import sys, stm.data.decode\n"
        "print([name for name in ('torch', 'av', 'decord', 'ray') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
