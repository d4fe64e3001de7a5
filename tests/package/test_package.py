"""A registered network answers as its checkpoint does, by name, from paths, URLs and clips."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import socket
import sqlite3
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipelines import cli
from stm import load, tracking
from stm.checkpoint import format as checkpoints
from stm.checkpoint import locate as registry_module
from stm.checkpoint.format import Meta
from stm.checkpoint.locate import locate, open_client
from stm.config import Config, TrainConfig
from stm.data.stream.plan import Position
from stm.errors import UserError
from stm.package.network import PackagedNetwork
from stm.package.register import _measurement, home_of
from stm.packing.card import model_card
from stm.packing.logged import log_checkpoint
from stm.tracking import place_of
from tests.package.untrained import CLASSES, SIZE, T, write_checkpoint
from tests.train.test_finished import write_manifest
from tests.videos import write_video


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two checkpoints, three videos (one of them broken) and a registry, in one folder."""
    root = tmp_path_factory.mktemp("package")
    write_checkpoint(root / "runs" / "first" / "checkpoint-00000007", seed=0)
    write_checkpoint(root / "runs" / "second" / "checkpoint-00000007", seed=1)
    for name, seed in (("a", 0), ("b", 5)):
        write_video(root / f"{name}.mp4", num_frames=12, seed=seed)
    (root / "broken.mp4").write_bytes((root / "a.mp4").read_bytes()[:700])
    return root


@pytest.fixture
def registry(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return f"sqlite:///{folder / 'runs' / 'mlflow.db'}"


def stm(capfd, *arguments: str) -> dict:
    assert cli.main([*arguments, "--json"]) == 0
    return json.loads(capfd.readouterr().out)


@pytest.mark.long
def test_a_registered_network_answers_as_its_checkpoint_does(folder, registry, capfd, monkeypatch):
    import mlflow.pyfunc

    videos = [str(folder / "a.mp4"), str(folder / "b.mp4")]
    first, second = (str(folder / "runs" / name) for name in ("first", "second"))
    registered = stm(
        capfd, "register", "--checkpoint", first, "--name", "actions", "--rule", "always"
    )
    assert (registered["version"], registered["champion"]) == (1, True)
    assert registered["tracking"] == registry  # the one beside the run
    kept = stm(capfd, "register", "--checkpoint", second, "--name", "actions")
    assert (kept["version"], kept["champion"], kept["previous"]) == (2, False, 1)

    # By name: through `stm predict`, in a folder with runs/, and elsewhere with --tracking.
    expected = stm(capfd, "predict", "--checkpoint", first, *videos)["videos"]
    monkeypatch.chdir(folder)
    named = stm(capfd, "predict", "--model", "models:/actions@champion", *videos)
    assert named["checkpoint"] == "models:/actions/1"
    assert named["videos"] == expected
    monkeypatch.chdir(folder.parent)
    other = stm(
        capfd, "predict", "--checkpoint", "models:/actions/2", "--tracking", registry, videos[0]
    )
    assert other["videos"][0]["top5"] != expected[0]["top5"]

    # Fetched once, whole, and kept.
    location = locate("models:/actions@champion", registry)
    fetched = Path(location.directory)
    assert location.label == "models:/actions/1"
    assert {path.name for path in fetched.iterdir()} == {"model.safetensors", "meta.json"}
    assert len(list(fetched.parent.iterdir())) == 2  # both versions, and nothing half
    with pytest.raises(UserError, match="models:/actions@nobody: not in sqlite"):
        locate("models:/actions@nobody", registry)

    # Through MLflow.
    package = next(
        path.parent
        for path in (folder / "runs" / "mlflow-artifacts").rglob("MLmodel")
        if fetched.name in str(path)
    )
    model = mlflow.pyfunc.load_model(str(package))
    answers = model.predict([*videos, str(folder / "broken.mp4")])
    for row, answer in zip(expected, answers.to_dict("records"), strict=False):
        assert [entry["class"] for entry in row["top5"]] == answer["classes"]
        scores = [entry["score"] for entry in row["top5"]]
        assert answer["scores"] == pytest.approx(scores, abs=1e-6)
    assert answers["error"].str.len().gt(0).tolist() == [False, False, True]
    assert answers["classes"][2] == []

    # The example that travels with it is one that it answers.
    assert model.predict(model.input_example)["error"].tolist() == [""]
    # What is needed is pinned, and Ray is not; nothing is pickled; the card is there.
    needed = (package / "requirements.txt").read_text()
    assert "torch==" in needed
    assert "+cpu" not in needed
    assert "ray" not in needed
    assert not [path for path in package.rglob("*") if path.suffix in (".pkl", ".pt", ".pyc")]
    card = (package / "README.md").read_text()
    assert "f" * 64 in card
    assert all(name in card for name in CLASSES)
    assert "not measured when it was registered" in card


def test_a_version_belongs_to_the_run_that_its_record_has_now(tmp_path):
    folder = tmp_path / "runs" / "first"
    folder.mkdir(parents=True)
    uri = f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}"
    client = open_client(uri)
    experiment = client.create_experiment("stm")
    first, anew = (client.create_run(experiment).info.run_id for _ in range(2))
    meta = Meta(
        config={}, classes=["a"], position=Position(1, 0), step=7, fingerprint="f", mlflow_run_id=first
    )  # fmt: skip
    checkpoint = str(folder / "checkpoint-00000007")
    assert home_of(client, uri, "actions", checkpoint, meta) == (experiment, first)
    (folder / "tracking.runs").write_text(json.dumps({place_of(uri, folder): anew}))
    assert home_of(client, uri, "actions", checkpoint, meta) == (experiment, anew)
    client.delete_run(first)
    client.delete_run(anew)
    here, made = home_of(client, uri, "actions", checkpoint, meta)
    assert here == experiment
    assert made not in (first, anew)
    client.delete_experiment(experiment)
    other, _ = home_of(client, uri, "actions", checkpoint, meta)
    assert client.get_experiment(other).name == "stm-2"


