"""`stm explain`: pictures and films of videos, and one message for what cannot be explained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import av
import numpy as np
import pytest

from pipelines import cli
from stm.data.decode.resize import resize_clip
from stm.data.shards import write_shard
from stm.errors import UserError
from stm.evaluate.predict import predict
from stm.explain import film
from stm.explain.backwards import draw_backwards
from stm.explain.colours import Scale
from stm.explain.explain import Network, clip_rows, explain, titles
from tests.explain.conftest import NUM_FRAMES
from tests.videos import write_frame_folder, write_video


def decoded(path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def stm(capfd, *arguments):
    """(exit status, stdout, stderr) of a command run in this process."""
    try:
        status = cli.main(["explain", *map(str, arguments)])
    except SystemExit as exit_:
        status = exit_.code
    out, err = capfd.readouterr()
    return status, out, err


@pytest.mark.long
def test_a_video_becomes_a_picture_and_a_film_of_all_its_frames(
    capfd, demo_videos, demo_checkpoints, tmp_path
):
    video = demo_videos / "videos" / "val" / "left-0000.mp4"
    status, out, _ = stm(
        capfd, video, "--checkpoint", demo_checkpoints["stm"], "--output", tmp_path / "out",
        "--block", "layer1.0", "layer3.1", "--class", "up", "--json",
    )  # fmt: skip
    assert status == 0
    (row,) = json.loads(out)["videos"]
    assert row["class"] == "up"
    expected = predict(demo_checkpoints["stm"], [str(video)])["videos"][0]["top5"]
    assert [answer["class"] for answer in row["top5"]] == [answer["class"] for answer in expected]
    assert (tmp_path / "out" / "left-0000.png").read_bytes().startswith(b"\x89PNG")
    assert row["film"] == str(tmp_path / "out" / "left-0000.mp4")
    assert len(decoded(row["film"])) == NUM_FRAMES
    with av.open(row["film"]) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        assert container.streams.video[0].average_rate == 12


def test_frame_k_of_a_film_shows_frame_k_and_its_map(tmp_path):
    generator = np.random.default_rng(0)
    frames = generator.integers(0, 255, (7, 4, 4, 3), dtype=np.uint8)
    maps = np.zeros((7, 7, 1), dtype=np.float32)
    maps[np.arange(7), np.arange(7)] = 1  # one bright cell, further down in each frame
    layer = film.Layer("map", "layer1.0", maps, Scale.of_magnitudes(maps))
    evidence = film.Layer("", "evidence", maps, Scale.of_evidence(maps))
    path = film.write_film(
        tmp_path / "f.mp4", frames, [layer], evidence, fps=5.0, title="title", subtitle="below"
    )
    pictures = decoded(path)
    assert len(pictures) == 7
    side, large = film._PANEL, resize_clip(frames, film._PANEL).astype(float)
    for k, picture in enumerate(pictures):
        top, left = film._corner(0, 0)
        shown = picture[top : top + side, left : left + side]
        assert np.abs(large - shown).mean((1, 2, 3)).argmin() == k
        top, left = film._corner(1, 1)
        bright = picture[top : top + side, left : left + side].mean((1, 2)).reshape(7, -1).mean(1)
        assert bright.argmax() == k


@pytest.mark.parametrize(
    ("variant", "rows"),
    [
        (
            "stm",
            ["input frames", "before the block", "CSTM output", "CMM output", "class evidence"],
        ),
        ("tsn", ["input frames", "before the block", "3×3 output", "class evidence"]),
    ],
)
def test_a_picture_has_the_rows_that_the_network_has(demo_checkpoints, variant, rows):
    network = Network(demo_checkpoints[variant])
    clip = np.random.default_rng(0).integers(0, 255, (4, 48, 48, 3), dtype=np.uint8)
    seen = network.look(clip[None], ["layer1.0"])
    drawn = clip_rows(clip, seen, 0, "left")
    assert [row.name for row in drawn] == rows
    assert all(len(row.pictures) == 4 for row in drawn)


def test_a_row_has_one_scale_from_its_least_to_its_greatest_value():
    values = np.array([[[1.0, 2.0]], [[3.0, 5.0]]])
    scale = Scale.of_magnitudes(values)
    assert (scale.low, scale.high) == (1, 5)
    np.testing.assert_allclose(scale.unit(values).ravel(), [0, 0.25, 0.5, 1])
    evidence = Scale.of_evidence(np.array([-1.0, 4.0]))
    assert (evidence.low, evidence.high) == (-4, 4)
    assert (evidence.paint(np.zeros(1)) > 240).all()  # neither for nor against is white


@pytest.mark.long
def test_videos_of_the_same_name_get_pictures_of_their_own(demo_videos, demo_checkpoints, tmp_path):
    first = demo_videos / "videos" / "val" / "up-0000.mp4"
    second = tmp_path / "up-0000.mp4"
    shutil.copy(first, second)
    result = explain(
        demo_checkpoints["tsn"], [str(first), str(second)], output=str(tmp_path / "out")
    )
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["up-0000-2.mp4", "up-0000-2.png", "up-0000.mp4", "up-0000.png"]
    assert result["videos"][1]["picture"].endswith("up-0000-2.png")


@pytest.mark.long
def test_a_folder_of_images_is_explained_as_one_video(demo_checkpoints, tmp_path):
    write_frame_folder(tmp_path / "set" / "frames", num_frames=9)
    write_video(tmp_path / "set" / "clip.mp4", num_frames=9)
    images = [path.read_bytes() for path in sorted((tmp_path / "set" / "frames").iterdir())]
    write_shard(tmp_path / "s.parquet", [("frames", images)])
    sources = [str(tmp_path / "set"), str(tmp_path / "s.parquet#0")]
    result = explain(demo_checkpoints["stm"], sources, output=str(tmp_path / "out"))
    names = [Path(video["picture"]).stem for video in result["videos"]]
    assert names == ["clip", "frames", "s-0"]
    assert result["videos"][1]["top5"] == result["videos"][2]["top5"]


@pytest.mark.long
def test_a_broken_video_among_others_is_named_and_the_rest_are_explained(
    demo_videos, demo_checkpoints, tmp_path
):
    broken = tmp_path / "broken.mp4"
    broken.write_text("not a video")
    good = str(demo_videos / "videos" / "val" / "up-0000.mp4")
    result = explain(demo_checkpoints["tsn"], [str(broken), good], output=str(tmp_path / "out"))
    assert (result["num_videos"], result["unreadable"]) == (2, 1)
    assert result["videos"][0]["error"].startswith("not_a_video")
    assert "picture" in result["videos"][1]


def test_a_clip_and_its_reversal_are_drawn_and_only_stm_changes_its_mind(
    capfd, demo_videos, demo_checkpoints, tmp_path
):
    status, out, _ = stm(
        capfd, demo_videos / "videos" / "val" / "left-0000.mp4", "--json",
        "--checkpoint", demo_checkpoints["stm"], "--compare", demo_checkpoints["tsn"],
        "--backwards", tmp_path / "motion.png",
    )  # fmt: skip
    assert status == 0
    result = json.loads(out)
    assert (tmp_path / "motion.png").read_bytes().startswith(b"\x89PNG")
    assert result["same_before"] is True
    ways = (result["forwards"], result["backwards"])
    stm_there, stm_back = ([answer["score"] for answer in way["STM"]] for way in ways)
    tsn_there, tsn_back = ([answer["score"] for answer in way["TSN"]] for way in ways)
    assert tsn_there == pytest.approx(tsn_back, abs=1e-5)
    assert stm_there != pytest.approx(stm_back, abs=1e-3)


def test_behind_the_first_block_the_reversal_has_features_of_its_own(
    demo_videos, demo_checkpoints, tmp_path
):
    video = str(demo_videos / "videos" / "val" / "left-0000.mp4")
    found = draw_backwards(
        demo_checkpoints["stm"], video, str(tmp_path / "m.png"), block="layer2.0"
    )
    assert found["same_before"] is False


def test_two_networks_of_one_variant_keep_names_of_their_own(demo_checkpoints):
    stm, tsn = (Network(demo_checkpoints[variant]) for variant in ("stm", "tsn"))
    assert titles([stm, tsn, stm]) == ["STM 1", "TSN", "STM 2"]


@pytest.mark.long
def test_a_picture_or_film_that_cannot_be_written_is_named(demo_videos, demo_checkpoints, tmp_path):
    video = str(demo_videos / "videos" / "val" / "up-0000.mp4")
    for blocked in ("up-0000.png", "up-0000.mp4"):
        folder = tmp_path / blocked
        (folder / blocked).mkdir(parents=True)  # a folder where the file should be
        with pytest.raises(UserError, match=f"{blocked}.*directory"):
            explain(demo_checkpoints["tsn"], [video], output=str(folder))


BAD_INPUT = {
    "no video": ([], "no video is named"),
    "a missing video": (["gone.mp4"], "gone.mp4: no such file"),
    "a file that is no video": (["{broken}"], "not_a_video"),
    "a block that is not there": (
        ["{video}", "--block", "layer7.0"],
        "the blocks are layer1.0, layer1.1",
    ),
    "too many blocks": (
        ["{video}", "--block", "layer1.0", "layer1.1", "layer2.0", "layer2.1", "layer3.0"],
        "room for only 4",
    ),
    "a class that is not there": (["{video}", "--class", "lefd"], "did you mean 'left'?"),
    "a folder that cannot be made": (["{video}", "--output", "{broken}"], "--output"),
    "a comparison with nothing to compare": (
        ["{video}", "--compare", "{tsn}"],
        "--compare goes only with",
    ),
    "CMM of a network without": (
        ["{video}", "--backwards", "{folder}/m.png", "--checkpoint", "{tsn}"],
        "this block has no CMM",
    ),
    "a picture of another kind": (["{video}", "--backwards", "m.gif"], "end with .png"),
    "a check of videos and a manifest": (
        ["{video}", "--motion_check", "{manifest}"],
        "leave out other videos",
    ),
    "a manifest that is missing": (["--motion_check", "gone.parquet"], "no such file"),
    "another seed than the demo's": (
        ["--motion_check", "{manifest}", "--seed", "5"],
        "set --seed to",
    ),
}


@pytest.mark.parametrize(("arguments", "message"), BAD_INPUT.values(), ids=BAD_INPUT)
def test_bad_input_ends_with_one_message_and_status_2(
    capfd, demo_videos, demo_checkpoints, tmp_path, arguments, message
):
    broken = tmp_path / "broken.mp4"
    broken.write_text("not a video")
    places = {
        "video": demo_videos / "videos" / "val" / "left-0000.mp4",
        "manifest": demo_videos / "val.parquet",
        "broken": broken,
        "folder": tmp_path,
        "tsn": demo_checkpoints["tsn"],
    }
    given = [argument.format(**places) for argument in arguments]
    if "--output" not in given:
        given += ["--output", str(tmp_path / "out")]
    status, out, err = stm(capfd, "--checkpoint", demo_checkpoints["stm"], *given)
    assert (status, out) == (2, "")
    assert message in err
    assert "Traceback" not in err
