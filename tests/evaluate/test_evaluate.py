"""Evaluation and prediction through Ray: every video once, the same result on any number of workers."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipelines import cli
from stm.checkpoint import format as checkpoints
from stm.config import Config, DataConfig, ModelConfig
from stm.data import shards
from stm.data.annotations import read_annotations
from stm.data.index.indexing import index_videos
from stm.data.manifest import Manifest
from stm.data.stream.clips import ClipSpec, load_views
from stm.data.stream.plan import Position, sample_seed
from stm.data.synthetic import write_videos
from stm.evaluate.evaluate import evaluate
from stm.evaluate.fusing import ScoreFile
from stm.evaluate.predict import predict
from stm.evaluate.protocols import protocol as named_protocol
from stm.model import build_model
from stm.model.packed import PackedNetwork, can_pack
from stm.package.network import PackagedNetwork
from stm.scoring.inference import Classifier
from stm.scoring.orders import frame_order
from tests.videos import write_frame_folder, write_video

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def videos(ray_cluster, tmp_path_factory):
    """Sixteen videos to measure on: one is unusable when indexed, one vanishes afterwards."""
    root = tmp_path_factory.mktemp("videos")
    annotations = write_videos(root, num_train=8, num_test=16, size=48, num_frames=8)
    (root / "videos" / "val" / "up-0000.mp4").write_text("not a video")
    indexed, _ = index_videos(read_annotations("csv", root, annotations), cross_check=0)
    indexed["val"].write(root / "val.parquet")
    (root / "videos" / "val" / "down-0000.mp4").unlink()
    return root


@pytest.fixture(scope="module")
def checkpoint(videos):
    """An untrained network: its answers are as definite as a trained one's."""
    torch.manual_seed(0)
    classes = list(Manifest.read(videos / "val.parquet").classes)
    config = Config(model=ModelConfig(depth=26, width=16), data=DataConfig(num_segments=4, size=32))
    model = build_model(**checkpoints.model_arguments(config), num_classes=len(classes))
    meta = checkpoints.Meta(
        config=config.to_dict(),
        classes=classes,
        position=Position(1, 0),
        step=1,
        fingerprint="f",
    )
    folder = videos / "checkpoint-00000001"
    folder.mkdir()
    checkpoints.write(folder, model, {}, meta)
    return str(folder)


def test_the_result_does_not_depend_on_the_number_of_workers(videos, checkpoint, tmp_path):
    manifest = str(videos / "val.parquet")
    results = []
    for workers in (1, 2, 3):
        output = tmp_path / str(workers)
        result = evaluate(
            checkpoint,
            manifest,
            num_workers=workers,
            batch_size=2,
            output=str(output),
        )
        scores = pq.read_table(output / "scores.parquet").to_pylist()
        results.append(({k: v for k, v in result.items() if k != "files"}, scores))
    (first, scores), *others = results
    assert first["num_videos"] == len(scores) == 16
    assert first["unreadable"] == 2
    assert sorted(f["reason"] for f in first["failures"]) == ["not_a_video", "not_found"]
    readable = [row for row in scores if row["readable"]]
    right = sum(max(range(8), key=row["scores"].__getitem__) == row["label"] for row in readable)
    assert first["top1"] == pytest.approx(right / 16)
    for other, its_scores in others:
        assert other == first
        for row, its_row in zip(scores, its_scores, strict=True):
            assert row["video_id"] == its_row["video_id"]
            # Threads share the sums of a convolution out in other ways: the last bits differ.
            assert row["scores"] == pytest.approx(its_row["scores"], abs=1e-5)


def test_a_cpu_without_packed_convolutions_gives_the_same_scores(checkpoint, monkeypatch):
    clips = np.random.default_rng(0).integers(0, 256, (3, 2, 4, 32, 32, 3), dtype=np.uint8)
    can_pack_here = can_pack()
    found = Classifier(checkpoint, 1)
    monkeypatch.setattr("stm.model.packed.can_pack", lambda: False)
    plain = Classifier(checkpoint, 1)
    assert isinstance(found.model, PackedNetwork) == can_pack_here
    assert not isinstance(plain.model, PackedNetwork)
    np.testing.assert_allclose(found.scores(clips), plain.scores(clips), atol=1e-5)


