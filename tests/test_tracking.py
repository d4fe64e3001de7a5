"""The MLflow record: it never stops a run, waits while the server is away, and ends up complete and once."""

from __future__ import annotations

import contextlib
import getpass
import json
import logging
import shutil
import socket
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from logged import logged

from stm import tracking
from stm.config import Config, TrackingConfig, TrainConfig
from stm.errors import UserError
from stm.repository import ROOT
from stm.tune import record


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A storage directory whose database exists already: making one takes seconds."""
    storage = tmp_path_factory.mktemp("store")
    run = storage / "first"
    run.mkdir()
    config = Config(train=TrainConfig(storage=str(storage)))
    return config, tracking.open_run(config, run, "first"), run


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    for name in ("TRACKING_URI", "EXPERIMENT_NAME", "EXPERIMENT_ID", "RUN_NAME"):
        monkeypatch.delenv(f"MLFLOW_{name}", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


@contextlib.contextmanager
def server(database, port=0):
    """MLflow's own server in this process, on loopback; yields its port."""
    from mlflow.server import app, handlers
    from werkzeug.serving import make_server

    handlers._tracking_store = None
    store = handlers._get_tracking_store(f"sqlite:///{database}", str(database.parent / "files"))
    listening = make_server("127.0.0.1", port, app, threaded=True)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    try:
        yield listening.server_port
    finally:
        listening.shutdown()
        listening.server_close()
        assert store is handlers._tracking_store
        handlers._tracking_store = None


