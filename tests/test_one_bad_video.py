"""Of several videos one goes wrong, in whichever way: every verb answers the others, and names it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stm.config import DataConfig
from stm.data.decode import VideoError, probe
from stm.data.index.indexing import _probe_block
from stm.data.prepare.task import Job, prepare_block
from stm.data.prepare.transcode import Settings
from stm.data.stream.clips import ClipSpec
from stm.data.stream.graph import decode_shares, packed
from stm.errors import UserError
from stm.evaluate.predict import predict
from stm.explain import frames
from stm.explain.backwards import draw_backwards
from stm.explain.explain import explain
from stm.package.network import PackagedNetwork
from stm.scoring.inference import Classifier
from stm.serve.decoder import Decoder
from stm.serve.uploads import Decoded, Refused, decode_upload
from tests.data import bad_decoder, faults
from tests.data.faults import EXCEPTIONS, injected
from tests.package.untrained import SIZE, T, write_checkpoint
from tests.videos import rewrite_packets, write_frame_folder, write_video

SPEC = ClipSpec(num_segments=T, size=SIZE)
CALLS = ("limit", "av.open", "demux", "decode", "frombuffer", "interpolate", "centre_box")
FEW = ("MemoryError", "KeyError", "StopIteration", "Unpicklable")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> list[str]:
    """Three videos; the second will fail."""
    folder = tmp_path_factory.mktemp("videos")
    return [
        str(write_video(folder / f"{n}.mp4", num_frames=6, seed=k)) for k, n in enumerate("abc")
    ]


@pytest.fixture(scope="module")
def odd_videos(tmp_path_factory) -> Path:
    """Two good videos, good ones of odd names and rates, and some that are none."""
    folder = tmp_path_factory.mktemp("odd")
    good = write_video(folder / "a.mp4", num_frames=6)
    for name in (b"$x^$_{.mp4", b"\xff.mp4", b"z.mp4", b"\nline.mp4", b"l" * 251 + b".mp4"):
        shutil.copy(good, os.fsencode(folder) + b"/" + name)
    write_video(folder / "slow.mp4", num_frames=3, times_ms=[0, 3_600_000, 7_200_000])
    os.mkfifo(folder / "fifo.mp4")
    (folder / "endless.mp4").symlink_to("/dev/zero")
    (folder / "broken.mp4").symlink_to("nowhere")
    (folder / "loop.mp4").symlink_to("loop.mp4")
    images = write_frame_folder(folder / "frames", num_frames=6)
    (images / "00004.jpg").unlink()
    os.mkfifo(images / "00004.jpg")
    first = write_frame_folder(folder / "first", num_frames=6)
    write_frame_folder(first, num_frames=1, width=80, height=48)
    (folder / "cut.mp4").write_bytes(good.read_bytes()[:900])
    # Turned by a message in the stream, which its first frame alone has.
    one_key_frame = write_video(tmp_path_factory.mktemp("one") / "a.mp4", num_frames=6)
    turned = "h264_metadata=display_orientation=insert:rotate=90"
    rewrite_packets(one_key_frame, folder / "sei.mp4", turned)
    return folder


ODD = {
    "broken.mp4": "not_found",
    "cut.mp4": "truncated",
    "endless.mp4": "unsupported_source",
    "fifo.mp4": "unsupported_source",
    "loop.mp4": "unreadable",
    "frames": "unsupported_source",
    "first": "unreadable",
}


def check_odd(found: dict) -> None:
    errors = {
        Path(v["path"]).name: v["error"].split(":")[0] for v in found["videos"] if "error" in v
    }
    assert errors == ODD
    assert found["num_videos"] == len(ODD) + 8


def test_predict_answers_all_but_the_videos_that_fail(checkpoint, videos, tmp_path, monkeypatch):
    """It decodes in a child process, where a file's name asks for the fault."""
    cases = [("decode", name) for name in EXCEPTIONS]
    cases += [(call, name) for call in ("frombuffer", "centre_box") for name in FEW]
    paths = [str(tmp_path / faults.file_name(*case)) for case in cases]
    for path in paths:
        shutil.copy(videos[1], path)
    sources = [videos[0], *paths, videos[2]]
    monkeypatch.setattr("stm.evaluate.predict.IN_PROCESS", len(sources))
    monkeypatch.setattr("stm.data.stream.guarded.load_views", faults.load_as_named)
    found = predict(checkpoint, sources)["videos"]
    right = predict(checkpoint, [videos[0], videos[2]])["videos"]
    assert "error" not in right[0]
    assert found[0] == right[0]
    assert [each["class"] for each in found[-1]["top5"]] == [e["class"] for e in right[1]["top5"]]
    assert all(each.keys() == {"path", "error"} for each in found[1:-1])


