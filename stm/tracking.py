"""The MLflow record of a run, which can never stop the run.

Whatever is to be recorded is first appended to a spool file, then delivered in order. If the tracking server is away,
records wait in the spool and follow with a later delivery; training does not notice. There is one writer: the driver.

    spool        <run>/tracking.jsonl          one JSON record a line
    delivered    <run>/tracking.delivered      how many bytes of it MLflow has confirmed, and in which run
    run          <run>/tracking.run_id         the MLflow run
    runs         <run>/tracking.runs           the MLflow run at each server or database that had the record so far

A new MLflow run is made where the server has none of these, or where it was deleted; it gets the whole spool.
"""

from __future__ import annotations

import contextlib
import getpass
import itertools
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stm import proxy, spool
from stm.config import Config, TrackingConfig
from stm.errors import UserError
from stm.log import get_logger
from stm.redaction import redact, redacted
from stm.repository import ROOT
from stm.storage import is_url, write_bytes

logger = get_logger(__name__)

RETRY_S = 30.0
"""Pause after a failed delivery; an absent server costs at most one short timeout in this time."""

_BATCH = 1000  # MLflow's limit of metrics a request
_PARAMS = 100  # and of parameters
_ARTIFACT_TRIES = 3
_DIGEST = 36  # characters that MLflow takes of a dataset's digest
_KEPT_TAGS = ("mlflow.parentRunId", "stm.trial_id")  # what a run made anew has of the one before


def tracking_uri(config: TrackingConfig, storage: str) -> str | None:
    """Where records go: the configured URI, else $MLFLOW_TRACKING_URI, else a database beside the runs.

    None where tracking is switched off. Raises ``UserError`` where there is no such place.
    """
    if config.uri == "none":
        return None
    if uri := named(config).uri:
        return uri
    if is_url(storage):
        raise UserError(
            f"--train.storage {storage} is a URL, and a tracking database cannot be there: "
            "set --tracking.uri to the address of an MLflow server, or to `none`"
        )
    return f"sqlite:///{os.path.realpath(storage)}/mlflow.db"


def named(config: TrackingConfig) -> TrackingConfig:
    """With the server or database that $MLFLOW_TRACKING_URI names, where no option does."""
    return replace(config, uri=config.uri or os.environ.get("MLFLOW_TRACKING_URI") or None)


def how_to_look(uri: str) -> str:
    """The line that tells how to open the record."""
    return redact(uri if uri.startswith("http") else f"mlflow ui --backend-store-uri {uri}")


@dataclass(frozen=True, kw_only=True)
class Home:
    """Where the MLflow run of a record is looked for, and how a new one is made."""

    experiment: str
    experiment_id: str | None
    """Of $MLFLOW_EXPERIMENT_ID; it goes before the name."""
    artifacts: str | None
    """Where a new experiment keeps its files; None leaves it to the server."""
    run_name: str


Pack = Callable[[Any, str, str], None]
"""Takes an ``MlflowClient``, a run's id and a checkpoint, and logs that as a model of the run."""


class _Away(Exception):
    """The server does not take what it is sent, so nothing of it counts as delivered."""


class _MadeAnew(Exception):
    """The run was gone; there is a new one, which gets everything."""


