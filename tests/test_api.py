"""`import stm`: fast, silent, complete; what its functions return; what is loaded answers as the verbs do."""

from __future__ import annotations

import ast
import dataclasses
import json
import logging
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import stm
from stm.checkpoint import format as checkpoints
from stm.errors import UserError
from stm.log import get_logger
from stm.results import EvaluateResult, Prediction, PredictResult, TrainResult
from stm.train.progress import BoardHandler

ROOT = Path(__file__).parents[1]


def python(code):
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=200, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done


def test_importing_stm_imports_nothing_heavy():
    code = "import sys; before = set(sys.modules); import stm; print(*set(sys.modules) - before)"
    imported = set(python(code).stdout.split())
    assert "stm" in imported
    ours = {name for name in imported if name.startswith("stm.")}
    assert ours <= {"stm.version"}, "each name is imported when it is used"
    assert not imported & {"torch", "ray", "numpy", "av", "mlflow", "rich", "yaml", "inspect"}


def test_every_name_of_stm_is_there_and_listed():
    assert {"train", "evaluate", "index", "predict", "load", "Block", "build_model"} <= set(
        dir(stm)
    )
    for name in stm.__all__:
        assert callable(getattr(stm, name)) or name == "events", name
    assert issubclass(stm.events.Stepped, stm.events.Event)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        stm.trian  # noqa: B018


def test_editors_and_type_checkers_see_the_names_that_are_imported_when_used():
    shown = re.findall(r"^    from \S+ import \w+ as (\w+)$", Path(stm.__file__).read_text(), re.M)
    assert sorted(shown) == sorted(stm.__all__)


def test_train_and_evaluate_are_packages_and_functions_whatever_was_imported_first():
    import stm.evaluate.evaluate
    import stm.train.trainer

    for package in (stm.train, stm.evaluate):
        assert pickle.loads(pickle.dumps(package)) is package
    with pytest.raises(UserError, match=r"data\.train is not set"):
        stm.train(stm.Config())
    with pytest.raises(UserError, match="--checkpoint nowhere: no such directory"):
        stm.evaluate("nowhere", "val.parquet")


def test_a_function_takes_no_callback_for_its_lines():
    for path in (ROOT / "stm").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.arguments):
                names = {argument.arg for argument in [*node.args, *node.kwonlyargs]}
                assert not names & {"say", "show", "tell"} or path.parts[-2] == "jobs", path


def test_every_logger_hides_secrets():
    """A logger that is made by `logging.getLogger` alone does not."""
    bare = [
        str(path)
        for path in (ROOT / "stm").rglob("*.py")
        if re.search(r'getLogger\((__name__|"stm\.)', path.read_text())
    ]
    assert bare == []


def test_nothing_is_printed_and_the_root_logger_is_left_alone():
    code = """
import logging, stm
from stm.log import get_logger
get_logger("stm.x").warning("a warning")
assert logging.getLogger().handlers == [] and logging.getLogger().level == logging.WARNING
logging.basicConfig(format="%(name)s %(message)s")
get_logger("stm.x").info("nobody asked for progress")
get_logger("stm.x").warning("once https://ann:pa55@host/x")
"""
    assert python(code).stderr == "stm.x once https://***@host/x\n"


@pytest.mark.ray
def test_what_a_worker_logs_reaches_the_driver_once_under_its_name(ray_cluster, caplog):
    import ray

    from stm.train.progress import board
    from stm.train.recorder import Recorder

    class Tracker:
        spool = Path("no-such-spool")

    @ray.remote
    def work(actor):
        from stm.log import flush, shown_by

        with shown_by(BoardHandler(actor), logging.DEBUG):
            get_logger("stm.somewhere").warning("rank 3 of ftp://ann:pa55@host is slow")
            get_logger("stm.somewhere").debug("in detail")
            flush()

    caplog.set_level(logging.DEBUG, logger="stm")
    with board(Recorder(Tracker(), "first").handle) as actor:
        ray.get(work.remote(actor))
    assert [r for r in caplog.record_tuples if r[0] == "stm.somewhere"] == [
        ("stm.somewhere", logging.WARNING, "rank 3 of ftp://***@host is slow"),
        ("stm.somewhere", logging.DEBUG, "in detail"),
    ]


# ---------------------------------------------------------------------- results


