"""The MLflow record: it never stops a run, waits while the server is away, and ends up complete and once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from stm import tracking
from stm.config import Config, TrackingConfig, TrainConfig
from stm.errors import UserError


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A storage directory whose database exists already: making one takes seconds."""
    storage = tmp_path_factory.mktemp("store")
    run = storage / "first"
    run.mkdir()
    config = Config(train=TrainConfig(storage=str(storage)))
    return config, tracking.open_run(config, run, "first"), run


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


def test_records_wait_while_the_store_is_away_and_follow_once(store, tmp_path):
    _, good, _ = store
    away = tracking.Tracker(
        f"sqlite:///{tmp_path}/no/such/folder/mlflow.db", good.run_id, tmp_path / "spool.jsonl"
    )
    away.metrics({"away/loss": 3.0}, 1)
    assert not away.deliver()
    away.metrics({"away/loss": 2.0}, 2)
    back = tracking.Tracker(good.uri, good.run_id, away.spool)
    assert back.deliver()
    assert back.deliver()  # nothing is sent twice
    history = client_of(good).get_metric_history(good.run_id, "away/loss")
    assert [(m.step, m.value) for m in history] == [(1, 3.0), (2, 2.0)]


def test_a_failed_delivery_is_not_repeated_at_once(tmp_path, monkeypatch):
    tried = []
    monkeypatch.setattr(tracking, "_client", lambda uri: tried.append(uri) or 1 / 0)
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


def test_an_unreachable_server_costs_the_record_not_the_run(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    config = Config(tracking=TrackingConfig(uri="http://127.0.0.1:9"))
    assert tracking.open_run(config, tmp_path, "x").run_id is None


def test_tracking_can_be_switched_off(tmp_path):
    tracker = tracking.open_run(Config(tracking=TrackingConfig(uri="none")), tmp_path, "x")
    tracker.metrics({"loss": 1.0}, 1)
    assert tracker.deliver()
    assert not list(Path(tmp_path).iterdir())


def test_storage_at_a_url_needs_a_server():
    with pytest.raises(UserError, match=r"--tracking\.uri"):
        tracking.tracking_uri(TrackingConfig(), "s3://bucket/runs")
