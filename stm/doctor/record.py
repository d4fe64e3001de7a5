"""Check MLflow: write a run, read it back and delete it, on the node where a job's driver runs."""

from __future__ import annotations

import os
import secrets
import tempfile
import time

from stm.doctor.finding import Finding, fails, ok
from stm.doctor.nodes import Missing, Node, on_each
from stm.redaction import redact

EXPERIMENT = "stm-doctor"
"""Experiment of these runs; it is not deleted."""


def check(here: Node, uri: str | None, deadline_s: float) -> Finding:
    """Check the node ``here``, the one of this process, because only a driver writes records."""
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI")
    if uri == "none":
        return ok("mlflow", "switched off")
    where = "a new database" if uri is None else redact(uri)
    result = on_each([here], round_trip, uri, deadline_s=deadline_s)[here.name]
    if isinstance(result, Missing):
        return fails(
            "mlflow",
            f"{where} cannot be used: {redact(result.reason)}",
            "start it (`mlflow server --host ... --allowed-hosts ...`) and open its port to this machine, or give "
            "--tracking.uri none; training also works without it",
        )
    return ok("mlflow", f"{where}: a run written and read back in {result:.1f} s")


def round_trip(uri: str | None) -> float:
    """Write a run with one number and read it back; return the seconds. Raises the errors of MLflow."""
    os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = "5"
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient

    with tempfile.TemporaryDirectory() as folder:
        begun = time.monotonic()
        client = MlflowClient(tracking_uri=uri or f"sqlite:///{folder}/mlflow.db")
        found = client.get_experiment_by_name(EXPERIMENT)
        if found is not None and found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
        experiment = found.experiment_id if found else client.create_experiment(EXPERIMENT)
        run_id = client.create_run(experiment).info.run_id
        try:
            number = float(secrets.randbelow(10**6))
            client.log_metric(run_id, "number", number)
            read = [metric.value for metric in client.get_metric_history(run_id, "number")]
            if read != [number]:
                raise OSError(f"{number} was written, {read} read back")
        finally:
            client.delete_run(run_id)
        return time.monotonic() - begun
