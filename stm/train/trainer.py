"""One training run from a config to a result, on whatever cluster is connected."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from stm import cluster, tracking
from stm.checkpoint import format as checkpoints
from stm.checkpoint.lease import hold
from stm.checkpoint.store import CheckpointStore
from stm.config import Config
from stm.data.manifest import Manifest
from stm.log import get_logger
from stm.patience import patience
from stm.results import TrainResult
from stm.storage import StorageError, is_url, join, make_writable, resolved
from stm.train.checks import (
    check_compiler,
    check_network,
    check_optimizer,
    check_same_run,
    read_manifest,
)
from stm.train.events import Event
from stm.train.fit import RunEnded, fit
from stm.train.folders import working_folder
from stm.train.recorder import Recorder
from stm.train.summary import parameters, record_manifest, result_of, schedule, schedule_warnings
from stm.version import __version__

logger = get_logger(__name__)


def train(
    config: Config,
    *,
    address: str | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> TrainResult:
    """Train to the end of ``config.optim.epochs``; a run of the same name is continued.

    ``on_event`` takes every event of the run (``stm.train.events``), in order, from another thread of this process.
    The first after each start is `Controlled`: ``ray.kill(event.controller)`` ends the run, and this call then raises
    ``RunEnded``. (Reserved resources come back only on a cluster with Ray's dashboard.)

    Without a Ray cluster it joins the one at ``address`` or $RAY_ADDRESS, or starts one on this machine. Raises
    ``UserError`` for anything the user can mend.
    """
    checkpoints.check_model(config)
    root = config.data.root
    train_manifest = read_manifest(config.data.train, "data.train", root)
    val_manifest = read_manifest(config.data.val, "data.val", root) if config.data.val else None
    if val_manifest is not None:
        val_manifest = val_manifest.with_classes(
            train_manifest.classes,
            name=f"--data.val {config.data.val}",
            of=f"--data.train {config.data.train}",
        )
    named = config.train.name is not None
    name = (
        config.train.name
        or f"{config.model.variant}{config.model.depth}-{time.strftime('%Y%m%d-%H%M%S')}"
    )
    # Absolute: checkpoints outlive the directory this command was typed in.
    storage = resolved(config.train.storage)
    store = CheckpointStore(join(storage, name))
    check_network(config, train_manifest)
    check_optimizer(config)
    if is_url(storage):  # before Ray starts, since nothing is left there
        make_writable(store.run_directory)

    cluster.connect(address, num_cpus=cluster.logical_cpus(config))
    placement = cluster.place(config)
    check_compiler(config, placement)
    if not is_url(storage):
        make_writable(store.run_directory)
    again = "the same command" if named else f"the same command with --train.name {name}"
    with patience(config.train.store_patience_s), hold(store.run_directory) as lease:
        store = CheckpointStore(store.run_directory, lease.token)
        config = replace(config, train=replace(config.train, storage=storage, name=name))
        return _drive(config, store, placement, train_manifest, val_manifest, on_event, again)


def _drive(
    config: Config,
    store: CheckpointStore,
    placement: cluster.Placement,
    train_manifest: Manifest,
    val_manifest: Manifest | None,
    on_event: Callable[[Event], None] | None,
    again: str,
) -> TrainResult:
    """Continue or begin the run, whose one driver this is; ``config`` has its name and its absolute storage."""
    name, storage = str(config.train.name), config.train.storage
    previous = store.take_whole()
    if previous is not None:
        check_same_run(config, train_manifest.fingerprint, previous[1])
    folder = working_folder(storage, name)
    folder.mkdir(parents=True, exist_ok=True)
    known_run_id = previous[1].mlflow_run_id if previous else None
    # Whoever opens a checkpoint looks at this record, too.
    config = replace(config, tracking=tracking.named(config.tracking))
    tracker = tracking.open_run(config, folder, name, known_run_id)
    status = "FAILED"
    try:
        recorder = Recorder(tracker)
        logger.info(f"run {name}: {placement} in {store.run_directory}")
        if tracker.uri:
            logger.info(f"record: {tracking.how_to_look(tracker.uri)}")
        tracker.params(parameters(config), previous[1].step if previous else 0)
        tracker.tags(
            {
                "stm.run": name,
                "stm.version": __version__,
                "stm.dataset": train_manifest.dataset,
                "stm.manifest": train_manifest.fingerprint,
            }
        )
        record_manifest(tracker, "train", config.data.train, train_manifest)
        if val_manifest is not None:
            record_manifest(tracker, "val", config.data.val, val_manifest)
        if previous is None:
            described = schedule(config, train_manifest, val_manifest)
            tracker.tags({"mlflow.note.content": described})
        else:
            path, meta = previous
            recorder.history(checkpoints.read_history(path))
            logger.info(
                f"continuing at epoch {meta.position.epoch + 1}, sample {meta.position.offset} (step {meta.step})"
            )
        tracker.status("RUNNING")
        if previous is None or previous[1].position.epoch < config.optim.epochs:
            logger.info(schedule(config, train_manifest, val_manifest))
            for warning in schedule_warnings(config, train_manifest, previous and previous[1]):
                logger.warning(warning)
            fit(
                config, store, placement, train_manifest, val_manifest, tracker, recorder,
                on_event, again,
            )  # fmt: skip
        result = result_of(store, folder, name, tracker)
        status = "FINISHED"
    except KeyboardInterrupt as error:
        status = "KILLED"
        error.add_note(_next_step(store, again))
        raise
    except RunEnded:
        status = "KILLED"
        raise
    finally:
        tracker.status(status)
        if not tracker.deliver(patient=True):
            logger.warning(
                f"the record waits in {tracker.spool}; the next run of this name delivers it"
            )
    return result


def _next_step(store: CheckpointStore, again: str) -> str:
    try:
        found = store.latest()
    except StorageError as error:
        return f"{again} continues from the last checkpoint, which cannot be seen now: {error}"
    if found is None:
        return "no checkpoint was kept: the same command begins anew"
    return f"{again} continues at step {found[1].step}"