@pytest.mark.slow
def test_thirty_views_are_averaged_and_each_video_counts_once(videos, checkpoint):
    result = evaluate(
        checkpoint,
        str(videos / "val.parquet"),
        protocol="accurate",
        num_workers=2,
        batch_size=4,
    )
    assert (result["num_videos"], result["unreadable"]) == (16, 2)
    assert sum(result["class_counts"].values()) == 16


ORDERS = ("reversed", "shuffled", "still")


def scored(checkpoint, videos, folder, frames=ORDERS, **options):
    """The result, and the scores [N, K] of each order from the files that others may read."""
    manifest = str(videos / "val.parquet")
    result = evaluate(
        checkpoint, manifest, output=str(folder), frames=frames, report=False, **options
    )
    return result, {
        order: ScoreFile.read(result["files"]["scores" if order == "played" else f"scores_{order}"])
        for order in ("played", *frames)
    }


@pytest.mark.slow
def test_frames_in_other_orders_are_scored_alike_on_any_number_of_workers(
    videos, checkpoint, tmp_path
):
    result, scores = scored(checkpoint, videos, tmp_path / "1", batch_size=3)
    _, again = scored(checkpoint, videos, tmp_path / "2", num_workers=2, batch_size=5)
    plain = evaluate(checkpoint, str(videos / "val.parquet"), report=False)
    assert (plain["frames"], plain["top1"]) == (None, result["top1"])
    assert list(result["frames"]["orders"]) == ["played", *ORDERS]
    for order, found in scores.items():
        np.testing.assert_allclose(found.scores_NK, again[order].scores_NK, atol=1e-5)
        right = (found.scores_NK.argmax(1) == found.labels_N) & found.readable_N
        assert result["frames"]["orders"][order]["top1"] == right.mean()
        assert not found.scores_NK[~found.readable_N].any()
    for one, other in itertools.combinations(scores.values(), 2):
        assert np.abs(one.scores_NK - other.scores_NK).max() > 1e-4
    assert (
        json.loads(json.dumps(result.as_dict()))["frames"]["in_pairs"]["played"]["num_videos"] == 16
    )


def test_an_order_is_that_of_the_decoded_clip(videos, checkpoint, tmp_path):
    manifest = Manifest.read(videos / "val.parquet")
    _, scores = scored(checkpoint, videos, tmp_path)
    usable = manifest.usable.tolist()
    place = next(i for i, row in enumerate(usable) if scores["played"].readable_N[row])
    path = manifest.table["path"][usable[place]].as_py()
    clip = ClipSpec.one_clip(DataConfig(num_segments=4, size=32))
    views, _ = load_views(path, 8, 48, 48, 0, 0, clip)
    seed = int(sample_seed(np.asarray(place), seed=0, epoch=0))
    classifier = Classifier(checkpoint, 1)
    for order in ORDERS:
        expected = classifier.scores(views[None, :, frame_order(order, 4, seed)])[0]
        np.testing.assert_allclose(scores[order].scores_NK[usable[place]], expected, atol=1e-5)


@pytest.mark.slow
def test_a_network_without_time_gives_the_same_answers_in_any_order(videos, checkpoint, tmp_path):
    blind = Path(checkpoint).with_name("checkpoint-00000002")
    config = Config(
        model=ModelConfig(variant="tsn", depth=26, width=16),
        data=DataConfig(num_segments=4, size=32),
    )
    meta = checkpoints.read_meta(checkpoint)
    network = build_model(**checkpoints.model_arguments(config), num_classes=len(meta.classes))
    blind.mkdir()
    checkpoints.write(blind, network, {}, replace(meta, config=config.to_dict()))
    for protocol in ("efficient", "accurate"):
        result, scores = scored(
            str(blind), videos, tmp_path / protocol, ("reversed", "shuffled"), protocol=protocol
        )
        for order in ("reversed", "shuffled"):
            np.testing.assert_allclose(
                scores[order].scores_NK, scores["played"].scores_NK, atol=1e-5
            )
        assert any("nothing here shows" in sentence for sentence in result["frames"]["says"])


