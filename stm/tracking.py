"""The MLflow record of a run. Errors in recording never stop the run.

Each record is first appended to a spool file, then delivered in order. If the tracking server does not answer, records
wait in the spool for a later delivery, and training goes on. Only the driver writes.

    spool        <run>/tracking.jsonl          one JSON record per line
    delivered    <run>/tracking.delivered      the bytes of it that MLflow has confirmed, and in which run
    run          <run>/tracking.run_id         the MLflow run
    runs         <run>/tracking.runs           the MLflow run at each server or database that the record went to

If the server has none of these runs, or they were deleted, a new MLflow run is created and gets the whole spool.
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
from stm.plural import counted
from stm.redaction import redact, redacted
from stm.repository import ROOT
from stm.storage import is_url, write_bytes

logger = get_logger(__name__)

RETRY_S = 30.0
"""Pause after a failed delivery: a server that does not answer costs at most one short timeout per pause."""

_BATCH = 1000  # MLflow's limit of metrics per request
_PARAMS = 100  # and of parameters
_ARTIFACT_TRIES = 3
_DIGEST = 36  # most characters of a dataset's digest in MLflow
_KEPT_TAGS = ("mlflow.parentRunId", "stm.trial_id")  # copied to a recreated run


def tracking_uri(config: TrackingConfig, storage: str) -> str | None:
    """Return where records go: the configured URI, else $MLFLOW_TRACKING_URI, else a database beside the runs.

    None if tracking is switched off. Raises ``UserError`` if ``storage`` is a URL and no URI is set.
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
    """Return ``config`` with its URI from $MLFLOW_TRACKING_URI, if it is not set."""
    return replace(config, uri=config.uri or os.environ.get("MLFLOW_TRACKING_URI") or None)


def how_to_look(uri: str) -> str:
    """Return the address of the record, or the command that opens it."""
    return redact(uri if uri.startswith("http") else f"mlflow ui --backend-store-uri {uri}")


@dataclass(frozen=True, kw_only=True)
class Home:
    """Where to look for the MLflow run of a record, and how to create a new one."""

    experiment: str
    experiment_id: str | None
    """From $MLFLOW_EXPERIMENT_ID; it overrides the name."""
    artifacts: str | None
    """Where a new experiment stores its artifacts; None leaves it to the server."""
    run_name: str


Pack = Callable[[Any, str, str], None]
"""Called with an ``MlflowClient``, a run id and a checkpoint, it logs the checkpoint as a model of the run."""


class _Away(Exception):
    """The server does not accept records, so they do not count as delivered."""


class _MadeAnew(Exception):
    """The run had disappeared; it was recreated, and all records are sent again."""


