"""``stm predict --window_s``: known changes are found, and what was known is kept whatever happens."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import stm
from pipelines.cli import main
from stm.errors import UserError
from stm.evaluate.predict import predict
from stm.evaluate.timeline import name_windows
from tests.data.bad_decoder import DyingSpec
from tests.data.test_windows import cut
from tests.package.colours import COLOURS, write_colour_checkpoint, write_colours

PLAN = [("red", 5.2), ("blue", 6.04), ("green", 4.0), ("red", 3.32), ("blue", 5.0)]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_colour_checkpoint(tmp_path_factory.mktemp("run") / "checkpoint-00000007")


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_colours(tmp_path_factory.mktemp("video") / "a.mp4", PLAN, options={"g": "1"})


@pytest.fixture(scope="module")
def whole(checkpoint, video, tmp_path_factory):
    """The undisturbed timeline, as (result, rows of its file)."""
    output = tmp_path_factory.mktemp("whole") / "t.json"
    result = name_windows(checkpoint, video, window_s=1.0, stride_s=0.5, output=str(output))
    return result, json.loads(output.read_text())


def test_every_change_is_found_within_a_window(whole):
    result, _ = whole
    assert [segment.name for segment in result.segments] == [name for name, _ in PLAN]
    at = 0.0
    for segment, (_, seconds) in zip(result.segments, PLAN, strict=True):
        assert segment.start_s == pytest.approx(at, abs=0.5)
        at += seconds
        assert segment.end_s == pytest.approx(at, abs=0.5)
    assert result.duration_s == pytest.approx(at, abs=1e-3)
    assert result.unanswered == []
    assert result.frames == round(at * 25)


def test_a_windows_scores_are_those_of_a_clip_cut_there(checkpoint, video, whole, tmp_path):
    windows = whole[1]["windows"]
    chosen = windows[9:12]
    clips = []
    for window in chosen:
        clips.append(
            str(
                cut(
                    video, tmp_path / f"{window['start_s']}.mp4", window["start_s"], window["end_s"]
                )
            )
        )
    answers = [predict(checkpoint, clip)["videos"][0]["top5"] for clip in clips]
    assert [window["top5"] for window in chosen] == answers


def test_from_python_windows_come_one_by_one_and_make_the_same_segments(checkpoint, video, whole):
    model = stm.load(checkpoint)
    windows = list(model.windows(video, window_s=1.0, stride_s=0.5))
    assert [window.as_dict() for window in windows] == whole[1]["windows"]
    assert windows[0].name == "red"
    assert windows[0].scores.shape == (3,)
    segments = [segment.as_dict() for segment in model.segments(windows)]
    assert segments == [segment.as_dict() for segment in whole[0].segments]
    of_bytes = model.windows(Path(video).read_bytes(), window_s=1.0, stride_s=0.5)
    assert next(of_bytes).as_dict() == windows[0].as_dict()
    of_bytes.close()


def test_parquet_csv_and_json_say_the_same(checkpoint, video, whole, tmp_path):
    rows = whole[1]["windows"]
    for suffix in ("parquet", "csv"):
        result = name_windows(
            checkpoint,
            video,
            window_s=1.0,
            stride_s=0.5,
            output=str(tmp_path / f"{suffix}.{suffix}"),
        )
        assert sorted(result.files) == ["figure", "segments", "windows"]
        assert Path(result.files["figure"]).read_bytes().startswith(b"\x89PNG")
        assert not list(tmp_path.glob("*partial*"))
    table = pq.read_table(tmp_path / "parquet.parquet").to_pylist()
    assert [(r["start_s"], r["end_s"], r["error"]) for r in table] == [
        (r["start_s"], r["end_s"], "") for r in rows
    ]
    assert [r["classes"] for r in table] == [[e["class"] for e in r["top5"]] for r in rows]
    np.testing.assert_allclose(
        [r["scores"] for r in table], [[e["score"] for e in r["top5"]] for r in rows], atol=1e-6
    )
    segments = pq.read_table(tmp_path / "parquet.segments.parquet").to_pylist()
    assert segments == whole[1]["segments"]
    with (tmp_path / "csv.csv").open() as file:
        read = list(csv.DictReader(file))
    assert [(float(r["start_s"]), r["class_1"]) for r in read] == [
        (r["start_s"], r["top5"][0]["class"]) for r in rows
    ]
    with (tmp_path / "csv.segments.csv").open() as file:
        assert [r["class"] for r in csv.DictReader(file)] == [name for name, _ in PLAN]


def test_json_on_the_command_line_is_one_object_and_lines_come_as_windows_do(
    checkpoint, video, capfd
):
    assert main(["predict", "--checkpoint", checkpoint, video, "--window_s", "2", "--json"]) == 0
    out, err = capfd.readouterr()
    result = json.loads(out)
    assert out.count("\n") == 1
    assert [each["class"] for each in result["segments"]] == [name for name, _ in PLAN]
    assert err.count("0:00:00.0 - 0:00:02.0") == 1
    assert len([line for line in err.splitlines() if "%  " in line]) == result["num_windows"]
    assert main(["predict", "--checkpoint", checkpoint, video, "--window_s", "2", "--quiet"]) == 0
    out, err = capfd.readouterr()
    assert out.splitlines()[0].endswith("red")
    assert "%" not in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--window_s", "0"], "--window_s 0: must be above 0"),
        (["--window_s", "nan"], "--window_s nan"),
        (["--window_s", "two"], "--window_s two: must be a number"),
        (["--window_s", "1", "--stride_s", "-1"], "--stride_s -1: must be above 0"),
        (["--stride_s", "1"], "--stride_s: has no effect without --window_s"),
        (["--enter", "0.5"], "--enter: has no effect without --window_s"),
        (["--window_s", "1", "--enter", "0.2"], "--leave not above"),
        (["--window_s", "1", "--leave", "1.5"], "--leave 1.5"),
        (["--window_s", "1", "--workers", "2"], "--workers: has no effect with --window_s"),
        (
            ["--window_s", "1", "--output", "t.txt"],
            "--output t.txt: a timeline is .parquet, .csv, .json",
        ),
        (["--window_s", "1", "--output", "s3://b/t.csv"], "is a URL"),
        (["--window_s", "1", "--reconnect_s", "5"], "--reconnect_s: has no effect on a file"),
        (["--window_s", "1", "--protocol", "best"], "--protocol best"),
    ],
)
def test_a_wrong_value_is_one_message(checkpoint, video, tmp_path, monkeypatch, capfd, words, said):
    monkeypatch.chdir(tmp_path)
    assert main(["predict", "--checkpoint", checkpoint, video, *words]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert said in err
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_what_is_no_single_video_is_one_message(checkpoint, video, tmp_path, capfd):
    (tmp_path / "b.mp4").write_bytes(b"no video")
    cases = [
        ([video, str(tmp_path / "b.mp4")], "takes one video at a time, and these are 2"),
        ([str(tmp_path / "b.mp4")], "not_a_video"),
        ([str(tmp_path / "none.mp4")], "none.mp4"),
    ]
    for words, said in cases:
        assert main(["predict", "--checkpoint", checkpoint, *words, "--window_s", "1"]) == 2
        err = capfd.readouterr().err
        assert said in err
        assert "Traceback" not in err


def test_files_that_are_there_stay_as_they_are(checkpoint, video, tmp_path):
    for name in ("t.csv", "t.segments.csv", "t.png", "t.csv.partial.jsonl"):
        (tmp_path / name).write_text("mine")
        with pytest.raises(UserError, match=name.replace(".", r"\.")):
            name_windows(checkpoint, video, window_s=1.0, output=str(tmp_path / "t.csv"))
        assert (tmp_path / name).read_text() == "mine"
        (tmp_path / name).unlink()
    assert not list(tmp_path.iterdir())


def command(checkpoint, video, output):
    return subprocess.Popen(
        [sys.executable, "-m", "stm", "predict", video, "--checkpoint", checkpoint, "--window_s=1",
         "--stride_s=0.5", "--output", str(output)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def wait_for_windows(process, number):
    """Return when so many lines of windows were printed."""
    for text in process.stderr:
        number -= "%  " in text
        if not number:
            return
    raise AssertionError(f"it ended before: {process.wait()}")


def test_ctrl_c_keeps_what_was_known(checkpoint, video, whole, tmp_path):
    process = command(checkpoint, video, tmp_path / "t.json")
    wait_for_windows(process, 5)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    last = err.splitlines()[-1]
    assert last.startswith("stm predict: interrupted; the timeline until 0:00:")
    assert "died" not in err
    rows = json.loads((tmp_path / "t.json").read_text())["windows"]
    assert rows == whole[1]["windows"][: len(rows)]
    assert 5 <= len(rows) < len(whole[1]["windows"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.json", "t.png"]


def test_a_killed_run_goes_on_where_it_was(checkpoint, video, whole, tmp_path, caplog):
    output = tmp_path / "t.json"
    process = command(checkpoint, video, output)
    wait_for_windows(process, 5)
    process.kill()
    process.communicate()
    assert [path.name for path in tmp_path.iterdir()] == ["t.json.partial.jsonl"]
    journal = tmp_path / "t.json.partial.jsonl"
    journal.write_bytes(journal.read_bytes() + b'{"start_s": 2')  # cut short by a full disk
    with pytest.raises(UserError, match="another run left"):
        name_windows(checkpoint, video, window_s=2.0, stride_s=0.5, output=str(output))
    caplog.set_level("INFO", "stm")
    name_windows(checkpoint, video, window_s=1.0, stride_s=0.5, output=str(output))
    lines = [line for line in caplog.messages if "%  " in line]
    assert len(lines) <= len(whole[1]["windows"]) - 5
    again = json.loads(output.read_text())
    assert again["windows"] == whole[1]["windows"]
    assert again["segments"] == whole[1]["segments"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.json", "t.png"]


def test_a_decoder_that_dies_is_said_and_marked(checkpoint, video, tmp_path, monkeypatch, caplog):
    import stm.evaluate.protocols as protocols
    from stm.data.stream.clips import ClipSpec

    original = protocols.Protocol.clip

    def dying(self, data):
        return DyingSpec(**vars(original(self, data)), bad_pts=(103 * 512,))

    monkeypatch.setattr(protocols.Protocol, "clip", dying)
    assert issubclass(DyingSpec, ClipSpec)
    result = name_windows(checkpoint, video, window_s=1.0, output=str(tmp_path / "t.csv"))
    (hole,) = result.unanswered
    assert hole["error"].startswith("crashed")
    assert hole["start_s"] <= 103 / 25 <= hole["end_s"]
    assert hole["end_s"] - hole["start_s"] <= 1.5
    assert "SIGSEGV" in " ".join(caplog.messages)
    assert result.num_windows > 40


def test_a_file_that_cannot_be_read_further_keeps_what_was_known(checkpoint, tmp_path, monkeypatch):
    path = write_colours(tmp_path / "a.mp4", PLAN[:2])
    from stm.data.windows import reader

    monkeypatch.setattr(reader, "_MOST_CRASHES", 1)
    import stm.evaluate.protocols as protocols

    original = protocols.Protocol.clip
    monkeypatch.setattr(
        protocols.Protocol,
        "clip",
        lambda self, data: DyingSpec(**vars(original(self, data)), bad_pts=(150 * 512,)),
    )
    with pytest.raises(UserError, match=r"crashed.*the timeline until 0:00:0.* is in .*t\.json"):
        name_windows(checkpoint, path, window_s=1.0, output=str(tmp_path / "t.json"))
    rows = json.loads((tmp_path / "t.json").read_text())["windows"]
    assert rows
    assert {row["top5"][0]["class"] for row in rows} == {"red"}


def test_colours_are_told_apart_however_they_are_sampled(tmp_path):
    plan = [(name, 2.0) for name in COLOURS]  # 30 views a window take their time
    video = write_colours(tmp_path / "a.mp4", plan)
    seconds = write_colour_checkpoint(tmp_path / "seconds", sampling="seconds", window_s=0.8)
    result = name_windows(seconds, video, window_s=1.0, protocol="accurate")
    assert [segment.name for segment in result.segments] == [name for name, _ in plan]
    assert set(COLOURS) == {segment.name for segment in result.segments}


def test_a_break_in_a_stream_is_an_error_that_says_where_the_timeline_is(checkpoint, tmp_path):
    import threading

    from tests.data.test_window_reader import free_port, push

    url, over = f"rtsp://127.0.0.1:{free_port()}/live", threading.Event()
    sender = threading.Thread(target=push, args=(url, range(75), 300.0, over), daemon=True)
    sender.start()
    began = time.monotonic()
    options = ["rtsp_flags=listen", "listen_timeout=60"]
    try:
        with pytest.raises(
            UserError, match=r"broke off at 0:00:03.*nothing came for 3 s.*is in .*t\.json"
        ):
            name_windows(
                checkpoint, url, window_s=1.0, stall_s=3.0, stream_options=options,
                output=str(tmp_path / "t.json"),
            )  # fmt: skip
    finally:
        over.set()
        sender.join(60)
    assert time.monotonic() - began < 280
    written = json.loads((tmp_path / "t.json").read_text())
    assert len(written["windows"]) in (5, 6)