def test_the_command_shows_what_time_is_worth_and_its_command_repeats_it(
    videos, checkpoint, tmp_path, capfd
):
    (tmp_path / "pairs.csv").write_text("up,left\n")
    command = ["evaluate", "--checkpoint", checkpoint, "--manifest", str(videos / "val.parquet")]
    asked = ["--frames", "shuffled", "reversed", "--pairs", str(tmp_path / "pairs.csv")]
    assert cli.main([*command, *asked, "--output", str(tmp_path / "out")]) == 0
    shown = capfd.readouterr().out
    assert re.search(r"^  reversed +[\d.]+% .* called the other class$", shown, re.M)
    assert "  As played " in shown
    page = (tmp_path / "out" / "report.html").read_text()
    assert "The pairs are those of --pairs." in page
    assert f"--frames reversed shuffled --pairs {tmp_path}/pairs.csv" in page
    assert (tmp_path / "out" / "time.png").exists()
    wrong = {
        "--frames backwards": "--frames [backwards]: must be a list of one of played, reversed",
        f"--pairs {tmp_path}/none.csv": "cannot be read (No such file",
    }
    for words, said in wrong.items():
        assert cli.main([*command, *words.split()]) == 2
        assert said in capfd.readouterr().err
    assert cli.main(["evaluate", "--fuse", "a", "b", "--frames", "still"]) == 2
    assert "--frames and --pairs need a --checkpoint" in capfd.readouterr().err


def test_videos_of_some_classes_in_another_order_are_measured_by_name(
    videos, checkpoint, tmp_path, capfd
):
    whole = Manifest.read(videos / "val.parquet")
    chosen = ["up", "grow", "Left"]  # one of them spelt otherwise
    names = [whole.classes[k] for k in whole.table["label"].to_pylist()]
    kept = [row for row, name in enumerate(names) if name in ("up", "grow", "left")]
    labels = pa.array([["up", "grow", "left"].index(names[row]) for row in kept], pa.int32())
    table = whole.table.take(kept)
    at = table.schema.get_field_index("label")
    table = table.set_column(at, table.schema.field("label"), labels)
    some = Manifest(table, tuple(chosen), "some", True)
    some.write(tmp_path / "some.parquet")
    command = ["evaluate", "--checkpoint", checkpoint, "--output", str(tmp_path), "--manifest"]
    assert cli.main([*command, str(videos / "val.parquet")]) == 0
    scores = {
        row["video_id"]: row for row in pq.read_table(tmp_path / "scores.parquet").to_pylist()
    }
    capfd.readouterr()
    assert cli.main([*command, str(tmp_path / "some.parquet")]) == 0
    shown, err = capfd.readouterr()
    assert f"(over 3 classes; {whole.num_classes - 3} have no videos)" in shown
    assert "'Left' is 'left'" in err
    rows = pq.read_table(tmp_path / "scores.parquet").to_pylist()
    assert len(rows) == len(kept)
    for row in rows:
        assert row["label"] == scores[row["video_id"]]["label"]
        assert row["scores"] == pytest.approx(scores[row["video_id"]]["scores"], abs=1e-5)
    page = (tmp_path / "report.html").read_text()
    assert some.fingerprint in page
    assert not re.search(r"\bnan\b", re.sub('base64,[^"]*', "", page), re.IGNORECASE)


