"""What the cluster has, what a job needs, and whether it fits: asked before anything is started."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass

from stm.config import Config
from stm.errors import UserError

# Read by Ray when it starts; a value the user has set wins.
RAY_ENVIRONMENT = {
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",  # our own lines show progress; Ray's bars garble them
    "RAY_DATA_LOG_LEVEL": "ERROR",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # how soon a lost worker is noticed
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "30",
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",  # a notice may leave no more than 30 s
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths keep their meaning inside workers
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


def connect(
    address: str | None = None, num_cpus: int | None = None, dashboard: bool = False
) -> None:
    """Join the cluster at ``address`` (or ``$RAY_ADDRESS``), else start one on this machine; idempotent.

    ``num_cpus`` is the logical size of a cluster started here: at least the machine's cores. It may exceed them,
    so that a few training workers and a decoder fit on a laptop; it is ignored when joining. ``dashboard`` starts
    Ray's: through it Ray learns that a training run has been killed, and gives its reserved CPUs back.

    Raises ``UserError`` where there is no cluster at the address.
    """
    for key, value in RAY_ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    import ray

    if ray.is_initialized():
        return
    address = address or os.environ.get("RAY_ADDRESS")
    if address in (None, "local"):
        ray.init(
            address="local",
            num_cpus=max(num_cpus or 0, os.cpu_count() or 1),
            include_dashboard=dashboard,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _node_ip_address="127.0.0.1",
        )
        return
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError as error:
        raise UserError(
            f"no Ray cluster answers at {address}: {error}. Start one with `ray start --head`, "
            "or leave --address out to use this machine alone"
        ) from error


def has_dashboard() -> bool:
    """Whether the connected cluster runs Ray's dashboard."""
    from ray._private.worker import get_dashboard_url

    return bool(get_dashboard_url())


@dataclass(frozen=True)
class Placement:
    """Where the parts of a job go, and the sum of what they reserve."""

    num_workers: int
    cpus_per_worker: float
    use_gpu: bool
    data_cpus: float
    """The least that decoding needs: one task. More CPUs make it faster."""
    validation_cpus: float = 0.0
    """Validation beside training: one process for the network and one decoding task; 0 where there is none."""

    @property
    def cpus(self) -> float:
        return self.num_workers * self.cpus_per_worker + self.data_cpus + self.validation_cpus

    @property
    def gpus(self) -> int:
        return self.num_workers + (self.validation_cpus > 0) if self.use_gpu else 0

    def __str__(self) -> str:
        total = f"{self.num_workers} workers x {self.cpus_per_worker:g} CPU + {self.data_cpus:g} CPU to decode"
        if self.validation_cpus:
            total += f" + {self.validation_cpus:g} CPU to validate"
        return f"{total} = {self.cpus:g} CPU" + (f", {self.gpus} GPU" if self.use_gpu else "")


def logical_cpus(config: Config) -> int:
    """Logical CPUs of a cluster started on this machine for ``config``: the workers, and decoders on the rest."""
    workers = config.train.num_workers * config.train.cpus_per_worker
    if config.train.validation == "async" and config.data.val:
        workers += 1 + config.data.cpus_per_task
    spare = max((os.cpu_count() or 1) - workers, config.data.cpus_per_task, 1)
    return int(-(-(workers + spare) // 1))


def place(config: Config) -> Placement:
    """Decide where the job of ``config`` goes on the connected cluster.

    Raises ``UserError`` with the whole sum where it does not fit. Without this check Ray would wait in silence:
    training workers that hold every CPU leave none to decode with.
    """
    import ray

    has = ray.cluster_resources()
    cpus, gpus = has.get("CPU", 0.0), has.get("GPU", 0.0)
    train = config.train
    needed = train.min_workers or train.num_workers
    use_gpu = train.use_gpu if train.use_gpu is not None else gpus >= needed
    beside = train.validation == "async" or (
        train.validation == "auto" and use_gpu and gpus > train.num_workers
    )
    placement = Placement(
        needed,
        train.cpus_per_worker,
        use_gpu,
        config.data.cpus_per_task,
        1 + config.data.cpus_per_task if beside and config.data.val else 0.0,
    )
    if placement.cpus > cpus:
        raise UserError(
            f"the job needs {placement}, but the cluster has {cpus:g} CPU: "
            "lower --train.num_workers or --train.cpus_per_worker, or add nodes"
        )
    if placement.gpus > gpus:
        raise UserError(
            f"the job needs {placement}, but the cluster has {gpus:g} GPU: "
            "lower --train.num_workers, set --train.use_gpu false, or add GPU nodes"
        )
    return placement
