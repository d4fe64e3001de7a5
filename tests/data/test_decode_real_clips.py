"""The packet plan on real clips: UCF101's XviD files and H.264 from the web."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np

from stm.data.decode import probe, read_frames


def clips(real_data: Path) -> list[Path]:
    return sorted(p for p in (real_data / "mini5").rglob("*") if p.suffix in (".avi", ".mp4"))


def check(path: Path) -> None:
    """Probe and packet plan against everything decoded in sequence."""
    with av.open(str(path)) as container:
        expected = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
    assert probe(path).num_frames == len(expected), path
    rng = np.random.default_rng(len(expected))
    eight = (np.arange(8) + 0.5) * len(expected) / 8
    for indices in (
        eight.astype(int),
        rng.integers(0, len(expected), 8),
        np.array([len(expected) - 1]),
        np.arange(0, len(expected), 5),
    ):
        assert np.array_equal(read_frames(path, indices, "packets"), expected[indices]), path


def test_frames_of_every_real_clip_equal_decoding_in_sequence(real_data):
    paths = clips(real_data)
    assert paths
    for path in paths:
        check(path)


def test_real_frame_folders_are_read(real_data):
    folders = sorted(p for p in (real_data / "frames-something-v2").iterdir() if p.is_dir())
    for folder in folders:
        info = probe(folder)
        assert info.num_frames == len(list(folder.glob("*.jpg")))
        frames = read_frames(folder, [0, info.num_frames - 1])
        assert frames.shape == (2, info.height, info.width, 3)
        assert frames.std() > 10
