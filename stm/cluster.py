"""Connect to a Ray cluster, and check before a job starts that the cluster has what it needs."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from stm import authentication, autoscaling, ending, joining, proxy, ray_compat, starting
from stm.config import Config
from stm.deadline import Late, anything_stuck, within
from stm.errors import UserError
from stm.log import get_logger
from stm.plural import counted

logger = get_logger(__name__)

TRIES = 3
"""Number of attempts to start or join Ray."""

JOIN_S = 60.0
"""Seconds to wait for a cluster to accept this process."""

# Ray reads these when it starts. A value that the user has set is kept.
RAY_ENVIRONMENT = {
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",  # our own lines show progress; Ray's bars garble them
    "RAY_DATA_LOG_LEVEL": "ERROR",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # time until a lost worker is noticed
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "30",
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",  # a node may be given only 30 s of notice
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths mean the same in workers
    "RAY_raylet_start_wait_time_s": "60",  # limit of one query; a busy machine needs more than 30 s
    "RAY_agent_register_timeout_ms": "300000",  # a raylet otherwise aborts after 100 s without its agents
    "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "180",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


def connect(
    address: str | None = None,
    num_cpus: int | None = None,
    dashboard: bool = False,
    patience_s: float = JOIN_S,
) -> None:
    """Join the cluster at ``address`` (or ``$RAY_ADDRESS``), or else start one on this machine; idempotent.

    ``num_cpus`` is the number of logical CPUs of a cluster that is started here. The minimum is the machine's number of
    cores; a larger number lets a few training workers and a decoder fit on a laptop. It is ignored when joining.
    ``dashboard`` starts Ray's dashboard, through which Ray learns that a training run was killed, and frees its CPUs.
    A cluster that is started here requires a token (``stm.authentication``), and its dashboard listens on loopback.

    Starting is tried up to three times, since a busy machine may fail; a cluster has ``patience_s`` to answer. Raises
    ``UserError`` if Ray does not start, if there is no cluster at the address, or if it does not accept our token.
    """
    for key, value in RAY_ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    proxy.spare_this_machine()
    import ray

    if ray.is_initialized():
        return
    named = f"--address {address}" if address else f"RAY_ADDRESS={os.environ.get('RAY_ADDRESS')}"
    address = address or os.environ.get("RAY_ADDRESS")
    if address in (None, "local"):
        starting.look()
        authentication.for_new_cluster()
        logger.info("starting Ray on this machine")
        _try_hard(
            lambda: ray.init(
                address="local",
                num_cpus=max(num_cpus or 0, os.cpu_count() or 1),
                include_dashboard=dashboard,
                dashboard_host="127.0.0.1",
                log_to_driver=False,
                logging_level=logging.ERROR,
            ),
            "Ray does not start on this machine",
            "wait until the machine is less busy (`uptime`), check the free space in /tmp and /dev/shm (`df`) and the "
            "free memory (`free`), then run the same command again; or join a running cluster: --address HOST:6379",
        )
        ray_compat.hush_process_counts()
        starting.slow_store(ray.cluster_resources().get("object_store_memory", 0.0))
    else:
        _join(address, named, patience_s)
    _end_with_ray()


def _end_with_ray() -> None:
    """End the command if its Ray dies; otherwise it would wait forever."""
    import ray

    if (found := ray_compat.raylet_here()) is not None:
        process, logs = found
        ending.with_process(
            process,
            ray.is_initialized,
            f"Ray died on this machine: its raylet (process {process}) is gone, perhaps because memory ran out (see "
            f"`dmesg`); its logs are in {logs}. Everything that was saved is intact: run the same command again",
        )


def _join(address: str, named: str, patience_s: float) -> None:
    """Join a cluster. Raises ``UserError`` soon after ``patience_s`` if none accepts this process."""
    import ray

    authentication.for_joining()
    logger.info(f"joining the Ray cluster at {address}, for up to {patience_s:g} s")
    advice = (
        "give --address HOST:PORT of a running head (`ray start --head`, port 6379), or auto on one of its nodes; or "
        "leave out --address to use only this machine"
    )
    begun = time.monotonic()
    try:
        joining.with_gcs(address, patience_s)
    except joining.Unheard as error:
        raise UserError(f"{named}: {error}: {advice}") from error

    def start() -> None:
        # In a thread: if the head stops answering, Ray waits forever and handles no signal.
        seconds = max(patience_s - (time.monotonic() - begun), 10.0)
        try:
            within(
                seconds,
                lambda: ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR),
            )
        except Late as error:
            raise UserError(
                f"{named}: the head answers but does not let this process join, {error}: {advice}"
            ) from error
        except RuntimeError as error:
            if "ersion mismatch" not in str(error):
                raise
            raise UserError(
                f"{named}: {' '.join(str(error).split())}: exactly the same versions must be installed "
                "here and there"
            ) from error

    _try_hard(start, f"{named} cannot be joined", advice)


def _try_hard(start: Callable[[], Any], failed: str, advice: str) -> None:
    """Call ``start`` until it succeeds, at most ``TRIES`` times; end the processes of a failed attempt before the next.

    Ray raises bare ``Exception``s when it stops waiting, so every error counts as temporary unless its type shows that
    it is permanent. Raises ``UserError`` with ``failed``, Ray's reason and ``advice``.
    """
    import ray

    for attempt in range(1, TRIES + 1):
        try:
            with (
                ray_compat.signals_are_ours(),
                ray_compat.patient_start(),
                _ended_where_it_fails(),
            ):
                start()
            return
        except (UserError, NameError, AttributeError, TypeError, LookupError, ImportError):
            raise  # already a message, or a defect that another attempt does not cure
        except Exception as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            stays = isinstance(
                error, ray.exceptions.AuthenticationError | ValueError
            ) or _is_of_the_system(error)
            if stays or attempt == TRIES:
                raise UserError(
                    f"{failed}: {lines[0].rstrip('.:')}. Tried {_times(attempt)}: {advice}"
                ) from error
            logger.warning(f"{failed} yet: {lines[0]}; trying again ({attempt + 1} of {TRIES})")


@contextlib.contextmanager
def _ended_where_it_fails() -> Iterator[None]:
    """Kill the processes of a start that fails; Ray would keep them, and they would slow down the next attempt."""
    import psutil
    import ray

    me = psutil.Process()
    before = set(me.children(recursive=True))
    try:
        yield
    except BaseException:
        if not anything_stuck():  # otherwise Ray would wait for it
            with contextlib.suppress(Exception):
                ray.shutdown()
        for child in set(me.children(recursive=True)) - before:
            with contextlib.suppress(psutil.Error):
                if any("/ray/" in word for word in child.cmdline()):
                    child.kill()
        raise


def _is_of_the_system(error: Exception) -> bool:
    """Whether an error is the system's, such as a full disk or a name too long, and not a busy machine or network."""
    return isinstance(error, OSError) and not isinstance(error, ConnectionError | TimeoutError)


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


