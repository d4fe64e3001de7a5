"""Every evaluation leaves a report, through Ray, and a report that fails costs no result."""

from __future__ import annotations

import re

import pytest
import torch

from stm.checkpoint import format as checkpoints
from stm.config import Config, DataConfig, ModelConfig
from stm.data.annotations import read_annotations
from stm.data.index.indexing import index_videos
from stm.data.manifest import Manifest
from stm.data.stream.plan import Position
from stm.data.synthetic import write_videos
from stm.errors import UserError
from stm.evaluate.evaluate import evaluate
from stm.evaluate.reporting import output_folder, run_folder
from stm.model import build_model
from stm.report import page
from tests.logged import logged


@pytest.fixture(scope="module")
def run(ray_cluster, tmp_path_factory):
    """A run directory with an untrained network, and a manifest of eight videos, of which one is none."""
    root = tmp_path_factory.mktemp("videos")
    annotations = write_videos(root, num_train=8, num_test=8, size=48, num_frames=8)
    (root / "videos" / "val" / "up-0000.mp4").write_text("not a video")
    indexed, _ = index_videos(read_annotations("csv", root, annotations), cross_check=0)
    indexed["val"].write(root / "val.parquet")
    classes = list(Manifest.read(root / "val.parquet").classes)
    config = Config(model=ModelConfig(depth=26, width=16), data=DataConfig(num_segments=4, size=32))
    torch.manual_seed(0)
    model = build_model(**checkpoints.model_arguments(config), num_classes=len(classes))
    meta = checkpoints.Meta(
        config=config.to_dict(), classes=classes, position=Position(1, 0), step=1, fingerprint="f"
    )
    folder = root / "runs" / "first" / "checkpoint-00000001"
    folder.mkdir(parents=True)
    checkpoints.write(folder, model, {}, meta)
    return folder, root / "val.parquet"


@pytest.mark.ray
def test_a_report_lies_beside_the_checkpoint_and_one_that_fails_costs_no_result(run, monkeypatch):
    checkpoint, manifest = run
    result = evaluate(str(checkpoint), str(manifest))
    folder = checkpoint.parent / "evaluate-efficient-val"
    text = (folder / "report.html").read_text()
    assert result["files"]["report"] == str(folder / "report.html")
    assert "of 8 videos right. 1 could not be read" in " ".join(text.split())
    assert len(re.findall('src="data:image/jpeg', text)) == 7  # of the seven that can be read
    assert f"--checkpoint {checkpoint}" in text
    assert Manifest.read(manifest).fingerprint in text

    def broken(*_):
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(page, "render", broken)
    with logged() as said:
        again = evaluate(str(checkpoint), str(manifest), output=str(folder / "again"))
    assert again["top1"] == result["top1"]
    assert "report" not in again["files"]
    assert (folder / "again" / "scores.parquet").exists()
    assert any("ZeroDivisionError: a defect" in line for line in said)


def test_an_output_that_cannot_be_written_is_told_before_anything_is_measured(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--output .*file/report: cannot be written to"):
        output_folder(str(tmp_path / "file" / "report"), "runs/a/c", "efficient", "v", True)
    blocked = tmp_path / "file" / "checkpoint-00000001"
    with logged() as said:
        assert output_folder(None, str(blocked), "efficient", "val.parquet", True) is None
    assert "no report" in said[0]


def test_without_a_report_nothing_is_written_unless_a_folder_is_named(tmp_path):
    assert output_folder(None, str(tmp_path / "c"), "efficient", "v", False) is None
    named = output_folder(str(tmp_path / "out"), str(tmp_path / "c"), "efficient", "v", False)
    assert named == tmp_path / "out"


def test_the_record_of_a_run_in_a_bucket_is_looked_for_where_its_driver_kept_it():
    assert run_folder("s3://bucket/runs/first/checkpoint-00000001").parts[-4:] == (
        "s3", "bucket", "runs", "first",
    )  # fmt: skip