def test_a_run_logs_its_best_checkpoint_as_a_model_once(folder, tmp_path):
    import mlflow

    run = tmp_path / "runs" / "mine"
    run.mkdir(parents=True)
    checkpoint = str(folder / "runs" / "first" / "checkpoint-00000007")
    config = Config(train=TrainConfig(name="mine", storage=str(tmp_path / "runs")))
    tracker = tracking.open_run(config, run, "mine")
    tracker.pack = log_checkpoint
    tracker.model(checkpoint)
    assert tracker.deliver(patient=True)
    (run / "tracking.delivered").unlink()  # as if it had been killed before it noted that
    assert tracker.deliver(patient=True)
    client = open_client(tracker.uri)
    found = client.get_run(tracker.run_id)
    (model,) = client.search_logged_models([found.info.experiment_id])
    assert (model.source_run_id, model.status.value) == (tracker.run_id, "READY")
    assert [output.model_id for output in found.outputs.model_outputs] == [model.model_id]
    package = mlflow.pyfunc.load_model(model.artifact_location)
    video = str(folder / "a.mp4")
    answer = package.predict([video])["classes"][0]
    assert answer == [entry["class"] for entry in load(checkpoint).predict(video)[0].top5]
    card = (Path(model.artifact_location.removeprefix("file://")) / "README.md").read_text()
    assert f"models:/{model.model_id}" in card


def test_a_model_that_cannot_be_packed_is_tried_three_times_beside_the_rest(tmp_path, caplog):
    run = tmp_path / "runs" / "mine"
    damaged = Path(write_checkpoint(run / "checkpoint-00000007"))
    (damaged / "model.safetensors").write_bytes(b"cut")
    config = Config(train=TrainConfig(name="mine", storage=str(tmp_path / "runs")))
    tracker = tracking.open_run(config, run, "mine")
    tracker.pack = log_checkpoint
    tracker.model(str(damaged))
    tracker.status("FINISHED")
    with caplog.at_level("WARNING", "stm"):
        assert [tracker.deliver(patient=True) for _ in range(3)] == [False, False, True]
    said = [record.getMessage() for record in caplog.records]
    assert len([line for line in said if "is sent again" in line]) == 2
    assert "did not accept the model of" in said[-1]
    assert "which is left out" in said[-1]
    assert open_client(tracker.uri).get_run(tracker.run_id).info.status == "FINISHED"


def test_paths_urls_bytes_and_clips_in_one_call_come_back_in_order(folder, registry):
    network = PackagedNetwork(locate(str(folder / "runs" / "first")).directory)
    path = folder / "a.mp4"
    inline = "data:video/mp4;base64," + base64.b64encode(path.read_bytes()).decode()
    clips = np.random.default_rng(0).integers(0, 256, (3, T, SIZE, SIZE, 3), np.uint8)
    longer = np.concatenate([clips[0], clips[1]])  # another T
    rows = [str(path), clips[0], "nowhere.mp4", path.as_uri(), longer, inline, clips[1].tolist()]
    answers = network.predict(rows, {"top_k": 2})
    assert answers["error"].tolist()[2].startswith("not_found")
    assert [bool(error) for error in answers["error"]] == [number == 2 for number in range(7)]
    alone = network.predict(clips, {"top_k": 2})  # one array of clips, without MLflow between
    for number, other in ((1, 0), (6, 1)):
        assert answers["classes"][number] == alone["classes"][other]
        assert answers["scores"][number] == pytest.approx(alone["scores"][other], abs=1e-6)
    for number in (3, 5):  # the same video, by another name
        assert answers["scores"][number] == pytest.approx(answers["scores"][0], abs=1e-6)
    assert len(answers["classes"][0]) == 2
    frame = network.predict(pd.DataFrame({"video": rows[:2]}), {"top_k": 2})
    assert frame["classes"].tolist() == answers["classes"].tolist()[:2]