def database(store, path):
    """A database that is there already; making one takes seconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(store[1].uri.removeprefix("sqlite:///"), path)
    return f"sqlite:///{path}"


def opened(storage, uri, name="run", **tracking_settings):
    folder = storage / name
    folder.mkdir(parents=True, exist_ok=True)
    config = Config(
        train=TrainConfig(storage=str(storage)),
        tracking=TrackingConfig(uri=uri, **tracking_settings),
    )
    return tracking.open_run(config, folder, name)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def steps_of(tracker, name):
    points = client_of(tracker).get_metric_history(tracker.run_id, name)
    return sorted((point.step, point.value) for point in points)


def client_of(tracker):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=tracker.uri)


def test_what_is_recorded_arrives(store, tmp_path):
    _, tracker, _ = store
    for step in range(5):
        tracker.metrics({"train/loss": 1.0 / (step + 1)}, step)
    tracker.params({"optim.lr": 0.1})
    tracker.tags({"stm.run": "first"})
    figure = tmp_path / "figure.txt"
    figure.write_text("x")
    tracker.artifact(figure, "figures")
    assert tracker.deliver()
    client = client_of(tracker)
    history = client.get_metric_history(tracker.run_id, "train/loss")
    assert [(m.step, m.value) for m in history] == [(s, 1.0 / (s + 1)) for s in range(5)]
    run = client.get_run(tracker.run_id)
    assert run.data.params["optim.lr"] == "0.1"
    assert run.data.tags["stm.run"] == "first"
    assert [f.path for f in client.list_artifacts(tracker.run_id, "figures")] == [
        "figures/figure.txt"
    ]


def test_a_failed_delivery_is_not_repeated_at_once(tmp_path, monkeypatch):
    tried = []
    monkeypatch.setattr(tracking, "client_of", lambda uri: tried.append(uri) or 1 / 0)
    tracker = tracking.Tracker("http://127.0.0.1:1", "run", tmp_path / "spool.jsonl")
    tracker.metrics({"loss": 1.0}, 1)
    assert not tracker.deliver()
    assert not tracker.deliver()
    assert len(tried) == 1
    assert not tracker.deliver(patient=True)
    assert len(tried) == 2


def test_a_run_that_is_opened_again_is_the_same_run(store):
    config, tracker, run = store
    assert tracking.open_run(config, run, "first").run_id == tracker.run_id


def test_the_record_of_a_run_that_was_copied_goes_to_the_copys_database(store, tmp_path):
    config, original, run = store
    copy = tmp_path / "copy"
    shutil.copytree(run.parent, copy)
    tracker = tracking.open_run(config, copy / "first", "first")
    assert tracker.run_id == original.run_id
    tracker.metrics({"copied": 1.0}, 1)
    assert tracker.deliver()
    assert client_of(tracker).get_metric_history(original.run_id, "copied")
    assert not client_of(original).get_metric_history(original.run_id, "copied")


def test_the_end_of_a_run_is_recorded_and_a_restart_reopens_it(store):
    _, tracker, _ = store
    for status in ("FAILED", "RUNNING", "FINISHED"):
        tracker.status(status)
        assert tracker.deliver()
        assert client_of(tracker).get_run(tracker.run_id).info.status == status


def test_a_spool_that_cannot_be_written_stops_nothing(tmp_path):
    tracker = tracking.Tracker("sqlite:///x.db", "run", tmp_path / "missing" / "spool.jsonl")
    tracker.metrics({"loss": 1.0}, 1)
    assert tracker.deliver()


def test_records_that_a_full_disk_costs_are_told_once_and_counted(tmp_path):
    spool = tmp_path / "spool.jsonl"
    tracker = tracking.Tracker("sqlite:///x.db", None, spool)
    for outage, num_lost in ((1, "1 record"), (2, "2 records")):
        spool.symlink_to("/dev/full")
        with logged() as said:
            for step in range(outage):
                tracker.metrics({"loss": 1.0}, step)
        assert [line.partition(":")[0] for line in said] == [
            f"{spool} cannot be written (No space left on device), so records for MLflow are lost until it can"
        ]
        spool.unlink()
        with logged() as said:
            tracker.metrics({"loss": 1.0}, 10)
            tracker.metrics({"loss": 1.0}, 11)
        assert said == [f"{spool} can be written again; {num_lost} lost"]
        assert len(spool.read_bytes().splitlines()) == 2
        spool.unlink()


def test_a_database_that_is_gone_is_told_in_a_line_and_gets_all_when_it_is_back(
    store, tmp_path, caplog, capfd
):
    uri = database(store, tmp_path / "disk" / "mlflow.db")
    tracker = opened(tmp_path, uri)
    (tmp_path / "disk").rename(tmp_path / "away")
    tracker.metrics({"train/loss": 1.0}, 1)
    assert not tracker.deliver(patient=True)
    assert "Traceback" not in capfd.readouterr().err, "MLflow's own log has pages of it"
    (tmp_path / "away").rename(tmp_path / "disk")
    assert tracker.deliver(patient=True)
    assert steps_of(tracker, "train/loss") == [(1, 1.0)]


def test_tracking_can_be_switched_off(tmp_path):
    tracker = tracking.open_run(Config(tracking=TrackingConfig(uri="none")), tmp_path, "x")
    tracker.metrics({"loss": 1.0}, 1)
    assert tracker.deliver()
    assert not list(Path(tmp_path).iterdir())


def test_storage_at_a_url_needs_a_server():
    with pytest.raises(UserError, match=r"--tracking\.uri"):
        tracking.tracking_uri(TrackingConfig(), "s3://bucket/runs")


def test_a_server_that_is_away_is_said_once_and_gets_all_when_it_is_back(store, tmp_path, caplog):
    database(store, tmp_path / "server.db")
    caplog.set_level(logging.INFO, logger="stm")
    port = free_port()
    tracker = opened(tmp_path, f"http://127.0.0.1:{port}")  # away before there is a run
    assert tracker.run_id is None
    tracker.metrics({"train/loss": 3.0}, 1)
    assert not tracker.deliver(patient=True)
    assert [record.message for record in caplog.records] == [
        f"MLflow at http://127.0.0.1:{port} accepts no records: Connection refused. They are kept in {tracker.spool} "
        "and sent when it answers"
    ]
    with server(tmp_path / "server.db", port):
        assert tracker.deliver(patient=True)
        assert steps_of(tracker, "train/loss") == [(1, 3.0)]
    assert "answers again" in caplog.text
    caplog.clear()
    tracker.metrics({"train/loss": 2.0}, 2)
    tracker.status("FINISHED")
    assert not tracker.deliver(patient=True)  # and away in the middle
    assert caplog.text.count("Connection refused") == 1
    with server(tmp_path / "server.db", port):
        assert tracker.deliver(patient=True)
        assert steps_of(tracker, "train/loss") == [(1, 3.0), (2, 2.0)]
        assert client_of(tracker).get_run(tracker.run_id).info.status == "FINISHED"


@contextlib.contextmanager
def refusing(status):
    """A server that answers everything with one HTTP status."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"not you")

        do_POST = do_GET

        def log_message(self, *said):
            del said

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{listening.server_port}"
    finally:
        listening.shutdown()
        listening.server_close()


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("mongo://ann:pa55@host/db", "unsupported URI 'mongo://***@host/db'"),
        ("postgresql+nodriver://ann:pa55@host/db", "postgresql.nodriver"),
        ("mysql+oursql://ann:pa55@host/db", "Can't load plugin"),
        ("mysql://ann:pa55@127.0.0.1:9/db", "No module named"),
        ("sqlite://:x:y", "'x:y'"),
    ],
)
def test_a_place_that_can_never_work_is_refused_in_mlflows_words(tmp_path, uri, said):
    with pytest.raises(UserError) as refused:
        opened(tmp_path, uri)
    assert said in str(refused.value)
    assert "--tracking.uri none" in str(refused.value)
    assert "pa55" not in str(refused.value)


