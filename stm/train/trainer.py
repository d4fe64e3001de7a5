"""One training run from a config to a result, on whatever cluster is connected."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from stm import __version__, cluster, tracking
from stm.checkpoint import format as checkpoints
from stm.checkpoint.store import CheckpointStore
from stm.config import Config
from stm.train.checks import check_compiler, check_network, check_same_run, flat, read_manifest
from stm.train.fit import Hear, RunEnded, Show, fit
from stm.train.folders import working_folder
from stm.train.recorder import Recorder
from stm.train.summary import result_of, schedule


def train(
    config: Config, say: Show, address: str | None = None, on_event: Hear | None = None
) -> dict[str, Any]:
    """Train to the end of ``config.optim.epochs``; a run of the same name is continued.

    ``on_event`` hears every event of the run (``stm.train.progress``), in order, from another thread of this process.
    The first after each start is "controller": ``ray.kill(event["actor"])`` ends the run, and this call then raises
    ``RunEnded``. (Reserved resources come back only on a cluster with Ray's dashboard.)

    Returns run, run_id (MLflow), checkpoint (best by validation, else last), its val_top1 / val_top5, steps, epochs.
    Raises ``UserError`` for anything the user can mend.
    """
    root = config.data.root
    train_manifest = read_manifest(config.data.train, "data.train", root)
    val_manifest = read_manifest(config.data.val, "data.val", root) if config.data.val else None
    if val_manifest is not None:
        val_manifest = val_manifest.with_classes(
            train_manifest.classes,
            name=f"--data.val {config.data.val}",
            of=f"--data.train {config.data.train}",
            say=say,
        )
    name = (
        config.train.name
        or f"{config.model.variant}{config.model.depth}-{time.strftime('%Y%m%d-%H%M%S')}"
    )
    storage = config.train.storage
    # Absolute: checkpoints outlive the directory this command was typed in.
    if "://" not in storage:
        storage = str(Path(storage).resolve())
    store = CheckpointStore(f"{storage.rstrip('/')}/{name}")
    check_network(config, train_manifest)

    cluster.connect(address, num_cpus=cluster.logical_cpus(config))
    placement = cluster.place(config, say)
    check_compiler(config, placement)
    previous = store.latest()
    if previous is not None:
        check_same_run(config, train_manifest.fingerprint, previous[1])
    folder = working_folder(storage, name)
    folder.mkdir(parents=True, exist_ok=True)
    known_run_id = previous[1].mlflow_run_id if previous else None
    config = replace(config, train=replace(config.train, storage=storage, name=name))
    tracker = tracking.open_run(config, folder, name, known_run_id)
    recorder = Recorder(tracker, say)
    say(f"run {name}: {placement} in {store.run_directory}")
    if tracker.uri:
        say(
            f"record: {tracking.how_to_look(tracker.uri)}"
            + ("" if tracker.run_id else "  (not reachable)")
        )
    if previous is None:
        tracker.params(flat(config.to_dict()))
        tracker.tags(
            {
                "stm.run": name,
                "stm.version": __version__,
                "stm.dataset": train_manifest.dataset,
                "stm.manifest": train_manifest.fingerprint,
            }
        )
    else:
        path, meta = previous
        recorder.history(checkpoints.read_history(path))
        say(
            f"continuing at epoch {meta.position.epoch + 1}, sample {meta.position.offset} (step {meta.step})"
        )
    tracker.status("RUNNING")
    status = "FAILED"
    try:
        if previous is None or previous[1].position.epoch < config.optim.epochs:
            say(schedule(config, train_manifest, val_manifest))
            fit(
                config, store, placement, train_manifest, val_manifest, tracker, recorder, say,
                on_event,
            )  # fmt: skip
        result = result_of(store, folder, name, tracker)
        status = "FINISHED"
    except (KeyboardInterrupt, RunEnded):
        status = "KILLED"
        raise
    finally:
        tracker.status(status)
        if not tracker.deliver(patient=True):
            say(f"the record waits in {tracker.spool}; the next run of this name delivers it")
    return result
