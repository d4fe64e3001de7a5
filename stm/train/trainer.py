"""One training run from a config to a result, on the connected cluster."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from stm import cluster, tracking
from stm.checkpoint import format as checkpoints
from stm.checkpoint.lease import hold
from stm.checkpoint.pretrained import check_name
from stm.checkpoint.store import CheckpointStore
from stm.config import Config
from stm.data.manifest import Manifest
from stm.log import get_logger
from stm.packing.logged import log_checkpoint
from stm.patience import patience
from stm.results import TrainResult
from stm.storage import is_url, join, make_writable, resolved
from stm.train.checks import (
    check_compiler,
    check_network,
    check_same_run,
    read_manifest,
)
from stm.train.events import Event
from stm.train.finished import end_of, say_finished
from stm.train.folders import working_folder
from stm.train.recorder import Recorder
from stm.train.start import Start, as_begun, start_of
from stm.train.summary import (
    next_step,
    parameters,
    record_manifest,
    record_result,
    result_of,
    say_if_chosen_anew,
    schedule,
    schedule_warnings,
)
from stm.version import __version__

logger = get_logger(__name__)


def train(
    config: Config,
    *,
    address: str | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> TrainResult:
    """Train for ``config.optim.epochs`` epochs; continue a run of the same name.

    ``on_event`` is called with every event of the run (``stm.train.events``), in order, in another thread of this
    process. If it raises, the error is logged and the run goes on; if it does not return, it gets no further events.
    The first event after each start is `Controlled`: ``ray.kill(event.controller)`` ends the run, and this call then
    raises ``RunEnded``. (The run's resources may stay reserved until this program leaves the cluster.)

    If Ray is not connected, this joins the cluster at ``address`` or $RAY_ADDRESS, or starts one on this machine.
    Raises ``UserError`` for anything that the user can fix.
    """
    check_name(config.model)
    root = config.data.root
    train_manifest = read_manifest(config.data.train, "data.train", root)
    val_manifest = read_manifest(config.data.val, "data.val", root) if config.data.val else None
    val_fingerprint = val_manifest.fingerprint if val_manifest else ""
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
    # An absolute path, since checkpoints are used from other working directories.
    storage = resolved(config.train.storage)
    store = CheckpointStore(join(storage, name))
    # Checkpoints store this, and commands that read them use the same record.
    config = replace(
        config,
        train=replace(config.train, storage=storage, name=name),
        tracking=tracking.named(config.tracking),
    )
    end = end_of(config, store) if named else None
    placement = start = None
    if end is not None:
        check_same_run(config, train_manifest.fingerprint, end)
        folder = working_folder(storage, name)
        tracker = tracking.tracker_of(config, folder, name, end.mlflow_run_id)
        say_finished(config, store, end, val_fingerprint, tracker.uri)
        if tracker.is_settled():
            return result_of(store, name, tracker.run_id)
    else:
        checkpoints.check_model(config)
        check_network(config, train_manifest)
        if is_url(storage):  # before Ray starts, since it leaves no files there
            tracking.tracking_uri(config.tracking, storage)
            make_writable(store.run_directory)
        if config.model.pretrained is not None and store.latest() is None:
            start = start_of(config, train_manifest.classes)
        cluster.connect(address, num_cpus=cluster.logical_cpus(config))
        placement = cluster.place(config)
        check_compiler(config, placement)
    if end is not None or not is_url(storage):
        make_writable(store.run_directory)
    again = "the same command" if named else f"the same command with --train.name {name}"
    with patience(config.train.store_patience_s), hold(store.run_directory) as lease:
        store = CheckpointStore(store.run_directory, lease.token)
        return _drive(
            config,
            store,
            placement,
            train_manifest,
            val_manifest,
            val_fingerprint,
            start,
            on_event,
            again,
        )


def _drive(
    config: Config,
    store: CheckpointStore,
    placement: cluster.Placement | None,
    train_manifest: Manifest,
    val_manifest: Manifest | None,
    val_fingerprint: str,
    start: Start | None,
    on_event: Callable[[Event], None] | None,
    again: str,
) -> TrainResult:
    """Continue or begin the run, as its only driver; ``config`` has its name and absolute storage.

    If ``placement`` is None, the run is already trained to the end, and only its record is completed.
    """
    from stm.train.fit import RunEnded, fit  # imports PyTorch, which a finished run does not need

    name, storage = str(config.train.name), config.train.storage
    previous = store.take_whole()
    if previous is not None:
        check_same_run(config, train_manifest.fingerprint, previous[1])
        config = as_begun(config, previous[1])
    elif start is None:  # the checkpoint that was there is damaged
        start = start_of(config, train_manifest.classes)
    begun_with = start.record if start else None
    started_from = previous[1].started_from if previous else begun_with
    folder = working_folder(storage, name)
    folder.mkdir(parents=True, exist_ok=True)
    known_run_id = previous[1].mlflow_run_id if previous else None
    tracker = tracking.open_run(config, folder, name, known_run_id)
    tracker.pack = log_checkpoint
    status = "FAILED"
    try:
        recorder = Recorder(tracker, name)
        if placement is not None:
            logger.info(f"run {name}: {placement} in {store.run_directory}")
        if placement is not None and tracker.uri:
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
        if started_from is not None:
            tracker.tags({"stm.started_from": started_from["summary"]})
            if previous is None:
                logger.info(f"begins with {started_from['summary']}")
        if previous is None:
            described = schedule(config, train_manifest, val_manifest)
            tracker.tags({"mlflow.note.content": described})
        else:
            path, meta = previous
            recorder.history(checkpoints.read_history(path))
            if placement is not None:
                say_if_chosen_anew(store, val_fingerprint)
                logger.info(
                    f"continuing at epoch {meta.position.epoch + 1}, sample {meta.position.offset} (step {meta.step})"
                )
        tracker.status("RUNNING")
        if placement is not None:
            logger.info(schedule(config, train_manifest, val_manifest))
            for warning in schedule_warnings(config, train_manifest, previous and previous[1]):
                logger.warning(warning)
            fit(
                config, store, placement, train_manifest, val_manifest, val_fingerprint, tracker, recorder,
                on_event, again, start.weights if start else None, started_from,
            )  # fmt: skip
        result = result_of(store, name, tracker.run_id)
        record_result(tracker, folder, result, config.tracking.log_model)
        status = "FINISHED"
    except KeyboardInterrupt as error:
        status = "KILLED"
        error.add_note(next_step(store, again))
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