class Tracker:
    """Records of one MLflow run, spooled to disk and delivered when the server can be reached.

    Without a ``home`` nothing is looked for and nothing made: ``run_id`` is there, or nothing can be delivered.
    """

    def __init__(
        self, uri: str | None, run_id: str | None, path: Path, home: Home | None = None
    ) -> None:
        self.uri, self.run_id, self.spool, self.home = uri, run_id, path, home
        self.pack: Pack | None = None
        """How a model is logged (``stm.packing``, which this room does not know); without it, models are left out."""
        self._retry_at = 0.0
        self.away = False
        """Whether the last delivery failed."""

    # ------------------------------------------------------------------ what is recorded

    def metrics(self, values: dict[str, float], step: int, at: float | None = None) -> None:
        """Numbers at a step, measured ``at`` a time (now by default); those that are not numbers are left out."""
        numbers = {k: float(v) for k, v in values.items() if isinstance(v, int | float)}
        time_ms = int((time.time() if at is None else at) * 1000)
        self._append({"kind": "metrics", "step": step, "time_ms": time_ms, "values": numbers})

    def tags(self, values: dict[str, str]) -> None:
        self._append({"kind": "tags", "values": values})

    def params(self, values: dict[str, Any], step: int = 0) -> None:
        """Settings. One that changed when the run was continued at ``step`` is recorded beside the first, which MLflow
        never changes: as ``optim.lr from step 120``."""
        before: dict[str, str] = {}
        for record in spool.read(self.spool):
            if record["kind"] == "params":
                before |= record["values"]
        texts = redacted({key: str(value)[:6000] for key, value in values.items()})
        if news := {key: text for key, text in texts.items() if before.get(key) != text}:
            self._append({"kind": "params", "values": news, "step": step})

    def dataset(
        self, context: str, name: str, fingerprint: str, source: str, profile: dict[str, int]
    ) -> None:
        """What the run reads for ``context`` ("train" or "val"): a manifest at ``source``, with counts to show."""
        self._append({"kind": "dataset", "context": context, "name": name, "fingerprint": fingerprint,
                      "source": source, "profile": profile})  # fmt: skip

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """A file, which must stay where it is until it is delivered."""
        self._append({"kind": "artifact", "path": str(path), "folder": folder})

    def model(self, checkpoint: str) -> None:
        """A checkpoint, as a model of the run; it is packed when it is delivered, and must be there then."""
        self._append({"kind": "model", "path": checkpoint})

    def status(self, status: str) -> None:
        """RUNNING, FINISHED, FAILED or KILLED."""
        self._append({"kind": "status", "status": status, "time_ms": int(time.time() * 1000)})

    # ------------------------------------------------------------------ delivery

    def deliver(self, patient: bool = False) -> bool:
        """Send what waits, in order; True when nothing is left. ``patient`` tries even right after a failure.

        What a server that takes others refuses alone is left out, with a word in the log; so nothing holds the rest up.
        """
        if self.uri is None or (self.run_id is None and self.home is None):
            return True
        if not self.spool.exists():
            return True
        if not patient and time.monotonic() < self._retry_at:
            return False
        try:
            complete = self._send_waiting()
        except Exception as error:  # whatever MLflow raises must not reach the training loop
            self._failed(error)
            return False
        if self.away:
            self.away = False
            logger.info(f"MLflow at {self.uri} answers again; the waiting records are delivered")
        if not complete:
            self._retry_at = time.monotonic() + RETRY_S
        return complete

    def is_settled(self) -> bool:
        """Whether the server has the whole record of a run that finished, as far as is known here: nobody is asked."""
        if self.uri is None:
            return True
        if self.run_id is None or not self.spool.exists():
            return False
        states = [row["status"] for row in spool.read(self.spool) if row["kind"] == "status"]
        return states[-1:] == ["FINISHED"] and self._delivered() == self.spool.stat().st_size

    def open(self) -> None:
        """Find or make the MLflow run; where the server is away that is left to a delivery. Raises ``UserError`` where
        the URI can never work."""
        try:
            self._settle(client_of(self.uri))
        except Exception as error:
            if _is_hopeless(error):
                raise UserError(
                    f"the MLflow record cannot go to {redact(str(self.uri))}: {redact(str(error).strip())[:500]}. "
                    "Correct --tracking.uri or $MLFLOW_TRACKING_URI (with its credentials in the environment), or set "
                    "--tracking.uri none"
                ) from error
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        self._retry_at = time.monotonic() + RETRY_S
        if not self.away:
            self.away = True
            logger.warning(
                f"MLflow at {self.uri} accepts no records: {_reason(error)}{proxy.named(self.uri or '')}. They "
                f"are kept in {self.spool} and sent when it answers"
            )

    def _append(self, record: dict[str, Any]) -> None:
        if self.uri is None:
            return
        if record["kind"] not in ("artifact", "model"):  # a file, whose name must stay as it is
            record = redacted(record)
        try:
            spool.append(self.spool, record)
        except OSError:
            return  # a full disk costs records, not the run

    def _send_waiting(self) -> bool:
        if self.run_id is not None and self._delivered() == self.spool.stat().st_size:
            return True
        client = client_of(self.uri)
        for _ in range(3):
            try:
                if self._settle(client):
                    continue
                return self._send_all(client)
            except _MadeAnew:
                continue
        raise _Away("its run disappears each time that it is created")

    def _send_all(self, client: Any) -> bool:
        done = self._delivered()
        with self.spool.open("rb") as file:
            file.seek(done)
            lines = file.read().split(b"\n")
        pending: list[Any] = []
        complete = True
        for line in lines[:-1]:  # the last piece is empty, or a record still being written
            record = spool.parse(line)
            if record is not None and record["kind"] == "metrics":
                pending += _metric_entities(record)
                record = None
            if record is not None or len(pending) >= _BATCH - 100:
                self._send_metrics(client, pending)
                pending = []
                if record is not None:
                    complete = self._send(client, record) and complete
                self._mark(done + len(line) + 1)
            done += len(line) + 1
        self._send_metrics(client, pending)
        self._mark(done)
        return complete

    def _try(self, client: Any, send: Any) -> Exception | None:
        """Send something; returns what was wrong with it, if a server that is there does not take it."""
        try:
            send()
        except Exception as error:
            if self._settle(client):
                raise _MadeAnew from error
            try:  # a server that writes nothing at all is as good as away
                client.set_tag(self.run_id, "stm.delivered", time.strftime("%FT%TZ", time.gmtime()))
            except Exception:
                raise error from None
            return error
        return None

    def _say_left_out(self, what: str, error: Exception) -> None:
        logger.warning(f"MLflow did not accept {what}, which is left out: {_reason(error)}")

    def _send_metrics(self, client: Any, pending: list[Any]) -> None:
        for first in range(0, len(pending), _BATCH):
            batch = pending[first : first + _BATCH]
            error = self._try(client, lambda batch=batch: client.log_batch(self.run_id, batch))
            if error is not None and len(batch) > 1:
                self._send_metrics(client, batch[: len(batch) // 2])
                self._send_metrics(client, batch[len(batch) // 2 :])
            elif error is not None:
                self._say_left_out(
                    f"{batch[0].key} = {batch[0].value} (step {batch[0].step})", error
                )

    def _send(self, client: Any, record: dict[str, Any]) -> bool:
        """Send a record that is no metric; False where it is to be tried again."""
        kind, run_id = record["kind"], self.run_id
        sends: dict[str, Any] = {}
        if kind == "tags":
            for key, value in record["values"].items():
                sends[f"the tag {key}"] = lambda k=key, v=value: client.set_tag(run_id, k, v)
        elif kind == "params":
            self._send_params(client, record)
        elif kind in ("artifact", "model"):
            return self._send_file(client, record)
        elif kind == "dataset":
            sends[f"the dataset {record['name']}"] = lambda: client.log_inputs(
                run_id, [_dataset_input(record)]
            )
        elif kind == "status":
            sends[f"the status {record['status']}"] = lambda: (
                client.update_run(run_id, status="RUNNING")
                if record["status"] == "RUNNING"
                else client.set_terminated(run_id, record["status"], record["time_ms"])
            )
        for what, send in sends.items():
            error = self._try(client, send)
            if error is not None:
                self._say_left_out(what, error)
        return True

    def _send_params(self, client: Any, record: dict[str, Any]) -> None:
        from mlflow.entities import Param

        step, have = record.get("step", 0), {}
        if step:
            error = self._try(client, lambda: have.update(client.get_run(self.run_id).data.params))
            if error is not None:
                raise error
        params = []
        for key, value in record["values"].items():
            later = f"{key} from step {step}"
            if key in have and (
                have[key] != value or any(k.startswith(f"{key} from ") for k in have)
            ):
                while have.get(later, value) != value:
                    later += " again"
                params.append(Param(later, value))
            else:
                params.append(Param(key, value))
        for first in range(0, len(params), _PARAMS):
            batch = params[first : first + _PARAMS]
            if self._try(client, lambda: client.log_batch(self.run_id, params=batch)) is None:  # noqa: B023
                continue
            for param in batch:
                error = self._try(client, lambda: client.log_batch(self.run_id, params=[param]))  # noqa: B023
                if error is not None:
                    self._say_left_out(f"the parameter {param.key} = {param.value}", error)

    def _send_file(self, client: Any, record: dict[str, Any]) -> bool:
        """Send a file, or a checkpoint as a model."""
        path, tries, run_id = record["path"], record.get("tries", 1), str(self.run_id)
        model, pack = record["kind"] == "model", self.pack
        what = f"the {'model of' if model else 'file'} {path}"
        if not is_url(path) and not Path(path).exists():
            self._say_left_out(what, FileNotFoundError("it is gone"))
            return True
        if model and pack is None:
            return True
        error = self._try(
            client,
            lambda: (
                pack(client, run_id, path)
                if model and pack
                else client.log_artifact(run_id, path, record["folder"])
            ),
        )
        if error is None:
            return True
        if tries >= _ARTIFACT_TRIES:
            self._say_left_out(what, error)
            return True
        logger.warning(f"MLflow did not accept {what}, which is sent again: {_reason(error)}")
        self._append(
            {**record, "tries": tries + 1}
        )  # files have a store of their own: others go on
        return False

    # ------------------------------------------------------------------ how far, and in which run

    def _delivered(self) -> int:
        """Bytes of the spool that this run has; 0 where the mark is another run's, or tells of more than there is."""
        try:
            count, *of = self.spool.with_suffix(".delivered").read_text().split() or ["0"]
            done = int(count)
        except (OSError, ValueError):
            return 0
        if of and of[0] != self.run_id:
            return 0
        if done > self.spool.stat().st_size:
            logger.warning(
                f"{self.spool} is shorter than the part that was delivered; all of it is delivered again"
            )
            self._mark(0)
            return 0
        return done

    def _mark(self, done: int) -> None:
        write_bytes(str(self.spool.with_suffix(".delivered")), f"{done} {self.run_id}".encode())

    def _settle(self, client: Any) -> bool:
        """Make sure that the run is there; True where ``run_id`` changed. Raises what MLflow raises."""
        if self.home is None:
            if self.run_id is None or _run(client, self.run_id) is None:
                raise _Away(f"there is no run {self.run_id}")
            return False
        folder = self.spool.parent
        runs = known_runs(folder)
        place = place_of(str(self.uri), folder)
        candidates = (self.run_id, runs.get(place), known_run(folder))
        found: Any = None
        for run_id in dict.fromkeys(filter(None, candidates)):
            run = _run(client, run_id)
            if run is not None and run.info.lifecycle_stage == "active":
                return self._take(run_id, runs, place)
            found = found or run
        previous = next(filter(None, (runs.get(place), known_run(folder), self.run_id)), None)
        tags = _origin()
        if found is not None:
            tags |= {key: found.data.tags[key] for key in _KEPT_TAGS if key in found.data.tags}
        if previous is not None:
            of = next((place for place, run_id in runs.items() if run_id == previous), None)
            tags["stm.continues"] = f"{previous} in {of}" if of and of != place else previous
            logger.warning(
                f"MLflow at {self.uri} does not have run {previous} (any more): the whole record goes to a new run"
            )
        run = client.create_run(
            self.home.experiment_id
            or experiment_of(client, self.home.experiment, self.home.artifacts),
            start_time=next((r["time_ms"] for r in spool.read(self.spool) if "time_ms" in r), None),
            run_name=self.home.run_name,
            tags=tags,
        )
        return self._take(run.info.run_id, runs, place)

    def _take(self, run_id: str, runs: dict[str, str], place: str) -> bool:
        before, self.run_id = self.run_id, run_id
        folder = self.spool.parent
        if runs.get(place) != run_id:
            write_bytes(str(folder / "tracking.runs"), json.dumps({**runs, place: run_id}).encode())
        if known_run(folder) != run_id:
            write_bytes(str(folder / "tracking.run_id"), run_id.encode())
        if before not in (None, run_id):
            self._mark(0)
        return before != run_id


def known_run(folder: Path) -> str | None:
    """The MLflow run that the record of ``folder`` went to last."""
    try:
        return (folder / "tracking.run_id").read_text().strip() or None
    except OSError:
        return None


def known_runs(folder: Path) -> dict[str, str]:
    """The MLflow run of each place (`place_of`) that the record of ``folder`` went to."""
    try:
        found = json.loads((folder / "tracking.runs").read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def place_of(uri: str, folder: Path) -> str:
    """A server or database as ``folder`` remembers it: without secrets, and relative where it moves along."""
    database = Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None
    if database is not None and database.parent in folder.resolve().parents:
        return f"sqlite:///{os.path.relpath(database, folder.resolve())}"
    return redact(uri)


def _run(client: Any, run_id: str) -> Any:
    """The run, deleted or not; None where this server never had it."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def experiment_of(client: Any, experiment: str, artifacts: str | None) -> str:
    """The id of the experiment of that name, made where it is missing, with its files in ``artifacts``.

    One that was deleted stays so, and another is made with a number behind its name.
    """
    for number in itertools.count(1):
        name = experiment if number == 1 else f"{experiment}-{number}"
        found = client.get_experiment_by_name(name)
        if found is None:
            try:
                made: str = client.create_experiment(name, artifacts)
            except Exception:
                found = client.get_experiment_by_name(name)  # another run may just have made it
                if found is None:
                    raise
            else:
                if number > 1:
                    logger.warning(
                        f"the experiment {experiment} is deleted; {name} is used instead"
                    )
                return made
        if found.lifecycle_stage == "active":
            return str(found.experiment_id)
    raise AssertionError


def _is_hopeless(error: Exception) -> bool:
    """Whether an error tells that the URI can never work as it is: its scheme, its driver, or who is asking."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import ArgumentError

    if isinstance(error, MlflowException):
        wrong = (
            "INVALID_PARAMETER_VALUE",
            "RESOURCE_DOES_NOT_EXIST",
        )  # a scheme; $MLFLOW_EXPERIMENT_ID
        return error.error_code in wrong or error.get_http_status_code() in (401, 403)
    return isinstance(
        error, ImportError | ArgumentError | ValueError
    )  # ArgumentError: no such driver


def _reason(error: BaseException) -> str:
    """The system's own word where a connection failed (`Connection refused`), else the first line of what is said."""
    innermost = error
    while inner := innermost.__cause__ or innermost.__context__:
        innermost = inner
    if isinstance(innermost, OSError) and innermost.strerror:
        return innermost.strerror
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _dataset_input(record: dict[str, Any]) -> Any:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(
        name=record["name"],
        digest=record["fingerprint"][:_DIGEST],
        source_type="local",
        source=json.dumps({"uri": record["source"]}),
        profile=json.dumps({**record["profile"], "fingerprint": record["fingerprint"]}),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", record["context"])])


def _origin() -> dict[str, str]:
    """Who made a run, with what: tags that MLflow's pages show."""
    tags = {"mlflow.source.name": Path(sys.argv[0]).name, "mlflow.source.type": "LOCAL"}
    with contextlib.suppress(Exception):  # a process may run as nobody
        tags["mlflow.user"] = getpass.getuser()
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        said = subprocess.run(
            ["git", "-C", str(ROOT), "rev-parse", "HEAD"],
            check=True, capture_output=True, text=True, timeout=10,
        )  # fmt: skip
        tags["mlflow.source.git.commit"] = said.stdout.strip()
    return tags


def _metric_entities(record: dict[str, Any]) -> list[Any]:
    """MLflow shows metrics in groups by what is before a slash: ``val_top1`` of a checkpoint is its ``val/top1``."""
    from mlflow.entities import Metric

    return [
        Metric(re.sub("^val_", "val/", key), value, record["time_ms"], record["step"])
        for key, value in record["values"].items()
    ]


def client_of(uri: str | None) -> Any:
    """An ``MlflowClient`` that gives an absent server up soon, unless the user has told it to be patient."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    import logging

    from mlflow import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.WARNING)  # a new database is nobody's news
    # What a database refuses is told in a line of ours: MLflow logs a page of traceback each time.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    return MlflowClient(tracking_uri=uri)


def open_run(config: Config, folder: Path, name: str, known_run_id: str | None = None) -> Tracker:
    """Open the MLflow run of a training run: the one it had before, else a new one.

    As `tracker_of`. If the server cannot be reached, that is said, the tracker's ``run_id`` is the one known from
    before or None, and a delivery looks again. Raises ``UserError`` where the URI can never work.
    """
    tracker = tracker_of(config, folder, name, known_run_id)
    if tracker.uri is not None:
        tracker.open()
    return tracker


def tracker_of(config: Config, folder: Path, name: str, known_run_id: str | None = None) -> Tracker:
    """The record of a training run, before any server is asked.

    ``folder`` is on this machine and keeps the spool. A database is the one beside it, also where the run was moved or
    copied since: the record of a copy must not go to the original. ``known_run_id`` is what the last checkpoint says,
    for a driver that finds the run on another machine.
    """
    storage = config.train.storage
    uri = tracking_uri(config.tracking, storage if is_url(storage) else str(folder.parent))
    path = folder / spool.NAME
    if uri is None:
        return Tracker(None, None, path)
    chosen = config.tracking.experiment != TrackingConfig().experiment
    home = Home(
        experiment=(not chosen and os.environ.get("MLFLOW_EXPERIMENT_NAME"))
        or config.tracking.experiment,
        experiment_id=None if chosen else os.environ.get("MLFLOW_EXPERIMENT_ID"),
        artifacts=None
        if uri.startswith("http")
        else (folder.parent / "mlflow-artifacts").resolve().as_uri(),
        run_name=os.environ.get("MLFLOW_RUN_NAME") or name,
    )
    runs = known_runs(folder)
    earlier = known_run(folder) or known_run_id
    here = runs.get(place_of(uri, folder)) or (None if earlier in runs.values() else earlier)
    return Tracker(uri, here, path, home)