@pytest.mark.parametrize(
    "window",
    [
        pytest.param({"sampling": "dense", "frame_stride": 1}, marks=pytest.mark.slow, id="dense"),
        pytest.param({"sampling": "seconds", "window_s": 0.4}, id="seconds"),
    ],
)
def test_a_network_trained_on_windows_is_measured_on_windows(videos, checkpoint, window, tmp_path):
    trained = tmp_path / "checkpoint-00000001"
    shutil.copytree(checkpoint, trained)
    meta = json.loads((trained / "meta.json").read_text())
    meta.pop("checksum")
    meta["config"]["data"].update(window)
    (trained / "meta.json").write_text(checkpoints.sealed(meta))
    manifest = str(videos / "val.parquet")
    classifier = Classifier(str(trained), 1)

    def measured(path, **options):
        evaluate(str(path), manifest, output=str(tmp_path / "scores"), report=False, **options)
        rows = pq.read_table(tmp_path / "scores" / "scores.parquet").to_pylist()
        return {row["video_id"]: row["scores"] for row in rows if row["readable"]}

    rows = {row["video_id"]: row for row in Manifest.read(manifest).table.to_pylist()}
    for protocol in ("efficient", "accurate") if window["sampling"] == "seconds" else ["efficient"]:
        chosen = named_protocol(protocol)
        spec = chosen.clip(Config.from_dict(meta["config"]).data)
        scores = measured(trained, protocol=protocol)
        for video_id in list(scores)[:3]:
            row = rows[video_id]
            size = (row["path"], row["num_frames"], row["width"], row["height"])
            views = [
                load_views(*size, 0, 0, spec, row["fps"], number)[0]
                for number in range(chosen.num_samplings)
            ]
            expected = classifier.scores(np.stack(views)).mean(0)
            assert scores[video_id] == pytest.approx(expected, abs=1e-5)
    once, video_id = measured(trained), next(iter(scores))
    assert measured(trained, sampling="segments") == measured(checkpoint) != once
    path = rows[video_id]["path"]
    (few,) = predict(str(trained), [path])["videos"]
    packaged, _ = PackagedNetwork(str(trained)).scores_of([path])
    assert few["top5"][0]["score"] == pytest.approx(max(once[video_id]), abs=1e-5)
    assert packaged[0] == pytest.approx(once[video_id], abs=1e-5)


def test_many_files_and_one_are_predicted_alike(videos, checkpoint, tmp_path):
    folder = videos / "videos" / "val"
    paths = sorted(str(path) for path in folder.glob("*.mp4"))
    many = predict(checkpoint, [str(folder)], output=str(tmp_path / "answers.parquet"))
    assert many["unreadable"] == 1
    table = {row["path"]: row for row in pq.read_table(tmp_path / "answers.parquet").to_pylist()}
    assert sorted(table) == paths
    few = predict(checkpoint, paths[:2])
    for row in few["videos"]:
        answered = table[row["path"]]
        assert [top["class"] for top in row["top5"]] == answered["classes"]


def test_a_folder_of_images_and_a_row_of_a_shard_are_videos(checkpoint, tmp_path):
    frames = write_frame_folder(tmp_path / "set" / "frames", num_frames=9)
    write_frame_folder(tmp_path / "set" / "b" / "others", num_frames=5)
    write_video(tmp_path / "set" / "clip.mp4", num_frames=9)
    images = [path.read_bytes() for path in sorted(frames.iterdir())]
    video = (tmp_path / "set" / "clip.mp4").read_bytes()
    shards.write_shard(tmp_path / "images.parquet", [("no", images[:1]), ("frames", images)])
    shards.write_shard(tmp_path / "videos.parquet", [("clip", video)])
    rows = [str(tmp_path / "images.parquet#1"), str(tmp_path / "videos.parquet#0")]
    sources = [str(frames), str(tmp_path / "set" / "clip.mp4"), *rows]
    few = predict(checkpoint, sources)
    first, second, third, fourth = (row["top5"] for row in few["videos"])
    assert (first, second) == (third, fourth)
    assert first != second
    assert [row["path"] for row in few["videos"]] == sources

    many = [str(tmp_path / "set"), *rows]
    predict(checkpoint, many, output=str(tmp_path / "answers.parquet"))
    table = {row["path"]: row for row in pq.read_table(tmp_path / "answers.parquet").to_pylist()}
    found = [tmp_path / "set" / name for name in ("b/others", "clip.mp4", "frames")]
    assert list(table) == [*map(str, found), *rows]
    for path, top in zip(sources, (first, second, third, fourth), strict=True):
        assert table[path]["error"] == ""
        assert table[path]["classes"] == [answer["class"] for answer in top]
