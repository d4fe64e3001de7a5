"""One video to one clip, from its sample seed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stm.config import DataConfig
from stm.data.decode import VideoError
from stm.data.stream.clips import ClipSpec, load_views
from stm.data.synthetic import encode


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """24 frames, 96 x 64: the left half dark, the right half bright, brightness rising with time."""
    path = tmp_path_factory.mktemp("clips") / "halves.mp4"
    frames = np.zeros((24, 64, 96, 3), dtype=np.uint8)
    frames[:, :, 48:] = 200
    frames += (np.arange(24, dtype=np.uint8) * 2)[:, None, None, None]
    encode(path, frames)
    return str(path)


def load(video, spec, seed=1, label=3):
    return load_views(video, 24, 96, 64, label, seed, spec)


def training(**changes):
    return replace(ClipSpec.training(DataConfig(size=32), flip=True, flip_map=None), **changes)


def test_the_same_seed_gives_the_same_clip_and_another_seed_another(video):
    (a, _), (b, _), (c, _) = (load(video, training(), seed) for seed in (1, 1, 2))
    assert a.shape == (1, 8, 32, 32, 3)
    assert a.dtype == np.uint8
    assert (a == b).all()
    assert (a != c).any()


def test_frames_are_in_order_of_time(video):
    clips, _ = load(video, ClipSpec(num_segments=8, size=32))
    brightness = clips[0].mean(axis=(1, 2, 3))
    assert (np.diff(brightness) > 0).all()


def test_a_mirrored_clip_keeps_its_label_where_mirroring_is_safe(video):
    seen = {
        (load(video, training(scales=(1.0,)), seed)[0][0, 0, :, 0].mean() > 100)
        for seed in range(30)
    }
    labels = {load(video, training(), seed)[1] for seed in range(30)}
    assert seen == {True, False}
    assert labels == {3}


def test_a_mirrored_clip_takes_the_label_that_the_flip_map_gives(video):
    spec = training(flip=False, flip_map={3: 4}, scales=(1.0,))
    plain = training(flip=False, flip_map=None, scales=(1.0,))
    labels = set()
    for seed in range(30):
        (clips, label), (unmirrored, _) = load(video, spec, seed), load(video, plain, seed)
        assert (clips == (unmirrored[:, :, :, ::-1] if label == 4 else unmirrored)).all()
        labels.add(label)
    assert labels == {3, 4}


def test_a_class_that_the_flip_map_leaves_out_is_never_mirrored(video):
    spec = training(flip=False, flip_map={5: 6})
    assert {load(video, spec, seed)[1] for seed in range(30)} == {3}


def test_flips_follow_the_config():
    on_safe_data = {"flip": True, "flip_map": None}
    on_sided_data = {"flip": False, "flip_map": {0: 1, 1: 0}}
    assert ClipSpec.training(DataConfig(flip="auto"), **on_safe_data).flip
    assert not ClipSpec.training(DataConfig(flip="never"), **on_safe_data).flip
    assert ClipSpec.training(DataConfig(flip="auto"), **on_sided_data).flip_map is None
    assert ClipSpec.training(DataConfig(flip="swap"), **on_sided_data).flip_map == {0: 1, 1: 0}


def test_the_accurate_protocol_takes_three_crops_of_the_same_frames(video):
    clips, _ = load(video, ClipSpec(num_segments=8, size=32, random_frames=True, num_crops=3))
    assert clips.shape == (3, 8, 32, 32, 3)
    assert (
        clips[0].mean() < clips[1].mean() < clips[2].mean()
    )  # from the dark left to the bright right


def test_a_video_that_is_gone_is_an_error_that_names_it():
    with pytest.raises(VideoError) as caught:
        load("no/such/video.mp4", training())
    assert caught.value.reason == "not_found"
