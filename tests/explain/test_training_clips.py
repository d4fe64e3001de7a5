"""`stm explain --augment`: twelve training clips of a video, in one picture."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from pipelines import cli
from tests.videos import write_video

SETTINGS = ["--data.size", "32", "--data.num_segments", "4", "--data.color_jitter", "0.4"]


@pytest.fixture
def video(tmp_path):
    return str(write_video(tmp_path / "clip.mp4", num_frames=20))


def drawn(capfd, *arguments):
    assert cli.main(["explain", "--augment", *arguments, "--json"]) == 0
    return json.loads(capfd.readouterr().out)


def refused(capfd, *arguments):
    assert cli.main(["explain", *arguments]) == 2
    return capfd.readouterr().err


def test_twelve_clips_are_drawn_and_named(video, tmp_path, capfd):
    more = ["--data.reverse", "auto", "--data.crop", "resized", "--output", str(tmp_path / "seen")]
    result = drawn(capfd, video, *SETTINGS, *more)
    assert result["picture"] == str(tmp_path / "seen" / "clip-augment.png")
    assert Image.open(result["picture"]).height > 1000
    words = [each["words"] for each in result["draws"]]
    assert len(set(words)) == 12
    assert all("brightness" in said for said in words)
    for word in ("mirrored", "backwards"):
        assert 1 <= sum(word in said for said in words) <= 11
    assert drawn(capfd, video, *SETTINGS, *more)["draws"] == result["draws"]
    assert drawn(capfd, video, *SETTINGS, *more, "--seed", "1")["draws"] != result["draws"]


def test_the_settings_and_classes_of_a_checkpoint_are_drawn(
    video, demo_checkpoints, tmp_path, capfd
):
    """The demo's classes are left and right among others, so nothing is mirrored."""
    command = [video, "--checkpoint", demo_checkpoints["stm"], "--output", str(tmp_path)]
    result = drawn(capfd, *command, "--class", "left")
    assert {each["label"] for each in result["draws"]} == {result["draws"][0]["label"]}
    assert not any("mirrored" in each["words"] for each in result["draws"])
    assert "not one of the 8 classes" in refused(capfd, "--augment", *command, "--class", "jump")
    said = refused(capfd, "--augment", *command, *SETTINGS)
    assert "--augment uses the settings of --checkpoint or those given here" in said


def test_what_cannot_be_drawn_is_one_message(video, tmp_path, capfd):
    (tmp_path / "no.mp4").write_text("not a video")
    said = refused(capfd, "--augment", str(tmp_path / "no.mp4"), "--output", str(tmp_path))
    assert "no.mp4: not_a_video" in said
    assert "--augment accepts one video" in refused(capfd, "--augment", video, video)
    assert "--checkpoint is not set" in refused(capfd, video)
    said = refused(capfd, video, "--checkpoint", "runs/first", "--data.hue", "0.1")
    assert "settings and --config go only with --augment" in said