@pytest.mark.parametrize("status", [401, 403])
def test_a_server_that_refuses_us_is_refused_at_the_start(tmp_path, status):
    with refusing(status) as address, pytest.raises(UserError) as refused:
        opened(tmp_path, f"http://ann:pa55@{address}")
    assert f"failed with error code {status}" in str(refused.value)
    assert "not you" in str(refused.value)
    assert "pa55" not in str(refused.value)


def test_a_server_that_fails_for_now_is_no_reason_to_refuse(tmp_path):
    with refusing(500) as address:
        tracker = opened(tmp_path, f"http://{address}")
    assert tracker.away
    assert tracker.run_id is None


def test_another_place_gets_a_run_of_its_own_and_the_first_one_stays(
    tmp_path,
):
    places = [f"sqlite:///{tmp_path}/elsewhere/{name}.db" for name in "ab"]
    first = opened(tmp_path, places[0])
    first.metrics({"train/loss": 3.0}, 1)
    assert first.deliver()
    second = opened(tmp_path, places[1])
    assert second.run_id != first.run_id
    second.metrics({"train/loss": 2.0}, 2)
    assert second.deliver()
    assert steps_of(second, "train/loss") == [(1, 3.0), (2, 2.0)]
    assert client_of(second).get_run(second.run_id).data.tags["stm.continues"] == (
        f"{first.run_id} in {places[0]}"
    )
    assert steps_of(first, "train/loss") == [(1, 3.0)]
    again = opened(tmp_path, places[0])
    assert again.run_id == first.run_id
    assert again.deliver()
    assert steps_of(again, "train/loss") == [(1, 3.0), (2, 2.0)]


@pytest.mark.parametrize("gone", ["run", "experiment"])
@pytest.mark.parametrize("when", ["between runs", "in mid-run"])
def test_what_was_deleted_is_made_anew_with_the_whole_record(store, tmp_path, gone, when, caplog):
    uri = store[1].uri
    name = f"{gone}-{when[:2]}"
    tracker = opened(tmp_path, uri, experiment=name)
    tracker.metrics({"train/loss": 3.0}, 1)
    tracker.params({"optim.lr": 0.1})
    assert tracker.deliver()
    client, before = client_of(tracker), tracker.run_id
    client.set_tag(before, "mlflow.parentRunId", store[1].run_id)
    if gone == "run":
        client.delete_run(before)
    else:
        client.delete_experiment(client.get_run(before).info.experiment_id)
    if when == "between runs":
        tracker = opened(tmp_path, uri, experiment=name)
    tracker.metrics({"train/loss": 2.0}, 2)
    assert tracker.deliver(patient=True)
    run = client.get_run(tracker.run_id)
    assert run.info.run_id != before
    assert run.info.lifecycle_stage == "active"
    assert run.data.params == {"optim.lr": "0.1"}
    assert run.data.tags["stm.continues"] == before
    assert run.data.tags["mlflow.parentRunId"] == store[1].run_id
    assert steps_of(tracker, "train/loss") == [(1, 3.0), (2, 2.0)]
    found = client.get_experiment(run.info.experiment_id)
    assert found.name == (name if gone == "run" else f"{name}-2")
    assert (
        client.get_run(before).info.lifecycle_stage == "deleted"
    )  # nothing of the user's is undone
    assert (tmp_path / "run" / "tracking.run_id").read_text() == tracker.run_id
    assert before in caplog.text


