"""MLflow: one run for the sweep, one below it for each trial, the same ones whenever the sweep is continued."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stm import tracking
from stm.storage import write_bytes

TRIAL = "stm.trial_id"
PARENT = "mlflow.parentRunId"


@dataclass(frozen=True)
class Parent:
    """The sweep's own run, as trials need to know it."""

    uri: str
    run_id: str

    def client(self) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=self.uri)


def find_children(parent: Parent) -> dict[str, Any]:
    """The MLflow run of each trial, by trial id."""
    client = parent.client()
    experiment = client.get_run(parent.run_id).info.experiment_id
    found = client.search_runs(
        [experiment], f"tags.`{PARENT}` = '{parent.run_id}'", max_results=10_000
    )
    return {run.data.tags[TRIAL]: run for run in found if TRIAL in run.data.tags}


def open_child(parent: Parent, folder: Path, name: str, trial_id: str) -> None:
    """Have the run of a trial recorded below the sweep's: ``stm.tracking.open_run`` takes the run named in its folder.

    Without an answer from the server the trial is recorded later, or not at all; it trains either way.
    """
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


def close_children(parent: Parent, ends: dict[str, tuple[str, str]]) -> None:
    """Give each trial's run its true end: (status, why) by trial id."""
    with contextlib.suppress(Exception):
        client = parent.client()
        for trial_id, child in find_children(parent).items():
            status, why = ends.get(trial_id, ("KILLED", "interrupted"))
            client.set_tag(child.info.run_id, "stm.ended", why[:500])
            if child.info.status != status:
                client.set_terminated(child.info.run_id, status)
