"""Peers run in processes of another environment; one that is missing, ends, or answers with other frames is told."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from pipelines import cli
from stm.bench import decode, peers
from stm.data.stream.transforms import centre_box
from stm.errors import UserError
from tests.videos import write_video

STAND_IN = """
import os, types
import torch
from stm.data.decode import read_frames

class VideoDecoder:
    def __init__(self, path, num_ffmpeg_threads, seek_mode):
        self.path, self.mode = path, seek_mode
        if "fatal" in path:
            os._exit(7)

    def get_frames_at(self, indices):
        late = [i + 3 * (self.mode == "approximate") for i in indices]
        frames = [torch.from_numpy(frame.copy()) for frame in read_frames(self.path, late)]
        return types.SimpleNamespace(data=torch.stack(frames).permute(0, 3, 1, 2))
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> str:
    """An interpreter whose torchcodec reads exactly, or three frames late where it is asked to approximate."""
    folder = tmp_path_factory.mktemp("peers")
    (folder / "torchcodec").mkdir()
    (folder / "torchcodec" / "__init__.py").touch()
    (folder / "torchcodec" / "decoders.py").write_text(STAND_IN)
    (folder / "torchcodec-1.2.dist-info").mkdir()
    (folder / "torchcodec-1.2.dist-info" / "METADATA").write_text(
        "Name: torchcodec\nVersion: 1.2\n"
    )
    path = folder / "python"
    repository = Path(decode.__file__).parents[2]
    path.write_text(f'#!/bin/sh\nPYTHONPATH="{folder}:{repository}" exec "{sys.executable}" "$@"\n')
    path.chmod(0o755)
    return str(path)


@pytest.mark.long
def test_wrong_frames_of_a_peer_are_counted_and_its_crash_is_one_file(python, tmp_path):
    paths = [
        str(write_video(tmp_path / f"{name}.mp4", num_frames=40, options={"g": "12"}))
        for name in ("whole", "fatal")
    ]
    found = decode.measure(paths, num_frames=4, size=64, repetitions=2, peers=python, seed=3)
    assert found["num_videos"] == 1
    assert found["wrong"]["packets"] == [0, 16]
    assert found["wrong"]["torchcodec exact"] == [0, 8]
    wrong, of = found["wrong"]["torchcodec approximate"]
    assert of == 8
    assert wrong >= 6  # those at the end may not be had
    assert list(found["wrong_in"]) == [f"{paths[0]} by torchcodec approximate"]
    assert found["failed"]["torchcodec exact"] == 1
    assert found["failed"]["packets"] == 0
    assert "status 7" in found["unreadable"][f"{paths[1]} by torchcodec exact"]
    assert found["peers"] == dict.fromkeys(peers.DECODERS[:2], "torchcodec 1.2")


@pytest.mark.long
def test_a_loader_of_a_peer_hands_over_every_clip(python, tmp_path):
    path = str(write_video(tmp_path / "a.mp4", num_frames=20))
    samples = [(path, [0, 5, 10])] * 5
    sizes = peers.through_loader(
        python, "torchcodec exact", samples, size=32, batch_size=2, cores=1
    )
    assert list(sizes) == [2, 2, 1]
    lost = [(str(tmp_path / "fatal.mp4"), [0])]
    with pytest.raises(UserError, match="DataLoader worker"):
        list(peers.through_loader(python, "torchcodec exact", lost, size=32, batch_size=1, cores=1))


def test_an_environment_without_peers_is_refused(tmp_path, capfd):
    write_video(tmp_path / "a.mp4", num_frames=20)
    words = ["bench", "decode", "--videos", str(tmp_path), "--peers"]
    assert cli.main([*words, sys.executable]) == 2
    said = capfd.readouterr().err
    assert "none of torchcodec exact, torchcodec approximate, mmaction2 is available there" in said
    assert "No module named 'mmaction'" in said
    assert cli.main([*words, str(tmp_path / "python")]) == 2
    assert "cannot be started (No such file or directory)" in capfd.readouterr().err


def test_a_frame_is_wrong_where_another_one_is_nearer(tmp_path):
    path = str(write_video(tmp_path / "a.mp4", num_frames=24))
    seen = decode.every_frame(path, 24, centre_box(160, 96, 1.0), 48)
    assert len(seen) == 24
    asked = [0, 5, 10]
    assert not decode.are_wrong(seen[asked] + 0.4, asked, seen).any()  # another conversion
    assert decode.are_wrong(seen[[1, 5, 12]], asked, seen).tolist() == [True, False, True]
    still = np.repeat(seen[:1], 24, axis=0)
    assert not decode.are_wrong(still[[3, 4]], [8, 9], still).any()
