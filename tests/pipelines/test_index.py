"""`stm index` from the command line: what it writes, prints and refuses."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pipelines import cli
from stm.data.manifest import Manifest
from tests.videos import write_video


def main(words: list[str]) -> int:
    return cli.main(["index", *words])


def make_dataset(root: Path) -> Path:
    """Two classes of UCF101's layout, four videos and one that is no video."""
    (root / "classInd.txt").write_text("1 Run\n2 Jump\n")
    (root / "trainlist01.txt").write_text(
        "Run/v_Run_g01_c01.avi 1\nRun/v_Run_g02_c01.avi 1\nJump/v_Jump_g01_c01.avi 2\n"
    )
    (root / "testlist01.txt").write_text("Run/v_Run_g03_c01.avi\nJump/v_Jump_g03_c01.avi\n")
    for name in ("Run/v_Run_g01_c01", "Run/v_Run_g03_c01", "Jump/v_Jump_g01_c01"):
        path = root / f"{name}.avi"
        path.parent.mkdir(exist_ok=True)
        write_video(path, num_frames=20, codec="mpeg4")
    (root / "Run" / "v_Run_g02_c01.avi").write_text("no video")
    return root


@pytest.mark.ray
def test_index_writes_manifests_and_tells_of_every_bad_file(
    ray_cluster: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root, output = make_dataset(tmp_path), tmp_path / "out"
    command = ["--format", "ucf101", "--root", str(root), "--output", str(output)]
    assert main([*command, "--json"]) == 0
    printed = capfd.readouterr()
    result = json.loads(printed.out)

    train, val = (Manifest.read(result["manifests"][name]) for name in ("train", "val"))
    assert train.classes == ("Run", "Jump")
    assert train.table["status"].to_pylist() == ["ok", "not_a_video", "ok"]
    assert val.table["status"].to_pylist() == ["ok", "not_found"]
    assert train.table["group"].to_pylist() == ["Run/g01", "Run/g02", "Jump/g01"]
    assert (result["num_videos"], result["bad"]) == ({"train": 3, "val": 2}, {"train": 1, "val": 1})
    assert (result["classes"], result["fingerprints"]["val"]) == (2, val.fingerprint)
    assert result["summary"]["codec"] == {"mpeg4": 3}

    (bad,) = (output / "train.bad.txt").read_text().splitlines()
    video_id, status, path, _, line = bad.split("\t")
    assert (video_id, status) == ("Run/v_Run_g02_c01.avi", "not_a_video")
    assert (path, line) == (str(root / "Run/v_Run_g02_c01.avi"), f"{root / 'trainlist01.txt'}:2")
    assert "v_Jump_g03_c01.avi: not_found" in printed.err
    assert "3 ok, 1 not_a_video, 1 not_found" in printed.err

    # Mended, and indexed again: only what changed is probed, and no list of bad files is left.
    (root / "Run" / "v_Run_g02_c01.avi").write_bytes(
        (root / "Run" / "v_Run_g01_c01.avi").read_bytes()
    )
    assert main(command) == 0
    printed = capfd.readouterr()
    assert printed.out.splitlines() == [
        f"{output / 'train.parquet'}: 3 videos",
        f"{output / 'val.parquet'}: 1 video, and 1 unusable",
    ]
    assert "2 probed now" in printed.err
    assert not (output / "train.bad.txt").exists()


@pytest.mark.ray
def test_index_reads_lists_and_bad_names_and_takes_classes_of_another_manifest(
    ray_cluster: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root, output = tmp_path / "videos", tmp_path / "out"
    for name in ("wave/a.mp4", "jump/b 1.mp4", os.fsdecode(b"jump/caf\xe9.mp4"), "wave/c\td.mp4"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_video(tmp_path / "new.mp4", num_frames=9, codec="mpeg4")
        os.replace(tmp_path / "new.mp4", root / name)
    command = ["--root", str(root), "--output", str(output), "--cross-check", "0"]
    assert main(["--format", "folder", *command, "--json"]) == 0
    printed = capfd.readouterr()
    manifest = Manifest.read(output / "train.parquet")
    assert manifest.table["status"].to_pylist() == ["ok", "bad_name", "ok", "ok"]
    assert manifest.table["video_id"].to_pylist()[1] == "jump/caf\\xe9.mp4"
    assert r"jump/caf\xe9.mp4: bad_name: its name" in printed.err
    (bad,) = (output / "train.bad.txt").read_text().splitlines()
    assert bad.split("\t")[1:3] == ["bad_name", str(root / r"jump/caf\xe9.mp4")]

    # Again: what is known is not probed, and the bad name stays bad.
    assert main(["--format", "folder", *command]) == 0
    assert "0 probed now" in capfd.readouterr().err

    (tmp_path / "val.txt").write_text("wave/a.mp4 wave\njump/b 1.mp4 jump\n")
    (tmp_path / "names.txt").write_text("wave\nrun\njump\n")
    lists = ["--format", "list", "--annotations", str(tmp_path / "val.txt"), *command, "--json"]
    assert main([*lists, "--classes", str(output / "train.parquet")]) == 0
    result = json.loads(capfd.readouterr().out)
    val = Manifest.read(result["manifests"]["val"])
    assert (val.classes, val.table["label"].to_pylist()) == (("jump", "wave"), [1, 0])
    assert any("read as `path label` by blanks" in text for text in result["notes"])
    assert main([*lists, "--classes", str(tmp_path / "names.txt")]) == 0
    assert Manifest.read(output / "val.parquet").table["label"].to_pylist() == [0, 2]
    (tmp_path / "names.txt").write_text("run\njump\n")
    capfd.readouterr()
    assert main([*lists, "--classes", str(tmp_path / "names.txt")]) == 2
    assert "lacks 1 class of the annotations: 'wave'" in capfd.readouterr().err


@pytest.mark.ray
@pytest.mark.parametrize(
    ("lists", "videos", "expected"),
    [
        (
            {
                "metadata.csv": "file_name,label\nvideos/a.mp4,wave\nvideos/b.mp4,jump\nvideos/c.mp4,wave\n"
            },
            ["videos/a", "videos/b", "videos/c"],
            "jump wave",
        ),
        ({"train.csv": "video_path,class\na.mp4,wave\nb.mp4,jump\n"}, ["a", "b"], "jump wave"),
        ({"train.csv": "vid/a.mp4 0\nvid/b.mp4 1\n"}, ["vid/a", "vid/b"], "0 1"),
        (
            {"mmaction2_train.txt": "class/drinking (31).mp4 0\nclass/lecture (31).mp4 1\n"},
            ["class/drinking (31)", "class/lecture (31)"],
            "0 1",
        ),
        (
            {
                "windows.csv": "\ufeffpath,label\r\nvideos\\a\\x.mp4,wave\r\nvideos\\a\\y.mp4,jump\r\n"
            },
            ["videos/a/x", "videos/a/y"],
            "jump wave",
        ),
        (
            {
                "train.csv": "label,youtube_id,time_start,time_end,split\nabseiling,-3B32lodo2M,59,69,train\n",
                "test.csv": "youtube_id,time_start,time_end,split\n_kbyuCg9lhI,10,20,test\n",
            },
            ["abseiling/-3B32lodo2M"],
            "abseiling",
        ),
    ],
)
def test_index_reads_lists_as_people_have_them(
    ray_cluster: None,
    tmp_path: Path,
    lists: dict[str, str],
    videos: list[str],
    expected: str,
) -> None:
    for name, text in lists.items():
        (tmp_path / name).write_text(text, newline="")
    for name in videos:
        path = tmp_path / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, num_frames=3, codec="mpeg4")
    output = tmp_path / "out"
    command = ["--format", "list", "--root", str(tmp_path), "--output", str(output)]
    assert main([*command, "--cross-check", "0"]) == 0
    manifest = Manifest.read(output / "train.parquet")
    assert manifest.classes == tuple(expected.split())
    assert len(manifest.usable) == len(manifest) == len(videos)
    assert [path.name for path in output.glob("*.parquet")] == ["train.parquet"]


@pytest.mark.ray
def test_index_ends_with_status_2_where_a_split_has_no_usable_video(
    ray_cluster: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    videos = tmp_path / "videos"
    (videos / "run").mkdir(parents=True)
    for k in range(12):
        (videos / "run" / f"{k:02d}.mp4").write_bytes(b"")
    output = tmp_path / "out"
    command = ["--format", "folder", "--root", str(videos), "--output", str(output)]
    assert main(command) == 2
    printed = capfd.readouterr()
    assert printed.out == ""
    assert "no train video can be used" in printed.err
    assert "run/09.mp4: empty" in printed.err
    assert "run/10.mp4" not in printed.err
    assert len((output / "train.bad.txt").read_text().splitlines()) == 12


def test_index_refuses_bad_input_before_it_starts_a_cluster(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*arguments: str) -> str:
        command = ["--format", "folder", "--root", str(tmp_path), "--output", str(tmp_path / "o")]
        assert main([*command, *arguments]) == 2
        message = capsys.readouterr().err
        assert "Traceback" not in message
        assert not (tmp_path / "o").exists()
        return message

    assert "--deadline_s 0" in refused("--deadline-s", "0")
    assert "--cross_check -1" in refused("--cross-check", "-1")
    assert "no class folder" in refused()
    assert "--root /no/such" in refused("--root", "/no/such")
    assert "--format ucf" in refused("--format", "ucf")
    write_to_a_file = tmp_path / "file"
    write_to_a_file.touch()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "a.mp4").touch()
    assert "cannot write there" in refused("--output", str(write_to_a_file))