class Tracker:
    """Records of one MLflow run, spooled to disk and delivered when the server can be reached.

    Without a ``home`` no run is looked for or created: records are only delivered if the run ``run_id`` exists.
    """

    def __init__(
        self, uri: str | None, run_id: str | None, path: Path, home: Home | None = None
    ) -> None:
        self.uri, self.run_id, self.spool, self.home = uri, run_id, path, home
        self.pack: Pack | None = None
        """How to log a model (by ``stm.packing``, which this module may not import); None skips models."""
        self._retry_at = 0.0
        self._num_lost = 0
        """Records that could not be written to the spool since the last one that could."""
        self.away = False
        """Whether the last delivery failed."""

    # ------------------------------------------------------------------ records

    def metrics(self, values: dict[str, float], step: int, at: float | None = None) -> None:
        """Record numbers at a step, measured at time ``at`` (now by default); skip values that are not numbers."""
        numbers = {k: float(v) for k, v in values.items() if isinstance(v, int | float)}
        time_ms = int((time.time() if at is None else at) * 1000)
        self._append({"kind": "metrics", "step": step, "time_ms": time_ms, "values": numbers})

    def tags(self, values: dict[str, str]) -> None:
        self._append({"kind": "tags", "values": values})

    def params(self, values: dict[str, Any], step: int = 0) -> None:
        """Record settings. MLflow never changes a parameter, so a setting that changed when the run was continued at
        ``step`` gets a name such as ``optim.lr from step 120``."""
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
        """Record the manifest at ``source``, with its counts; ``context`` is "train" or "val"."""
        self._append({"kind": "dataset", "context": context, "name": name, "fingerprint": fingerprint,
                      "source": source, "profile": profile})  # fmt: skip

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Record a file, which must not be moved before it is delivered."""
        self._append({"kind": "artifact", "path": str(path), "folder": folder})

    def model(self, checkpoint: str) -> None:
        """Record a checkpoint as a model of the run. It is packed at delivery, and must still exist then."""
        self._append({"kind": "model", "path": checkpoint})

    def status(self, status: str) -> None:
        """Record the status: RUNNING, FINISHED, FAILED or KILLED."""
        self._append({"kind": "status", "status": status, "time_ms": int(time.time() * 1000)})

    # ------------------------------------------------------------------ delivery

    def deliver(self, patient: bool = False) -> bool:
        """Send waiting records, in order; True if none is left. ``patient`` tries even right after a failure.

        A record that the server refuses while it accepts others is skipped with a warning, so that it blocks no others.
        """
        if self.uri is None or (self.run_id is None and self.home is None):
            return True
        if not self.spool.exists():
            return True
        if not patient and time.monotonic() < self._retry_at:
            return False
        try:
            complete = self._send_waiting()
        except Exception as error:  # an error of MLflow must not reach the training loop
            self._failed(error)
            return False
        if self.away:
            self.away = False
            logger.info(f"MLflow at {self.uri} answers again; the waiting records are delivered")
        if not complete:
            self._retry_at = time.monotonic() + RETRY_S
        return complete

    def is_settled(self) -> bool:
        """Whether the run is finished and its whole record was delivered, by local files; the server is not asked."""
        if self.uri is None:
            return True
        if self.run_id is None or not self.spool.exists():
            return False
        states = [row["status"] for row in spool.read(self.spool) if row["kind"] == "status"]
        return states[-1:] == ["FINISHED"] and self._delivered() == self.spool.stat().st_size

    def open(self) -> None:
        """Find or create the MLflow run; if the server does not answer, a later delivery does it. Raises ``UserError``
        if the URI can never work."""
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
        if record["kind"] not in ("artifact", "model"):  # redaction could change the path
            record = redacted(record)
        try:
            spool.append(self.spool, record)
        except OSError as error:  # a full disk costs records, not the run
            if not self._num_lost:
                logger.warning(
                    f"{self.spool} cannot be written ({error.strerror}), so records for MLflow are lost until it can: "
                    f"make room in {self.spool.parent}"
                )
            self._num_lost += 1
            return
        if self._num_lost:
            lost, self._num_lost = self._num_lost, 0
            logger.warning(f"{self.spool} can be written again; {counted(lost, 'record')} lost")

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
        for line in lines[:-1]:  # the last piece is empty, or an incomplete record
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
        """Call ``send``; return its error if the server refuses only this, and raise it if it refuses all."""
        try:
            send()
        except Exception as error:
            if self._settle(client):
                raise _MadeAnew from error
            try:  # a server that refuses all writes counts as unreachable
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
        """Send a record other than metrics; False if it must be sent again."""
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
        )  # artifacts have a separate store, so other records go on
        return False

    # ------------------------------------------------------------------ delivered bytes, and the run

    def _delivered(self) -> int:
        """Bytes of the spool that this run has; 0 if the mark is of another run or exceeds the size of the spool."""
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
        """Make sure that the run exists; True if ``run_id`` changed. Raises the errors of MLflow."""
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
    """Return the MLflow run that the record in ``folder`` went to last."""
    try:
        return (folder / "tracking.run_id").read_text().strip() or None
    except OSError:
        return None


def known_runs(folder: Path) -> dict[str, str]:
    """Return the MLflow run at each place (`place_of`) that the record in ``folder`` went to."""
    try:
        found = json.loads((folder / "tracking.runs").read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def place_of(uri: str, folder: Path) -> str:
    """Return a URI as stored in ``folder``: without secrets, and as a relative path if the database moves with it."""
    database = Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None
    if database is not None and database.parent in folder.resolve().parents:
        return f"sqlite:///{os.path.relpath(database, folder.resolve())}"
    return redact(uri)


def _run(client: Any, run_id: str) -> Any:
    """Return the run, deleted or not; None if this server never had it."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def experiment_of(client: Any, experiment: str, artifacts: str | None) -> str:
    """Return the id of the experiment of that name; create it, with its files in ``artifacts``, if it is missing.

    A deleted experiment is not restored: a new one is created with a number after its name.
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
    """Whether an error means that the URI can never work: its scheme, its driver or the credentials are wrong."""
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
    """Return the system's message for a failed connection (`Connection refused`), else the error's first line."""
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
    """Return tags for MLflow's pages: the user, the program and the commit that created a run."""
    tags = {"mlflow.source.name": Path(sys.argv[0]).name, "mlflow.source.type": "LOCAL"}
    with contextlib.suppress(Exception):  # the process may run as a user without a name
        tags["mlflow.user"] = getpass.getuser()
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        said = subprocess.run(
            ["git", "-C", str(ROOT), "rev-parse", "HEAD"],
            check=True, capture_output=True, text=True, timeout=10,
        )  # fmt: skip
        tags["mlflow.source.git.commit"] = said.stdout.strip()
    return tags


def _metric_entities(record: dict[str, Any]) -> list[Any]:
    """Convert metrics for MLflow, which groups them by the part before a slash: ``val_top1`` becomes ``val/top1``."""
    from mlflow.entities import Metric

    return [
        Metric(re.sub("^val_", "val/", key), value, record["time_ms"], record["step"])
        for key, value in record["values"].items()
    ]


def client_of(uri: str | None) -> Any:
    """Return an ``MlflowClient`` with short timeouts, unless the user has set others in the environment."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    import logging

    from mlflow import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.WARNING)  # hides the messages about a new database
    # We log database errors in one line; MLflow logs a long traceback each time.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    return MlflowClient(tracking_uri=uri)


def open_run(config: Config, folder: Path, name: str, known_run_id: str | None = None) -> Tracker:
    """Open the MLflow run of a training run: the one it had before, else a new one.

    Arguments are those of `tracker_of`. If the server cannot be reached, a warning is logged, ``run_id`` is the last
    known one or None, and a later delivery looks again. Raises ``UserError`` if the URI can never work.
    """
    tracker = tracker_of(config, folder, name, known_run_id)
    if tracker.uri is not None:
        tracker.open()
    return tracker


def tracker_of(config: Config, folder: Path, name: str, known_run_id: str | None = None) -> Tracker:
    """Return the record of a training run, without asking any server.

    ``folder`` is on this machine and contains the spool. The default database is the one beside it, even if the run was
    moved or copied: the record of a copy must not go to the original. ``known_run_id`` is the id in the last
    checkpoint, for a driver that continues the run on another machine.
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