@dataclass(frozen=True)
class Placement:
    """The parts of a job and what they reserve."""

    num_workers: int
    cpus_per_worker: float
    use_gpu: bool
    data_cpus: float
    """CPUs of one decoding task, the minimum; more CPUs make decoding faster."""
    validation_cpus: float = 0.0
    """CPUs of validation beside training: a process for the network and a decoding task; 0 if there is none."""

    @property
    def cpus(self) -> float:
        return self.num_workers * self.cpus_per_worker + self.data_cpus + self.validation_cpus

    @property
    def gpus(self) -> int:
        return self.num_workers + (self.validation_cpus > 0) if self.use_gpu else 0

    def bundles(self, config: Config, num_workers: int) -> list[dict[str, float]]:
        """Return the resources that must each fit on one node: ``num_workers`` workers, a decoding task, validation."""
        gpu = {"GPU": 1.0} if self.use_gpu else {}
        worker = {"CPU": self.cpus_per_worker, **gpu, **config.train.resources_per_worker}
        parts = [worker] * num_workers + [{"CPU": self.data_cpus}]
        if self.validation_cpus:
            parts += [{"CPU": 1.0, **gpu}, {"CPU": self.validation_cpus - 1.0}]
        return parts

    def __str__(self) -> str:
        workers = counted(self.num_workers, "worker")
        total = f"{workers} x {self.cpus_per_worker:g} CPU + {self.data_cpus:g} CPU to decode"
        if self.validation_cpus:
            total += f" + {self.validation_cpus:g} CPU to validate"
        return f"{total} = {self.cpus:g} CPU" + (f", {self.gpus} GPU" if self.use_gpu else "")


