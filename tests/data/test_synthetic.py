"""The demo's videos: only time tells the classes of a pair apart."""

from __future__ import annotations

import csv

import numpy as np

from stm.data.decode import probe, read_frames
from stm.data.synthetic import CLASSES, draw_video, write_videos


def test_a_test_video_and_its_partner_are_each_other_played_backwards(tmp_path):
    write_videos(tmp_path, num_train=8, num_test=8, size=48, num_frames=12)
    for first, second in zip(CLASSES[::2], CLASSES[1::2], strict=True):
        a, b = (
            read_frames(str(tmp_path / "videos" / "val" / f"{name}-0000.mp4"), range(12)).astype(
                int
            )
            for name in (first, second)
        )
        assert abs(a - b[::-1]).mean() < 3  # what is left is compression
        assert abs(a - b).mean() > 3


def test_the_annotations_list_every_file_with_its_split(tmp_path):
    annotations = write_videos(tmp_path, num_train=17, num_test=8, size=48, num_frames=6)
    rows = list(csv.DictReader(annotations.open()))
    assert len(rows) == 24 + 8
    assert {row["label"] for row in rows if row["split"] == "val"} == set(CLASSES)
    assert all(probe(str(tmp_path / row["path"])).num_frames == 6 for row in rows)


def test_the_motion_is_what_the_class_says():
    def centre_of_mass(frame):
        mass = frame.astype(float).sum(2) ** 4
        return (mass.sum(0) @ np.arange(mass.shape[1])) / mass.sum()

    frames = draw_video(0, np.random.default_rng(0), size=64, num_frames=10)  # CLASSES[0] is "left"
    assert centre_of_mass(frames[-1]) < centre_of_mass(frames[0]) - 5


def test_the_same_seed_draws_the_same_video():
    a, b = (draw_video(3, np.random.default_rng(7), size=32, num_frames=4) for _ in range(2))
    assert (a == b).all()


def test_a_negative_seed_draws_videos_of_its_own(tmp_path):
    for seed in (-3, 3):
        write_videos(
            tmp_path / str(seed), num_train=1, num_test=1, size=32, num_frames=4, seed=seed
        )
    one, other = (sorted((tmp_path / seed).rglob("*.mp4")) for seed in ("-3", "3"))
    assert len(one) == len(other) == 16
    assert any(a.read_bytes() != b.read_bytes() for a, b in zip(one, other, strict=True))