def test_what_the_server_refuses_alone_is_said_and_holds_nothing_back(store, tmp_path, caplog):
    tracker = opened(tmp_path, store[1].uri)
    tracker.metrics({"train/loss": 3.0, "a name that: is? none": 1.0}, 1)
    tracker.params({"optim.lr": 0.1, "no!name": 1})
    tracker.tags({"stm.run": "x", "y" * 300: "too long a name"})
    tracker.artifact(tmp_path / "gone.png")
    tracker.metrics({"train/loss": 2.0}, 2)
    tracker.status("FINISHED")
    assert tracker.deliver()
    run = client_of(tracker).get_run(tracker.run_id)
    assert steps_of(tracker, "train/loss") == [(1, 3.0), (2, 2.0)]
    assert run.data.params == {"optim.lr": "0.1"}
    assert run.data.tags["stm.run"] == "x"
    assert run.info.status == "FINISHED"
    for name in ("a name that: is? none", "no!name", "y" * 300, "gone.png"):
        assert sum(name in record.message for record in caplog.records) == 1, name


def test_a_file_that_its_store_does_not_take_is_tried_three_times_beside_the_rest(tmp_path, caplog):
    storage = tmp_path / "store"
    tracker = opened(storage, None)
    (storage / "mlflow-artifacts").write_text("no folder")  # where the files were to go
    figure = tmp_path / "figure.txt"
    figure.write_text("x")
    tracker.artifact(figure)
    tracker.metrics({"train/loss": 2.0}, 2)
    tracker.status("FINISHED")
    assert not tracker.deliver()
    assert steps_of(tracker, "train/loss") == [(2, 2.0)]
    assert client_of(tracker).get_run(tracker.run_id).info.status == "FINISHED"
    assert not tracker.deliver(patient=True)
    (storage / "mlflow-artifacts").unlink()
    assert tracker.deliver(patient=True)
    assert [file.path for file in client_of(tracker).list_artifacts(tracker.run_id)] == [
        "figure.txt"
    ]
    (storage / "mlflow-artifacts").rename(tmp_path / "aside")
    (storage / "mlflow-artifacts").write_text("no folder")
    tracker.artifact(figure)
    assert [tracker.deliver(patient=True) for _ in range(3)] == [False, False, True]
    assert "figure.txt, which is left out" in caplog.text


def test_a_mark_beyond_the_spools_end_is_noticed(store, tmp_path, caplog):
    tracker = opened(tmp_path, store[1].uri)
    tracker.metrics({"train/loss": 3.0}, 1)
    mark = tmp_path / "run" / "tracking.delivered"
    for damaged in (f"9999 {tracker.run_id}", "", "no number"):
        mark.write_text(damaged)
        assert tracker.deliver()
        assert mark.read_text() == f"{tracker.spool.stat().st_size} {tracker.run_id}"
    assert steps_of(tracker, "train/loss") == [(1, 3.0)]
    assert caplog.text.count("is shorter than the part that was delivered") == 1


def test_a_mark_of_an_earlier_version_still_counts(store, tmp_path):
    tracker = opened(tmp_path, store[1].uri)
    tracker.metrics({"train/loss": 3.0}, 1)
    (tmp_path / "run" / "tracking.runs").unlink()
    (tmp_path / "run" / "tracking.delivered").write_text(str(tracker.spool.stat().st_size))
    again = opened(tmp_path, store[1].uri)
    assert again.run_id == tracker.run_id
    assert again.deliver()
    assert steps_of(again, "train/loss") == []