@pytest.fixture
def hasty(tmp_path) -> str:
    """A checkpoint whose clips may take two seconds."""
    return write_checkpoint(tmp_path / "hasty", decode_deadline_s=2.0)


@pytest.mark.slow
def test_predict_and_explain_give_up_videos_that_hang_or_kill_the_decoder(
    hasty, videos, tmp_path, monkeypatch
):
    hangs, crashes = (str(tmp_path / f"{name}.mp4") for name in ("hangs", "crashes"))
    for path in (hangs, crashes):
        shutil.copy(videos[1], path)
    monkeypatch.setattr("stm.data.stream.guarded.load_views", bad_decoder.load_or_die)
    monkeypatch.setattr("stm.explain.frames.read_pictures", bad_decoder.read_or_die)
    sources = [hangs, crashes, videos[0]]
    for found in (
        predict(hasty, sources),
        explain(hasty, sources, output=str(tmp_path / "explain")),
    ):
        errors = [each.get("error", "") for each in found["videos"]]
        assert errors[0].startswith("deadline: no answer within")
        assert errors[1].startswith("crashed: exit status 139")
        assert not errors[2]
    with pytest.raises(UserError, match="deadline"):
        draw_backwards(hasty, hangs, str(tmp_path / "backwards.png"))


def test_predict_and_explain_answer_the_others_in_a_folder_of_odd_things(
    checkpoint, odd_videos, tmp_path
):
    check_odd(predict(checkpoint, [str(odd_videos)]))
    check_odd(explain(checkpoint, [str(odd_videos)], output=str(tmp_path)))


def test_explain_reads_all_but_the_video_that_fails(videos):
    config = DataConfig(num_segments=T, size=SIZE)

    def read(path: str) -> frames.Pictures:
        return frames.read_pictures(path, config, 8, probe(path))

    for call in CALLS:
        for make in EXCEPTIONS.values():
            with injected(call, make, videos[1]) as fault:
                assert read(videos[0]).num_frames == 6
                with pytest.raises(VideoError):
                    read(videos[1])
            assert fault.num_raised


def test_a_package_answers_all_but_the_row_that_fails(checkpoint, videos):
    network = PackagedNetwork(checkpoint)
    right = network.predict(videos)
    data = [Path(path).read_bytes() for path in videos]
    for rows in (videos, data):
        for call in CALLS:
            for name in EXCEPTIONS if call == "decode" and rows is videos else FEW[:2]:
                with injected(call, EXCEPTIONS[name], rows[1]) as fault:
                    found = network.predict(rows)
                assert fault.num_raised
                assert [bool(error) for error in found["error"]] == [False, True, False]
                for k in (0, 2):
                    assert found["classes"][k] == right["classes"][k]
                    np.testing.assert_allclose(found["scores"][k], right["scores"][k], rtol=0.05)


@pytest.mark.parametrize(
    "answer",
    [
        lambda checkpoint, videos: predict(checkpoint, videos),
        lambda checkpoint, videos: PackagedNetwork(checkpoint).predict(videos),
    ],
    ids=["predict", "package"],
)
def test_what_fails_in_the_network_is_no_failure_of_a_video(
    checkpoint, videos, monkeypatch, answer
):
    def fail(*_):
        raise RuntimeError("the network is broken")

    monkeypatch.setattr(Classifier, "scores", fail)
    with pytest.raises(RuntimeError, match="the network is broken"):
        answer(checkpoint, videos)


def plan_row(videos: list[str], size: tuple[int, int] = (160, 96)) -> pa.Table:
    count = len(videos)
    columns = {
        "video_id": videos,
        "path": videos,
        "label": [0] * count,
        "num_frames": [6] * count,
        "fps": [25.0] * count,
        "width": [size[0]] * count,
        "height": [size[1]] * count,
        "epoch": [0],
        "offset_end": [count],
        "videos": list(range(count)),
        "validation": [False],
        "seeds": [0] * count,
    }
    return packed(columns)


