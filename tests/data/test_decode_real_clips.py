"""The packet plan on clips as data sets have them: XviD files, H.264 from the web; and on real ones."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from stm.data.decode import probe, read_frames
from tests.videos import write_frame_folder, write_video

MADE = {
    "xvid.avi": {"codec": "mpeg4", "options": {"g": "30", "bf": "2"}, "width": 320, "height": 240},
    "web.mp4": {"options": {"g": "40", "bf": "3"}, "width": 398, "height": 224, "fps": 30},
    "short.mp4": {"num_frames": 5, "fps": 15},
}


@pytest.fixture
def clips(made_or_real: Path | None, tmp_path: Path) -> list[Path]:
    if made_or_real is None:
        recipes = [(name, {"num_frames": 90, **recipe}) for name, recipe in MADE.items()]
        return [write_video(tmp_path / name, **recipe) for name, recipe in recipes]  # type: ignore[arg-type]
    return sorted(p for p in (made_or_real / "mini5").rglob("*") if p.suffix in (".avi", ".mp4"))


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


def test_frames_of_every_clip_equal_decoding_in_sequence(clips):
    assert clips
    for path in clips:
        check(path)


def test_frame_folders_are_read(made_or_real, tmp_path):
    if made_or_real is None:
        folders = [write_frame_folder(tmp_path / "2003", num_frames=7)]
    else:
        folders = sorted(p for p in (made_or_real / "frames-something-v2").iterdir() if p.is_dir())
    assert folders
    for folder in folders:
        info = probe(folder)
        assert info.num_frames == len(list(folder.glob("*.jpg")))
        frames = read_frames(folder, [0, info.num_frames - 1])
        assert frames.shape == (2, info.height, info.width, 3)
        assert frames.std() > 10
