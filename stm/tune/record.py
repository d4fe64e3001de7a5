"""MLflow: one run for the sweep and a child run per trial; a continued sweep uses the same runs."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stm import spool, tracking
from stm.config import Config
from stm.log import get_logger
from stm.storage import write_bytes

logger = get_logger(__name__)

TRIAL = "stm.trial_id"
SWEEP = "stm.sweep_of"
PARENT = "mlflow.parentRunId"


@dataclass(frozen=True)
class Parent:
    """The sweep's own MLflow run, as trials need it."""

    uri: str
    run_id: str | None
    """None if the server did not answer at the start; the trials' runs then become its children at the end."""

    def client(self) -> Any:
        return tracking.client_of(self.uri)


def find_children(parent: Parent) -> dict[str, Any]:
    """Return the MLflow run of each trial by trial id."""
    return _runs_with(parent, PARENT, parent.run_id)


def _runs_with(parent: Parent, tag: str, value: str | None) -> dict[str, Any]:
    client = parent.client()
    experiment = client.get_run(parent.run_id).info.experiment_id
    found = client.search_runs([experiment], f"tags.`{tag}` = '{value}'", max_results=10_000)
    return {run.data.tags[TRIAL]: run for run in found if TRIAL in run.data.tags}


def open_child(parent: Parent, folder: Path, name: str, trial_id: str, sweep: str = "") -> None:
    """Find or create the MLflow run of a trial below the sweep's, and store its id for ``stm.tracking.open_run``.

    If the server does not answer, the trial is recorded later, and `deliver` makes its run a child of the sweep's.
    """
    path = folder / spool.NAME
    if not any(TRIAL in record.get("values", {}) for record in spool.read(path)):
        tracking.Tracker(parent.uri, None, path).tags({TRIAL: trial_id, SWEEP: sweep})
    if parent.run_id is None:
        return
    runs, known = tracking.known_runs(folder), folder / "tracking.run_id"
    if tracking.place_of(parent.uri, folder) in runs or (known.exists() and not runs):
        return
    with contextlib.suppress(Exception):
        child = find_children(parent).get(trial_id)
        if child is None:
            client = parent.client()
            experiment = client.get_run(parent.run_id).info.experiment_id
            tags = {PARENT: parent.run_id, TRIAL: trial_id}
            child = client.create_run(experiment, run_name=name, tags=tags)
        write_bytes(str(known), child.info.run_id.encode())


def deliver(parent: Parent, base: Config, folders: dict[str, Path], sweep: str) -> None:
    """Deliver waiting records in the trials' folders (by run name) that are on this machine."""
    for name, folder in folders.items():
        if not (folder / spool.NAME).exists():
            continue
        tracker = tracking.tracker_of(base, folder, name)
        if not tracker.deliver(patient=True):
            logger.warning(
                f"the record of {name} waits in {tracker.spool}; the same command delivers it"
            )
            return
    with contextlib.suppress(Exception):
        client = parent.client()
        for run in _runs_with(parent, SWEEP, sweep).values():
            if PARENT not in run.data.tags:
                client.set_tag(run.info.run_id, PARENT, parent.run_id)


def close_children(parent: Parent, ends: dict[str, tuple[str, str]]) -> None:
    """Set the final status of each trial's run; ``ends`` is (status, why) by trial id."""
    with contextlib.suppress(Exception):
        client = parent.client()
        for trial_id, child in find_children(parent).items():
            status, why = ends.get(trial_id, ("KILLED", "interrupted"))
            client.set_tag(child.info.run_id, "stm.ended", why[:500])
            if child.info.status != status:
                client.set_terminated(child.info.run_id, status)