@pytest.mark.parametrize("augment", [False, True], ids=["validation", "training"])
def test_a_stream_of_clips_leaves_out_the_one_that_fails(videos, augment):
    spec = ClipSpec(num_segments=T, size=SIZE, augment=augment)
    (right,) = decode_shares(plan_row(videos), spec)
    assert right["weights"].tolist() == [[1, 1, 1]]
    for call in CALLS if not augment else CALLS[:-1]:
        for make in EXCEPTIONS.values():
            with injected(call, make, videos[1]) as fault:
                (found,) = decode_shares(plan_row(videos), spec)
            assert fault.num_raised
            assert found["weights"].tolist() == [[1, 0, 1]]
            assert [f["path"] for f in json.loads(found["failures"][0])] == [videos[1]]
            assert (found["clips"][0, [0, 2]] == right["clips"][0, [0, 2]]).all()


def test_serve_answers_all_but_the_upload_that_fails(videos):
    data = [Path(path).read_bytes() for path in videos]
    for call in CALLS:
        for make in EXCEPTIONS.values():
            with injected(call, make, data[1]) as fault:
                assert decode_upload(data[0], SPEC, 2**40).info.num_frames == 6
                with pytest.raises(VideoError):
                    decode_upload(data[1], SPEC, 2**40)
            assert fault.num_raised
    for name in FEW:
        spec = faults.FaultySpec(
            num_segments=T, size=SIZE, call="decode", exception=name, victim=data[1]
        )
        decoder = Decoder(spec, 60.0, 2**30)
        answers = [asyncio.run(decoder.decode(each)) for each in data]
        assert isinstance(answers[0], Decoded)
        assert isinstance(answers[1], Refused)
        assert isinstance(answers[2], Decoded)


@pytest.fixture
def files_of_faults(videos, tmp_path) -> list[str]:
    """A good video, some whose names ask for a fault, and a good one."""
    names = ["a.mp4", *(faults.file_name("decode", each) for each in EXCEPTIONS), "z.mp4"]
    for name in names:
        shutil.copy(videos[0], tmp_path / name)
    return [str(tmp_path / name) for name in names]


def test_index_names_the_videos_that_fail_and_finds_the_others(files_of_faults):
    count = len(files_of_faults)
    block = pa.table({"row": range(count), "path": files_of_faults, "known": [""] * count})
    found = _probe_block(block, probe=faults.probe_as_named, deadline_s=60.0)
    status = found["status"].to_pylist()
    assert [status[0], status[-1]] == ["ok", "ok"]
    assert "ok" not in status[1:-1]
    assert "probe_failed" not in status[1:-1]  # the boundary had a reason


def test_prepare_names_the_videos_that_fail_and_makes_the_others(files_of_faults, tmp_path):
    count = len(files_of_faults)
    (tmp_path / "out").mkdir()
    job = Job(
        output=tmp_path / "out",
        temporary=tmp_path,
        layout="files",
        settings=Settings(short_side=48),
        deadline_s=60.0,
        deadline_s_per_frame=1.0,
        make=faults.make_as_named,
    )
    columns = {
        "row": range(count),
        "known": ["{}"] * count,
        "source": files_of_faults,
        "video_id": files_of_faults,
        "path": files_of_faults,
        "num_frames": [6] * count,
        "fps": [25.0] * count,
        "width": [160] * count,
        "height": [96] * count,
        "codec": ["h264"] * count,
    }
    blocks = list(prepare_block(pa.table(columns), job))
    assert not any(block["fatal"][0].as_py() for block in blocks)
    records = [json.loads(block["record"][0].as_py()) for block in blocks]
    made = [bool(record["result"]) for record in records]
    assert made == [True, *[False] * (count - 2), True]
    assert all(record["reason"] for record in records[1:-1])


@pytest.mark.ray
def test_a_name_that_is_not_utf8_costs_a_long_prediction_that_video_alone(
    ray_cluster, checkpoint, videos, tmp_path
):
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.mp4")
    shutil.copy(videos[0], odd)
    output = str(tmp_path / "out.parquet")
    found = predict(checkpoint, [videos[0], odd, videos[2]], output=output)
    assert (found["num_videos"], found["unreadable"]) == (3, 1)
    rows = pq.read_table(output).to_pylist()
    assert [bool(row["error"]) for row in rows] == [False, True, False]
    assert rows[1]["error"].startswith("bad_name: its name")
    assert rows[1]["path"] == str(tmp_path / r"\xff.mp4")  # as in a manifest
    assert [len(row["classes"]) for row in rows] == [5, 0, 5]