def logical_cpus(config: Config) -> int:
    """Return the logical CPUs that a local cluster needs for ``config``: the workers, and decoders on the rest."""
    workers = config.train.num_workers * config.train.cpus_per_worker
    if config.train.validation == "async" and config.data.val:
        workers += 1 + config.data.cpus_per_task
    spare = max((os.cpu_count() or 1) - workers, config.data.cpus_per_task, 1)
    return int(-(-(workers + spare) // 1))


def place(config: Config) -> Placement:
    """Decide how the job of ``config`` is placed on the connected cluster, waiting up to `train.wait_for_nodes_s`.

    Raises ``UserError`` with the whole sum if it does not fit. Without this check, training workers could hold every
    CPU, and Ray would wait silently for one to decode with.
    """
    import ray

    has = ray.cluster_resources()
    wait_s = config.train.wait_for_nodes_s
    placement = _placement(config, _gpus_in_reach(config, has))
    special = config.train.resources_per_worker
    needed = {name: placement.num_workers * amount for name, amount in special.items()}
    needed["CPU"] = placement.cpus
    if placement.gpus:
        needed["GPU"] = float(placement.gpus)
    waited = ""
    if wait_s and any(amount > has.get(name, 0.0) for name, amount in needed.items()):
        _refuse_what_never_comes(placement, needed, has)
        workers = _workers_to_ask_for(config, placement)
        has = autoscaling.wait_for(needed, placement.bundles(config, workers), wait_s)
        waited = f" after {wait_s:g} s (--train.wait_for_nodes_s)"
    cpus, gpus = has.get("CPU", 0.0), has.get("GPU", 0.0)
    if placement.cpus > cpus:
        raise UserError(
            f"the job needs {placement}, but the cluster has {cpus:g} CPU{waited}: "
            "lower --train.num_workers or --train.cpus_per_worker, or add nodes"
        )
    if placement.gpus > gpus:
        raise UserError(
            f"the job needs {placement}, but the cluster has {gpus:g} GPU{waited}: "
            "lower --train.num_workers, set --train.use_gpu false, or add GPU nodes"
        )
    for name in special:
        if needed[name] > has.get(name, 0.0):
            raise UserError(
                f"the job needs {needed[name]:g} {name} (--train.resources_per_worker), but the cluster has "
                f"{has.get(name, 0.0):g}{waited}: start nodes with it (`ray start --resources`)"
            )
    return placement


def _gpus_in_reach(config: Config, has: dict[str, float]) -> float:
    """Return the cluster's GPUs, including those that its autoscaler may add if the job waits for nodes."""
    train, now = config.train, has.get("GPU", 0.0)
    if not train.wait_for_nodes_s or train.use_gpu is not None:
        return now
    to_come = ray_compat.most_of("GPU")
    if to_come is None and now < (train.min_workers or train.num_workers):
        # Otherwise a cluster whose GPU nodes have not joined yet would train on its CPUs.
        raise UserError(
            "--train.wait_for_nodes_s: this cluster does not report whether new nodes will have GPUs. Set whether to "
            "wait for them: --train.use_gpu true or false"
        )
    return max(now, to_come or 0.0)


def _refuse_what_never_comes(
    placement: Placement, needed: dict[str, float], has: dict[str, float]
) -> None:
    for name, amount in needed.items():
        most = ray_compat.most_of(name)
        if most is not None and amount > most + has.get(name, 0.0):  # the head may not be counted
            raise UserError(
                f"the job needs {placement}, but the cluster can grow only to {most:g} {name}: lower "
                "--train.num_workers, or raise max_workers in the cluster's file"
            )


def _workers_to_ask_for(config: Config, placement: Placement) -> int:
    """Return the workers to request: all of an elastic job, or its minimum if the cluster cannot grow to all of them.

    An autoscaler adds no node for a request that it cannot satisfy.
    """
    all_of_them = replace(placement, num_workers=config.train.num_workers)
    fits = (ray_compat.most_of("CPU") or 0.0) >= all_of_them.cpus
    fits = fits and (ray_compat.most_of("GPU") or 0.0) >= all_of_them.gpus
    return all_of_them.num_workers if fits else placement.num_workers


def gpu_for_each(gpus: float, number: int, option: str) -> bool:
    """Return whether a cluster's ``gpus`` suffice for ``number`` processes with a network, one for each.

    If some GPUs would stay unused because they are too few, a warning names the ``option`` that sets ``number``.
    """
    if 1 <= gpus < number:
        logger.warning(
            f"the cluster has {counted(int(gpus), 'GPU')}, fewer than {option} {number}, so all of the {number} run on "
            f"CPUs; {option} {int(gpus)} would use {'it' if gpus < 2 else 'them'}"
        )
    return gpus >= number


def _placement(config: Config, gpus: float) -> Placement:
    train = config.train
    needed = train.min_workers or train.num_workers
    use_gpu = train.use_gpu
    if use_gpu is None:
        use_gpu = gpu_for_each(
            gpus, needed, f"--train.{'min' if train.min_workers else 'num'}_workers"
        )
    beside = train.validation == "async" or (
        train.validation == "auto" and use_gpu and gpus > train.num_workers
    )
    return Placement(
        needed,
        train.cpus_per_worker,
        use_gpu,
        config.data.cpus_per_task,
        1 + config.data.cpus_per_task if beside and config.data.val else 0.0,
    )