@pytest.mark.parametrize(
    "row", [3, np.zeros((4, 32, 32, 3), np.float32), np.zeros((4, 32, 32), np.uint8), [[1], [1, 2]]]
)
def test_what_is_neither_video_nor_clip_is_refused_by_row(folder, registry, row):
    network = PackagedNetwork(locate(str(folder / "runs" / "first")).directory)
    with pytest.raises(ValueError, match="row 0: "):
        network.predict([row])


def test_a_model_that_is_not_there_is_one_message(folder, registry, monkeypatch, tmp_path):
    with pytest.raises(UserError, match=r"a registered model is models:/NAME@champion"):
        locate("models:/actions", registry)
    with pytest.raises(UserError, match="no such folder"):
        locate("models:/actions@champion", f"sqlite:///{tmp_path / 'nowhere' / 'mlflow.db'}")
    missing = tmp_path / "mlflow.db"
    with pytest.raises(UserError, match="no such database"):
        locate("models:/actions@champion", f"sqlite:///{missing}")
    assert not missing.exists()  # and none is made by asking
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UserError, match="the registry is not set"):
        locate("models:/actions@champion")


@pytest.mark.parametrize("verb", ["predict", "serve"])
@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("models:/nothing@champion", "Registered Model with name=nothing not found."),
        ("models:/named@nobody", "Registered model alias nobody not found."),
        ("models:/named/99", "Model Version (name=named, version=99) not found."),
    ],
)
def test_a_name_alias_or_version_that_is_not_registered_is_one_message_and_status_2(
    folder, registry, capfd, verb, model, reason
):
    open_client(registry).create_registered_model("named")
    try:
        more = [str(folder / "a.mp4")] if verb == "predict" else []
        assert cli.main([verb, "--model", model, "--tracking", registry, *more]) == 2
    finally:
        open_client(registry).delete_registered_model("named")
    out, err = capfd.readouterr()
    assert out == ""
    assert err.splitlines(keepends=True)[-1] == (  # a slow machine prints "loading Ray" before
        f"stm {verb}: {model}: not in {registry}: {reason} `stm register` adds a model; "
        "--tracking names another server or database\n"
    )


@pytest.mark.parametrize("verb", ["predict", "serve", "register"])
@pytest.mark.parametrize("listens", [False, True])
def test_a_server_that_is_down_or_silent_is_one_message_and_status_2_in_time(
    folder, capfd, monkeypatch, verb, listens
):
    for key in registry_module._ASKING:
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setitem(registry_module._ASKING, "MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setitem(registry_module._ASKING, "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if listens:  # it takes the connection, and never says a word
            server.listen()
        uri = f"http://127.0.0.1:{server.getsockname()[1]}"
        first = str(folder / "runs" / "first")
        arguments = {
            "predict": ["--model", "models:/actions@champion", str(folder / "a.mp4")],
            "serve": ["--model", "models:/actions@champion"],
            "register": ["--checkpoint", first, "--name", "actions"],
        }[verb]
        started = time.monotonic()
        for _ in range(
            2
        ):  # what the first has set in the environment must not make the second wait
            assert cli.main([verb, "--tracking", uri, *arguments]) == 2
        assert time.monotonic() - started < 20
    out, err = capfd.readouterr()
    assert out == ""
    reason = "timed out" if listens else "Connection refused"
    said = [line for line in err.splitlines() if ": its best checkpoint" not in line]
    assert said == 2 * [f"stm {verb}: --tracking {uri} does not answer: {reason}"]
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "30"  # files get the time they had


def test_secrets_of_the_manifest_and_the_root_stay_out_of_card_and_tags(folder, tmp_path):
    place = tmp_path / "list?X-Amz-Signature=5ecret"
    place.mkdir()
    write_manifest(place / "val.parquet", 4, "made up")
    meta = checkpoints.read_meta(str(folder / "runs" / "first" / "checkpoint-00000007"))
    numbers = dict.fromkeys(("top1", "top5", "mean_class_accuracy"), 0.5)
    result = {"protocol": "efficient", "num_videos": 4, "unreadable": 0, **numbers}
    measured = _measurement(result, str(place / "val.parquet"), None, meta)
    command = "stm evaluate --data.root 'https://ann:5ecret@host/videos?token=5ecret'"
    card = model_card("actions", meta, 1, measured, {}, command, [])
    assert "https://***@host/videos?token=***" in card
    assert "5ecret" not in card + json.dumps(measured.to_tags())


def test_a_registry_that_fails_is_one_message_and_status_2(folder, registry, capfd, tmp_path):
    open_client(registry)
    database = tmp_path / "mlflow.db"
    shutil.copy(folder / "runs" / "mlflow.db", database)
    open_client(f"sqlite:///{database}").create_registered_model("failing")
    with contextlib.closing(sqlite3.connect(database)) as opened:
        opened.execute("DROP TABLE registered_model_aliases")
    arguments = ["--checkpoint", str(folder / "runs" / "first"), "--name", "failing"]
    assert cli.main(["register", "--tracking", f"sqlite:///{database}", *arguments]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert f"stm register: sqlite:///{database} reports an error: " in err
    assert "packing" not in err
    assert "Traceback" not in err