def test_a_result_reads_like_its_json_object():
    found = PredictResult(
        checkpoint="runs/a", num_videos=2, unreadable=1, output=None,
        videos=[
            Prediction(path="a.mp4", top5=[{"class": "up", "score": 0.5}]),
            Prediction(path="b.mp4", error="not_found"),
        ],
    )  # fmt: skip
    assert json.loads(json.dumps(found.as_dict())) == {
        "checkpoint": "runs/a",
        "num_videos": 2,
        "unreadable": 1,
        "videos": [
            {"path": "a.mp4", "top5": [{"class": "up", "score": 0.5}]},
            {"path": "b.mp4", "error": "not_found"},
        ],
        "output": None,
        "taken": None,
    }
    assert found["videos"][0]["top5"][0]["class"] == found.videos[0].name == "up"
    assert "error" not in found.videos[0]
    assert found.videos[1].name is None
    with pytest.raises(KeyError):
        found["video"]


def test_the_keys_that_scripts_read_are_those_of_version_0_1_and_new_ones_behind():
    def names(kind):
        return [field.name for field in dataclasses.fields(kind)]

    assert names(TrainResult) == [
        "run", "run_id", "checkpoint", "last_checkpoint", "steps", "epochs", "best_epoch", "val_top1", "val_top5",
        "val_num_videos", "last_val_top1", "test_list",
    ]  # fmt: skip
    assert names(EvaluateResult) == [
        "protocol", "checkpoint", "manifest", "num_videos", "unreadable", "top1", "top5", "mean_class_accuracy",
        "per_class", "class_counts", "failures", "files", "frames", "taken", "flattered",
    ]  # fmt: skip


# ---------------------------------------------------------------------- a network that is loaded


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A run directory with one checkpoint of an untrained network, and the folder of a few videos."""
    from stm.data.stream.plan import Position
    from stm.data.synthetic import CLASSES, write_videos
    from stm.model import build_model

    root = tmp_path_factory.mktemp("loaded")
    write_videos(root, num_train=8, num_test=8, size=40, num_frames=12)
    config = stm.Config(
        model=stm.ModelConfig(depth=26, width=16), data=stm.DataConfig(num_segments=4, size=32)
    )
    model = build_model(**checkpoints.model_arguments(config), num_classes=len(CLASSES))
    meta = checkpoints.Meta(
        config=config.to_dict(), classes=list(CLASSES), dataset="demo", position=Position(1, 0), step=1,
        fingerprint="f", world_size=1, metrics={}, versions={}, mlflow_run_id=None,
    )  # fmt: skip
    folder = root / "runs" / "first" / "checkpoint-00000001"
    folder.mkdir(parents=True)
    checkpoints.write(folder, model, {}, meta)
    return folder, root / "videos" / "val"


@pytest.mark.parametrize("named", ["run", "checkpoint", "url"])
def test_a_run_a_checkpoint_or_a_url_is_loaded(checkpoint, named):
    folder, _ = checkpoint
    model = stm.load({"run": folder.parent, "checkpoint": folder, "url": f"file://{folder}"}[named])
    assert len(model.classes) == 8
    assert model.network.training is False


def test_a_loaded_network_predicts_what_stm_predict_does(checkpoint):
    folder, videos = checkpoint
    model = stm.load(folder.parent)
    paths = sorted(str(path) for path in videos.iterdir())[:3]
    asked = stm.predict(str(folder), paths)
    found = model.predict([*paths, "nothing.mp4"])
    for ours, theirs in zip(found, asked.videos, strict=False):
        assert (ours.path, ours.name) == (theirs.path, theirs.name)
        scores = [[row["score"] for row in rows.top5] for rows in (ours, theirs)]
        assert np.allclose(*scores, atol=1e-5)
    assert found[3].error.startswith("not_found")


def test_transform_makes_what_the_network_takes(checkpoint):
    folder, videos = checkpoint
    model = stm.load(folder)
    path = min(videos.iterdir())
    clip = model.transform(path)
    assert tuple(clip.shape) == (4, 3, 32, 32)
    scores = model.network(clip[None]).softmax(1)[0].detach()
    first = model.predict(path)[0]
    assert model.classes[int(scores.argmax())] == first.name
    assert float(scores.max()) == pytest.approx(first.top5[0]["score"], abs=1e-4)


def test_clips_are_taken_as_arrays_alone_in_a_batch_and_beside_paths(checkpoint):
    folder, videos = checkpoint
    model = stm.load(folder)
    clips = np.random.default_rng(0).integers(0, 256, (2, 4, 32, 32, 3), np.uint8)
    alone, both = model.predict(clips[1])[0], model.predict(clips)[1]
    assert alone.path is None
    assert alone.top5[0]["score"] == pytest.approx(both.top5[0]["score"], abs=1e-5)
    mixed = model.predict([str(min(videos.iterdir())), clips[1]])
    assert mixed[1].name == alone.name
    with pytest.raises(ValueError, match=r"must be a clip, uint8 \[T, H, W, 3\]"):
        model.predict([clips[0].astype(np.float32)])


def test_what_is_no_checkpoint_is_one_message():
    with pytest.raises(UserError, match="no such directory"):
        stm.load("nowhere")
