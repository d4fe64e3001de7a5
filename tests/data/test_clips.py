"""One video to one clip, from its sample seed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stm.config import DataConfig
from stm.data.decode import VideoError, probe, read_views
from stm.data.stream.clips import ClipSpec, load_views
from stm.data.stream.transforms import centre_box
from stm.data.synthetic import encode
from tests.videos import write_frame_folder, write_video


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
    clips, _ = load(video, ClipSpec(num_segments=8, size=32, num_samplings=10, num_crops=3))
    assert clips.shape == (3, 8, 32, 32, 3)
    assert (
        clips[0].mean() < clips[1].mean() < clips[2].mean()
    )  # from the dark left to the bright right


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    """24 grey frames, each 8 brighter than the one before."""
    path = tmp_path_factory.mktemp("clips") / "steps.mp4"
    levels = 20 + 8 * np.arange(24, dtype=np.uint8)
    encode(path, np.broadcast_to(levels[:, None, None, None], (24, 64, 96, 3)).copy())
    return str(path)


def frames_shown(clips):
    """Numbers of the frames of ``steps`` in a clip of them."""
    return np.rint((clips[0].mean(axis=(1, 2, 3)) - 20) / 8).astype(int).tolist()


def windows(**changes):
    return ClipSpec.one_clip(DataConfig(size=32, num_segments=4, **changes))


def test_a_dense_clip_shows_its_window(steps):
    clips, _ = load(steps, windows(sampling="dense", frame_stride=3))
    assert frames_shown(clips) == [7, 10, 13, 16]
    looped, _ = load(steps, windows(sampling="dense", frame_stride=7))
    assert frames_shown(looped) == [1, 8, 15, 22]
    looped, _ = load(steps, windows(sampling="dense", frame_stride=10))
    assert frames_shown(looped) == [0, 10, 20, 6]


def test_training_draws_where_the_window_lies(steps):
    spec = ClipSpec.training(
        DataConfig(size=32, num_segments=4, sampling="dense", frame_stride=6, scales=[1.0]),
        flip=False,
        flip_map=None,
    )
    starts = set()
    for seed in range(40):
        shown = frames_shown(load(steps, spec, seed)[0])
        assert np.diff(shown).tolist() == [6, 6, 6]
        starts.add(shown[0])
    assert starts == set(range(6))


def test_the_accurate_protocol_spreads_windows_evenly(steps):
    spec = replace(windows(sampling="dense", frame_stride=5), num_samplings=3)
    size = (24, 96, 64)
    shown = [frames_shown(load_views(steps, *size, 0, 1, spec, 0.0, k)[0]) for k in range(3)]
    assert shown == [[1, 6, 11, 16], [4, 9, 14, 19], [7, 12, 17, 22]]


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_a_window_of_time_goes_by_the_times_that_the_file_states(tmp_path, suffix):
    """12 frames in the first half second, then 12 in 12 s: not 24 of one rate."""
    times_ms = [*range(0, 480, 40), *range(1000, 13_000, 1000)]
    path = write_video(tmp_path / f"a.{suffix}", num_frames=24, times_ms=times_ms, codec="libx264")
    info = probe(path)
    spec = replace(windows(sampling="seconds", window_s=8.0), num_samplings=2, size=96)

    def shown(number, decoder="auto"):
        drawn = replace(spec, decoder=decoder)
        clips, _ = load_views(str(path), 24, info.width, info.height, 0, 0, drawn, info.fps, number)
        return clips[0]

    # The video lasts 12.52 s: windows begin at a quarter and at three quarters of what is left of it.
    for number, expected in ((0, [13, 15, 17, 19]), (1, [15, 17, 19, 21])):
        found = shown(number)
        whole = read_views(str(path), expected, [centre_box(info.width, info.height)], 96)[0]
        assert (found == whole).all()
        assert (found == shown(number, "sequential")).all()


def test_frames_without_times_are_shown_at_the_rate_that_the_manifest_states(tmp_path):
    folder = write_frame_folder(tmp_path / "frames", num_frames=30)
    spec = windows(sampling="seconds", window_s=1.0)

    def load(fps):
        return load_views(str(folder), 30, 160, 96, 0, 0, spec, fps)[0]

    def expected(*indices):
        return read_views(str(folder), indices, [centre_box(160, 96)], 32)

    assert (load(8.0) == expected(12, 14, 16, 18)).all()
    assert (load(0.0) == expected(10, 13, 16, 19)).all()  # 12 frames a second
    assert (load(30.0) == expected(3, 11, 18, 26)).all()


def test_a_video_that_is_gone_is_an_error_that_names_it():
    with pytest.raises(VideoError) as caught:
        load("no/such/video.mp4", training())
    assert caught.value.reason == "not_found"
