"""Which images of a folder are the video's frames: told by name, and refused where it is unclear."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stm.data.decode.frame_names import frame_series, pick_series


def numbered(pattern: str, count: int, first: int = 1) -> list[str]:
    return [pattern % k for k in range(first, first + count)]


def shuffled(*parts: list[str]) -> list[str]:
    names = [name for part in parts for name in part]
    random.Random(0).shuffle(names)
    return names


@pytest.mark.parametrize(
    ("rgb", "companions"),
    [
        ("img_%05d.jpg", ["flow_x_%05d.jpg", "flow_y_%05d.jpg"]),
        ("image_%05d.jpg", ["flow_x_%05d.jpg", "flow_y_%05d.jpg"]),
        ("frame%06d.jpg", ["x_%05d.jpg", "y_%05d.jpg"]),
        ("img_%05d.jpg", ["img_%05d_x.jpg", "img_%05d_y.jpg"]),
        ("%d.jpg", ["%d_mask.png", "%d_depth.png"]),
        ("rgb_%04d.png", ["depth_%04d.png"]),
        ("clip.rgb.%04d.png", ["clip.flowX.%04d.png"]),
        ("mask_dance_%04d.png", ["mask_dance_depth_%04d.png"]),
    ],
)
def test_the_frames_are_told_from_flow_and_masks_beside_them(
    rgb: str, companions: list[str]
) -> None:
    for count in (12, 1):
        frames = numbered(rgb, count)
        names = shuffled(frames, *(numbered(pattern, max(1, count - 1)) for pattern in companions))
        assert pick_series(names) == frames
        assert len(frame_series(names)) == 1 + len(companions)


@pytest.mark.parametrize(
    "names",
    [
        numbered("%05d.jpg", 12),
        numbered("%d.jpg", 12, first=95),
        numbered("flow_x_%05d.jpg", 3),
        numbered("v_Run_g01_c02_%04d.png", 12),
        numbered("img_%05d_640x480.jpg", 1),
        ["0001.jpg", "0002.PNG", "0003.jpeg", "0004.jpg"],
        ["IMG_01.JPG", "img_02.jpg", "Img_03.jpg"],
        ["scene_a.jpg", "scene_b.jpg", "scene_c.png"],
        ["a1.jpg", "b2.jpg", "c3.jpg"],
        ["beach.jpg", "edge.jpg", "pose.jpg"],
        ["t_9.960.jpg", "t_10.000.jpg", "t_10.040.jpg"],
        ["shot1_0001.jpg", "shot1_0002.jpg", "shot2_0003.jpg", "shot10_0004.jpg"],
        ["only.jpg"],
        [],
    ],
)
def test_one_series_is_read_in_the_order_of_its_numbers(names: list[str]) -> None:
    assert pick_series(shuffled(names)) == names


def test_files_that_are_no_frames_are_left_out() -> None:
    frames = numbered("img_%05d.jpg", 3)
    rest = ["Thumbs.db", "DONE", ".img_00009.jpg", "._img_00001.jpg", "info.txt", "clip.gif"]
    assert pick_series([*rest, *frames, "cover.jpg", "img_00002.jpg"]) == frames


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        ([*numbered("flow_x_%d.jpg", 3), *numbered("flow_y_%d.jpg", 3)], "flow_x_*.jpg (3)"),
        ([*numbered("cam1_%d.jpg", 3), *numbered("cam2_%d.jpg", 2)], "cam2_*.jpg (2)"),
        ([*numbered("%d.jpg", 3), *numbered("%d.png", 3)], "*.png (3)"),
        ([*numbered("%d.jpg", 3), *numbered("%05d.jpg", 3)], "#####.jpg (3)"),
        ([*numbered("img_%d.jpg", 3), *numbered("rgb_%d.jpg", 3)], "rgb_*.jpg (3)"),
        ([*numbered("%d.jpg", 3), "scene.jpg"], "scene.jpg (1)"),
        ([*numbered("a_%d.jpg", 3), *numbered("b_%d.jpg", 3, first=4)], "b_*.jpg (3)"),
        (["t_1.9.jpg", "t_1.10.jpg"], "order of t_1.9.jpg and t_1.10.jpg"),
    ],
)
def test_what_is_not_clear_is_refused_with_the_series_named(names: list[str], shown: str) -> None:
    with pytest.raises(ValueError, match="is not clear") as error:
        pick_series(shuffled(names))
    assert shown in str(error.value)


@given(st.lists(st.text("abA01._-*", min_size=1, max_size=6).map(lambda s: s + ".jpg")))
def test_every_image_is_in_one_series(names: list[str]) -> None:
    series = frame_series(names)
    found = [name for listed in series.values() for name in listed]
    assert sorted(found) == sorted({name for name in names if not name.startswith(".")})
