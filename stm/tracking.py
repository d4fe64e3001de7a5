"""The MLflow record of a run, which can never stop the run.

Whatever is to be recorded is first appended to a spool file, then delivered in order. If the tracking server is away,
records wait in the spool and follow with the next delivery; training does not notice. There is one writer: the driver.

    spool        <run>/tracking.jsonl          one JSON record a line
    delivered    <run>/tracking.delivered      how many bytes of it MLflow has confirmed
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from stm import spool
from stm.config import Config, TrackingConfig
from stm.errors import UserError
from stm.redaction import redact, redacted
from stm.storage import is_url

RETRY_S = 30.0
"""Pause after a failed delivery; an absent server costs at most one short timeout in this time."""

_BATCH = 1000  # MLflow's limit of metrics a request


def tracking_uri(config: TrackingConfig, storage: str) -> str | None:
    """Where records go: the configured URI, by default a database beside the runs; None when switched off."""
    if config.uri == "none":
        return None
    if config.uri:
        return config.uri
    if is_url(storage):
        raise UserError(
            f"--train.storage {storage} is a URL, and a tracking database cannot live there: "
            "give --tracking.uri the address of an MLflow server, or `none`"
        )
    return f"sqlite:///{Path(storage).resolve() / 'mlflow.db'}"


def how_to_look(uri: str) -> str:
    """The line that tells how to open the record."""
    return redact(uri if uri.startswith("http") else f"mlflow ui --backend-store-uri {uri}")


class Tracker:
    """Records of one MLflow run, spooled to disk and delivered when the server can be reached."""

    def __init__(self, uri: str | None, run_id: str | None, path: Path) -> None:
        self.uri, self.run_id, self.spool = uri, run_id, path
        self._retry_at = 0.0

    # ------------------------------------------------------------------ what is recorded

    def metrics(self, values: dict[str, float], step: int, at: float | None = None) -> None:
        """Numbers at a step, measured ``at`` a time (now by default); those that are not numbers are left out."""
        numbers = {k: float(v) for k, v in values.items() if isinstance(v, int | float)}
        time_ms = int((time.time() if at is None else at) * 1000)
        self._append({"kind": "metrics", "step": step, "time_ms": time_ms, "values": numbers})

    def tags(self, values: dict[str, str]) -> None:
        self._append({"kind": "tags", "values": values})

    def params(self, values: dict[str, Any]) -> None:
        self._append({"kind": "params", "values": {k: str(v)[:6000] for k, v in values.items()}})

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """A file, which must stay where it is until it is delivered."""
        self._append({"kind": "artifact", "path": str(path), "folder": folder})

    def status(self, status: str) -> None:
        """RUNNING, FINISHED, FAILED or KILLED."""
        self._append({"kind": "status", "status": status, "time_ms": int(time.time() * 1000)})

    # ------------------------------------------------------------------ delivery

    def deliver(self, patient: bool = False) -> bool:
        """Send what waits, in order; True when nothing is left. ``patient`` tries even right after a failure."""
        if self.uri is None or self.run_id is None or not self.spool.exists():
            return True
        if not patient and time.monotonic() < self._retry_at:
            return False
        try:
            self._send_waiting()
        except Exception:  # whatever MLflow raises must not reach the training loop
            self._retry_at = time.monotonic() + RETRY_S
            return False
        return True

    def _append(self, record: dict[str, Any]) -> None:
        if self.uri is None:
            return
        if record["kind"] != "artifact":  # a file of this machine, whose name must stay as it is
            record = redacted(record)
        try:
            spool.append(self.spool, record)
        except OSError:
            return  # a full disk costs records, not the run

    def _send_waiting(self) -> None:
        mark = self.spool.with_suffix(".delivered")
        done = int(mark.read_text() or 0) if mark.exists() else 0
        with self.spool.open("rb") as file:
            file.seek(done)
            lines = file.read().split(b"\n")
        if len(lines) < 2:
            return
        client = _client(self.uri)
        pending: list[Any] = []
        for line in lines[:-1]:  # the last piece is empty, or a record still being written
            record = spool.parse(line)
            if record is None:  # cut short
                done += len(line) + 1
                continue
            if record["kind"] == "metrics":
                pending += _metric_entities(record)
            if record["kind"] != "metrics" or len(pending) >= _BATCH - 100:
                self._send_metrics(client, pending)
                pending = []
                self._send(client, record)
                mark.write_text(str(done + len(line) + 1))
            done += len(line) + 1
        self._send_metrics(client, pending)
        mark.write_text(str(done))

    def _send_metrics(self, client: Any, pending: list[Any]) -> None:
        for first in range(0, len(pending), _BATCH):
            client.log_batch(self.run_id, metrics=pending[first : first + _BATCH])

    def _send(self, client: Any, record: dict[str, Any]) -> None:
        kind = record["kind"]
        if kind == "tags":
            for key, value in record["values"].items():
                client.set_tag(self.run_id, key, value)
        elif kind == "params":
            from mlflow.entities import Param

            client.log_batch(self.run_id, params=[Param(k, v) for k, v in record["values"].items()])
        elif kind == "artifact":
            if Path(record["path"]).exists():
                client.log_artifact(self.run_id, record["path"], record["folder"])
        elif kind == "status":
            client.update_run(self.run_id, status="RUNNING") if record["status"] == "RUNNING" else (
                client.set_terminated(self.run_id, record["status"], record["time_ms"])
            )


def _metric_entities(record: dict[str, Any]) -> list[Any]:
    from mlflow.entities import Metric

    return [
        Metric(key, value, record["time_ms"], record["step"])
        for key, value in record["values"].items()
    ]


def _client(uri: str | None) -> Any:
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    import logging

    from mlflow import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.WARNING)  # a new database is nobody's news
    return MlflowClient(tracking_uri=uri)


def open_run(config: Config, folder: Path, name: str, known_run_id: str | None = None) -> Tracker:
    """Open the MLflow run of a training run: the one it had before, else a new one.

    ``folder`` is on this machine and keeps the spool. A database is the one beside it, also where the run was moved or
    copied since: the record of a copy must not go to the original. ``known_run_id`` is what the last checkpoint says,
    for a driver that finds the run on another machine. If the server cannot be reached the run trains without a
    record, and says so in the tracker's ``run_id``: None.
    """
    storage = config.train.storage
    uri = tracking_uri(config.tracking, storage if is_url(storage) else str(folder.parent))
    path = folder / spool.NAME
    if uri is None:
        return Tracker(None, None, path)
    known = folder / "tracking.run_id"
    if known.exists():
        return Tracker(uri, known.read_text().strip(), path)
    try:
        client = _client(uri)
        run_id = known_run_id
        if run_id is None:
            found = client.get_experiment_by_name(config.tracking.experiment)
            root = (
                None
                if uri.startswith("http")
                else (folder.parent / "mlflow-artifacts").resolve().as_uri()
            )
            experiment = (
                found.experiment_id
                if found
                else client.create_experiment(config.tracking.experiment, root)
            )
            run_id = client.create_run(experiment, run_name=name).info.run_id
    except Exception:  # no record is better than no training
        return Tracker(uri, None, path)
    known.write_text(run_id)
    return Tracker(uri, run_id, path)