def test_mlflows_variables_name_place_experiment_and_run_and_an_option_wins(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/theirs.db")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "theirs")
    monkeypatch.setenv("MLFLOW_RUN_NAME", "their run")
    tracker = opened(tmp_path / "runs", None)
    assert tracker.uri == f"sqlite:///{tmp_path}/theirs.db"
    run = client_of(tracker).get_run(tracker.run_id)
    assert run.info.run_name == "their run"
    assert client_of(tracker).get_experiment(run.info.experiment_id).name == "theirs"
    ours = opened(tmp_path / "runs", f"sqlite:///{tmp_path}/ours.db", "b", experiment="ours")
    assert ours.uri == f"sqlite:///{tmp_path}/ours.db"
    experiment = client_of(ours).get_run(ours.run_id).info.experiment_id
    assert client_of(ours).get_experiment(experiment).name == "ours"
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", experiment)
    other = opened(tmp_path / "runs", ours.uri, "c")
    assert client_of(other).get_run(other.run_id).info.experiment_id == experiment
    assert opened(tmp_path / "runs", "none", "d").uri is None


def test_a_setting_that_changed_when_the_run_was_continued_stands_beside_the_first(store, tmp_path):
    tracker = opened(tmp_path, store[1].uri)
    for step, lr in ((0, 0.1), (0, 0.1), (120, 0.05), (120, 0.02), (200, 0.1)):
        tracker.params({"optim.lr": lr, "model.depth": 50}, step)
    tracker.params({"optim.lr": 0.1, "model.depth": 50, "train.new": "x"}, 300)
    wanted = {
        "optim.lr": "0.1",
        "optim.lr from step 120": "0.05",
        "optim.lr from step 120 again": "0.02",
        "optim.lr from step 200": "0.1",
        "model.depth": "50",
        "train.new": "x",
    }
    assert tracker.deliver()
    assert client_of(tracker).get_run(tracker.run_id).data.params == wanted
    (tmp_path / "run" / "tracking.delivered").unlink()
    assert tracker.deliver()  # the same once more, as after a killed driver
    assert client_of(tracker).get_run(tracker.run_id).data.params == wanted


def test_the_page_of_a_run_says_who_made_it_with_what_and_from_what(store, tmp_path):
    tracker = opened(tmp_path, store[1].uri)
    tracker.dataset("train", "digits", "ab" * 32, "/data/train.parquet", {"videos": 3})
    tracker.dataset("val", "digits", "cd" * 32, "/data/val.parquet", {"videos": 2})
    tracker.metrics({"val_top1": 0.5, "train/loss": 1.0}, 1)
    assert tracker.deliver()
    run = client_of(tracker).get_run(tracker.run_id)
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=ROOT)
    assert run.data.tags.get("mlflow.source.git.commit", "") == head.stdout.strip()
    assert run.data.tags["mlflow.user"] == getpass.getuser()
    assert run.data.tags["mlflow.source.name"]
    used = {each.tags[0].value: each.dataset for each in run.inputs.dataset_inputs}
    assert used["train"].digest == ("ab" * 32)[:36]
    assert json.loads(used["val"].profile) == {"videos": 2, "fingerprint": "cd" * 32}
    assert json.loads(used["val"].source) == {"uri": "/data/val.parquet"}
    assert run.data.metrics == {"val/top1": 0.5, "train/loss": 1.0}


def test_trials_that_began_while_the_server_was_away_come_below_their_sweep(store, tmp_path):
    uri = database(store, tmp_path / "a.db")
    folder = tmp_path / "sweep" / "sweep-1"
    folder.mkdir(parents=True)
    record.open_child(record.Parent(uri, None), folder, "sweep-1", "1", "sweep")
    tracking.Tracker(uri, None, folder / "tracking.jsonl").metrics({"train/loss": 2.0}, 1)
    assert not (folder / "tracking.run_id").exists()

    sweep = opened(tmp_path, uri, "sweep")
    parent = record.Parent(uri, sweep.run_id)
    assert record.find_children(parent) == {}
    config = Config(train=TrainConfig(storage=str(folder.parent)), tracking=TrackingConfig(uri=uri))
    for _ in range(2):
        record.deliver(parent, config, {"sweep-1": folder}, "sweep")
        (child,) = record.find_children(parent).values()
    assert child.info.run_id == (folder / "tracking.run_id").read_text()
    assert child.data.metrics == {"train/loss": 2.0}
    record.close_children(parent, {"1": ("FINISHED", "all epochs")})
    assert record.find_children(parent)["1"].info.status == "FINISHED"


def test_a_trial_of_a_sweep_that_goes_on_elsewhere_is_recorded_there(store, tmp_path):
    made = []
    for name in ("a.db", "b.db", "a.db"):
        uri = (
            database(store, tmp_path / name) if name not in made else f"sqlite:///{tmp_path / name}"
        )
        made.append(name)
        sweep = opened(tmp_path, uri, "sweep")
        trial = tmp_path / "sweep" / "trial"
        trial.mkdir(exist_ok=True)
        parent = record.Parent(uri, sweep.run_id)
        record.open_child(parent, trial, "trial", "1")
        tracker = opened(tmp_path / "sweep", uri, "trial")
        assert [run.info.run_id for run in record.find_children(parent).values()] == [
            tracker.run_id
        ]
