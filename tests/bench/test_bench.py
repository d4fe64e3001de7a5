"""Benchmarks compare like with like and end with the sentence a user needs; no test looks at a time."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

from pipelines import cli
from pipelines.bench import needs
from pipelines.bench_tables import show
from stm.bench import data, decode, scale
from stm.data.manifest import SCHEMA, Manifest
from stm.data.shards import shard_path, write_shard
from stm.data.stream.clips import ClipSpec
from stm.data.stream.graph import StreamSpec
from stm.data.synthetic import encode
from tests.videos import write_frame_folder


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    rows = []
    for number in range(5):
        path = folder / f"{number}.mp4"
        encode(path, np.full((16, 48, 64, 3), 40 * number, dtype=np.uint8))
        row = dict.fromkeys(SCHEMA.names, "") | {"fps": 12.0, "keyframe_interval": 12}
        facts = {"num_frames": 16, "width": 64, "height": 48, "label": number, "status": "ok"}
        rows.append({**row, **facts, "video_id": str(number), "path": str(path)})
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    manifest = Manifest(table=table, classes=tuple("abcde"), dataset="bench", flip=True)
    manifest.write(folder / "m.parquet")
    return folder / "m.parquet"


def test_the_sum_says_how_many_cores_and_megabytes_a_gpu_needs():
    said = needs(400.0, clips_per_s_core=50.0, clip_mb=1.2)
    assert said == "one GPU at 400 clips/s needs 8 cores of this kind and 480 MB/s between them"
    assert "needs 9 cores" in needs(
        400.0, clips_per_s_core=49.0, clip_mb=1.2
    )  # one too few would starve it
    assert "needs 1 core of" in needs(400.0, clips_per_s_core=401.0, clip_mb=1.2)


def test_every_decoder_is_measured_on_the_same_videos(manifest):
    paths = Manifest.read(manifest).table["path"].to_pylist()
    result = decode.measure([*paths, "missing.mp4"], num_frames=4, size=32, repetitions=2)
    assert result["num_videos"] == 5
    assert set(result["ms"]) >= {"sequential", "packets"}
    assert result["ratio_to_packets"]["packets"] == 1.0
    assert list(result["unreadable"]) == ["missing.mp4"]
    assert result["by_codec"]["h264"]["num_videos"] == 5


def test_rows_of_a_shard_are_measured_without_decord_which_cannot_read_them(tmp_path):
    images = [
        path.read_bytes() for path in sorted(write_frame_folder(tmp_path / "frames").iterdir())
    ]
    write_shard(tmp_path / "s.parquet", [("a", images), ("b", images)])
    rows = [shard_path(tmp_path / "s.parquet", row) for row in range(2)]
    result = decode.measure(rows, num_frames=4, size=32, repetitions=1)
    assert result["num_videos"] == 2
    assert not [name for name in result["ms"] if "decord" in name]
    assert result["unreadable"] == {}


def test_videos_that_cannot_be_read_are_named_in_a_few_lines(tmp_path, capfd):
    for number in range(9):
        (tmp_path / f"{number}.mp4").write_bytes(b"no video")
    assert cli.main(["bench", "decode", "--videos", str(tmp_path)]) == 2
    said = capfd.readouterr().err
    assert "by every decoder (9 tried)" in said
    assert "0.mp4: " in said
    assert "not_a_video" in said
    assert len(said.splitlines()) < 12


@pytest.mark.slow
def test_pool_and_stream_and_loader_make_the_same_number_of_clips(ray_cluster, manifest):
    read = Manifest.read(manifest)
    spec = ClipSpec(num_segments=2, size=32)
    samples = data.samples_of(read, 12, 4, seed=0)
    assert len(samples) == 12
    assert sum(data.through_loader(samples, spec, 4, 1)) == 12
    assert sum(data.through_pool(samples, spec, 4, 1)) == 12
    assert sum(data.through_stream(read, spec, 4, 15, seed=0)) == 15


def test_time_spent_working_is_not_time_spent_waiting():
    rate, waited = data.rate(iter([4] * 6), consume_s=0.01)
    assert waited < 0.2
    assert rate < 110


@pytest.mark.ray
def test_bench_prints_one_object_and_draws_a_figure(ray_cluster, manifest, capfd, tmp_path):
    small = [
        "--num_segments",
        "2",
        "--size",
        "32",
        "--repetitions",
        "1",
        "--output",
        str(tmp_path),
        "--json",
    ]
    for what, more in (
        ("decode", ["--num_videos", "3"]),
        ("data", ["--num_clips", "10", "--batch_size", "2"]),
    ):
        assert cli.main(["bench", what, "--manifest", str(manifest), *small, *more]) == 0
        result = json.loads(capfd.readouterr().out)
        assert result["sum"].startswith("one GPU at 400 clips/s needs")
        assert (tmp_path / f"{what}.png").stat().st_size > 3000


@pytest.mark.ray
def test_training_is_measured_with_the_stream_and_with_clips_that_are_there(
    ray_cluster, manifest, capfd, tmp_path
):
    """Batches of 2 of 5 videos: two full ones an epoch, so four epochs for the eight steps asked for."""
    arguments = [
        *("--num_segments", "2", "--size", "32", "--depth", "26", "--batch_size", "2"),
        *("--num_clips", "14", "--repetitions", "2", "--threads", "1"),
    ]
    command = ["bench", "train", "--manifest", str(manifest), "--output", str(tmp_path), "--json"]
    assert cli.main([*command, *arguments]) == 0
    told = capfd.readouterr()
    result = json.loads(told.out)
    assert result["steps"] == 7
    assert set(result["clips_per_s"]) == {"ready", "stream"}
    assert 0 < result["stream_to_ready"] < 3
    assert 0 <= result["wait_share"] < 1
    assert "round 2 of 2: ready" in told.err
    assert (tmp_path / "train.png").stat().st_size > 3000
    assert cli.main([*command, "--batch_size", "6"]) == 2
    assert "fewer usable videos than --batch_size" in capfd.readouterr().err


@pytest.mark.parametrize("what", ["decode", "data", "train"])
def test_without_videos_there_is_nothing_to_measure(what, capfd):
    assert cli.main(["bench", what]) == 2
    assert "--manifest" in capfd.readouterr().err


@pytest.mark.slow
def test_streams_are_measured_with_ready_arrays_part_by_part(ray_cluster):
    loads = [scale.Load(ranks=2, clips=4), scale.Load(ranks=2, clips=4, streams=2)]
    result = scale.measure(loads, num_segments=2, size=32, seconds=3, rounds=1)
    for row, streams in zip(result["rows"], (1, 2), strict=True):
        assert (row["ranks"], row["clips"], row["streams"]) == (2, 4, streams)
        assert row["clips_per_s"] > 0
        assert set(row["parts"]) == {"plan", "coordinators", "tasks", "iterators", "Ray itself"}
        assert sum(row["parts"].values()) == pytest.approx(row["ms_per_clip"], rel=0.05)
        assert row["parts"]["coordinators"] > 0
        assert row["parts"]["iterators"] > 0
    said = show({**result, "what": "scale", "sum": "", "machine": "", "date": ""})
    assert said.count("\n") == 5


@pytest.mark.slow
def test_a_stream_with_little_room_goes_on(ray_cluster, monkeypatch):
    """As in a small object store. Ray Data promises to go on, but counts the plan as work: all ranks would wait."""
    monkeypatch.setattr(StreamSpec, "buffer_bytes", lambda *_, **__: 20_000_000)
    monkeypatch.setattr(scale, "STILL_S", 45.0)
    load = scale.Load(ranks=16, clips=64)
    result = scale.measure([load], num_segments=8, size=32, seconds=0.1, rounds=1)
    assert result["rows"][0]["clips_per_s"] > 0


def test_streams_are_not_measured_on_a_cluster_of_others(capfd):
    assert cli.main(["bench", "scale", "--address", "10.0.0.1:6379"]) == 2
    assert "starts its own Ray on this machine" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["scale", "--ranks", "0"], "--ranks [0]: must be numbers of at least 1"),
        (
            ["scale", "--ranks", "2", "--streams", "9"],
            "--streams 9: must not be more than --ranks 2",
        ),
        (["scale", "--seconds", "0"], "--seconds 0: must be above 0"),
        (["model", "--repetitions", "0"], "--repetitions 0: must be at least 1, or null"),
        (["decode", "--num_videos", "0"], "--num_videos 0: must be at least 1"),
    ],
)
def test_numbers_out_of_bounds_are_refused_before_anything_is_measured(words, said, capfd):
    assert cli.main(["bench", *words]) == 2
    assert said in capfd.readouterr().err
