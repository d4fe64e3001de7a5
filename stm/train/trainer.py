"""The Ray Train job around the loop: from a config to a result, on whatever cluster is connected."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from stm import __version__, cluster, tracking
from stm.checkpoint import format as checkpoints
from stm.checkpoint.store import CheckpointStore, best
from stm.config import Config
from stm.data.manifest import Manifest
from stm.data.stream.clips import ClipSpec
from stm.data.stream.graph import SHARD, StreamSpec, Validation, plan_data_config, put_videos
from stm.data.stream.guarded import quarantine
from stm.data.stream.plan import Position
from stm.errors import UserError
from stm.figures import plot_curves
from stm.log import get_logger
from stm.redaction import redact
from stm.train.async_validation import AsyncValidation
from stm.train.progress import Event, board
from stm.train.recorder import Recorder, failure_callback

logger = get_logger(__name__)

RESIZE_CHECK_S = 60.0
"""How often an elastic run looks for room to grow. Growing starts the workers anew from the last checkpoint."""

# What may differ when a run is continued, because it does not change what is computed.
_FREE_ON_RESUME = {
    "data.train",
    "data.val",
    "data.root",
    "data.decoder",
    "data.max_bad_fraction",
    "data.clips_per_task",
    "data.cpus_per_task",
    "data.max_cpus",
    "data.max_pixels",
    "data.decode_mib",
    "data.prefetch_batches",
    "data.decode_deadline_s",
    "data.wait_deadline_s",
    "optim.epochs",
    "model.gradient_checkpointing",
    "model.pretrained",
}


class RunStopped(UserError):
    """The run found a reason to stop that trying again would meet again, such as a loss that is not finite."""


class RunFailed(UserError):
    """The run lost its workers more often than it may; the same command continues it."""


class RunEnded(UserError):
    """Somebody ended the run from outside; the same command continues it."""


def train(
    config: Config,
    *,
    address: str | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> dict[str, Any]:
    """Train to the end of ``config.optim.epochs``; a run of the same name is continued.

    ``on_event`` takes every event of the run (``stm.train.progress``), in order, from another thread of this process.
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
    placement = cluster.place(config)
    check_compiler(config, placement)
    previous = store.latest()
    if previous is not None:
        check_same_run(config, train_manifest.fingerprint, previous[1])
    folder = working_folder(storage, name)
    folder.mkdir(parents=True, exist_ok=True)
    known_run_id = previous[1].mlflow_run_id if previous else None
    config = replace(config, train=replace(config.train, storage=storage, name=name))
    tracker = tracking.open_run(config, folder, name, known_run_id)
    recorder = Recorder(tracker)
    logger.info(f"run {name}: {placement} in {store.run_directory}")
    if tracker.uri:
        logger.info(
            f"record: {tracking.how_to_look(tracker.uri)}"
            + ("" if tracker.run_id else "  (not reachable)")
        )
    if previous is None:
        tracker.params(_flat(config.to_dict()))
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
        logger.info(
            f"continuing at epoch {meta.position.epoch + 1}, sample {meta.position.offset} (step {meta.step})"
        )
    tracker.status("RUNNING")
    status = "FAILED"
    try:
        if previous is None or previous[1].position.epoch < config.optim.epochs:
            _fit(
                config, store, placement, train_manifest, val_manifest, tracker, recorder, on_event
            )  # fmt: skip
        result = _result(store, folder, name, tracker)
        status = "FINISHED"
    except (KeyboardInterrupt, RunEnded):
        status = "KILLED"
        raise
    finally:
        tracker.status(status)
        if not tracker.deliver(patient=True):
            logger.warning(
                f"the record waits in {tracker.spool}; the next run of this name delivers it"
            )
    return result


def working_folder(storage: str, name: str) -> Path:
    """Where the driver keeps its own files of a run (the record's spool, figures): the run directory, or where that is
    a URL, a folder of this machine's cache."""
    if "://" not in storage:
        return Path(storage) / name
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return cache / "stm" / redact(storage).replace("://", "/").strip("/") / name


def read_manifest(path: str | None, flag: str, root: str | None = None) -> Manifest:
    """The manifest at ``path``; ``UserError`` naming the flag where there is none, or a video outside ``root``."""
    if path is None:
        raise UserError(f"--{flag} is not set: give it a manifest, written by `stm index`")
    return Manifest.read(path, root)


def check_network(config: Config, manifest: Manifest) -> None:
    """Build the network once in the driver, so that what is wrong with it is told before anything starts."""
    if config.model.pretrained is None and not config.optim.groups:
        return
    from stm.model import build_model, load_pretrained
    from stm.train.optim import parameter_groups

    model = build_model(**checkpoints.model_arguments(config), num_classes=manifest.num_classes)
    parameter_groups(model, config.optim)
    if config.model.pretrained is not None:
        try:
            load_pretrained(model, config.model.pretrained)
        except (ValueError, OSError) as error:
            raise UserError(f"--model.pretrained: {error}") from error


def check_compiler(config: Config, placement: cluster.Placement) -> None:
    """Refuse `train.compile` on CPUs without a C++ compiler, as far as this machine is like the workers'."""
    compiler = os.environ.get("CXX", "g++")
    if config.train.compile and not placement.use_gpu and shutil.which(compiler) is None:
        raise UserError(
            f"--train.compile true compiles for the CPU with {compiler}, which is not installed: "
            "install a C++ compiler wherever training runs, or leave the network as it is"
        )


def check_same_run(config: Config, fingerprint: str, meta: checkpoints.Meta) -> None:
    """Refuse to continue a run with settings or data that would make it another run."""
    if fingerprint != meta.fingerprint:
        raise UserError(
            f"run {config.train.name!r} was trained on another manifest (fingerprint {meta.fingerprint[:12]}, "
            f"--data.train has {fingerprint[:12]}): choose another --train.name"
        )
    old, new = _flat(Config.from_dict(meta.config).to_dict()), _flat(config.to_dict())
    changed = [
        f"{key}: was {old.get(key)}, now {new.get(key)}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
        and key not in _FREE_ON_RESUME
        and not key.startswith("tracking.")
        and (not key.startswith("train.") or key == "train.seed")
    ]
    if changed:
        raise UserError(
            f"run {config.train.name!r} exists with other settings ({'; '.join(changed)}): "
            "choose another --train.name, or set them back to continue it"
        )


def _fit(
    config: Config,
    store: CheckpointStore,
    placement: cluster.Placement,
    train_manifest: Manifest,
    val_manifest: Manifest | None,
    tracker: tracking.Tracker,
    recorder: Recorder,
    on_event: Callable[[Event], None] | None = None,
) -> None:
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig, TorchTrainer

    from stm.train.loop import Job, train_loop

    def latest_position() -> Position:
        """Called in Ray's controller, at every start of the workers."""
        controller = ray.get_runtime_context().current_actor
        actor.post.remote({"kind": "controller", "actor": controller})
        found = store.latest()
        return found[1].position if found else Position()

    logger.info(schedule(config, train_manifest, val_manifest))
    train_stream = stream_spec(
        config,
        train_manifest,
        ClipSpec.training(config.data, flip=train_manifest.flip, flip_map=train_manifest.flip_map),
        num_epochs=config.optim.epochs,
        shuffle=True,
        quarantine=quarantine(),
    )
    validation = None
    validator = None
    if val_manifest is not None and placement.validation_cpus:
        validator = AsyncValidation(config, val_manifest, store, recorder)
    elif val_manifest is not None:
        one_pass = stream_spec(config, val_manifest, ClipSpec.one_clip(config.data))
        validation = Validation(one_pass, config.train.val_every_epochs)
    train = config.train
    workers: Any = train.num_workers
    if train.min_workers is not None:
        workers = (train.min_workers, train.num_workers)

    def handle(event: Event) -> None:
        recorder.handle(event)
        if on_event is not None:
            on_event(event)
        if validator is not None and event["kind"] == "committed":
            validator.checkpoint_kept()

    with contextlib.ExitStack() as stack:
        if validator is not None:
            stack.enter_context(validator)
        actor = stack.enter_context(board(handle))
        job = Job(
            config=config,
            run_directory=store.run_directory,
            classes=list(train_manifest.classes),
            dataset=train_manifest.dataset,
            fingerprint=train_manifest.fingerprint,
            num_videos=len(train_manifest.usable),
            num_val_videos=len(val_manifest) if val_manifest else 0,
            num_val_usable=len(val_manifest.usable) if val_manifest else 0,
            validates_elsewhere=validator is not None,
            board=actor,
            mlflow_run_id=tracker.run_id,
            versions=versions(),
        )
        trainer = TorchTrainer(
            train_loop,  # type: ignore[arg-type]  # what it returns reaches us as `return_value`
            train_loop_config={"job": job},
            torch_config=TorchConfig(
                backend="nccl" if placement.use_gpu else "gloo",
                timeout_s=int(train.collective_timeout_s),
            ),
            scaling_config=ScalingConfig(
                num_workers=workers,
                elastic_resize_monitor_interval_s=RESIZE_CHECK_S,  # type: ignore[call-arg]
                use_gpu=placement.use_gpu,
                resources_per_worker={
                    "CPU": placement.cpus_per_worker,
                    **({"GPU": 1} if placement.use_gpu else {}),
                    **train.resources_per_worker,
                },
            ),
            run_config=RunConfig(
                name=str(train.name),
                **ray_storage(train.storage),
                failure_config=FailureConfig(max_failures=train.max_failures),
                callbacks=[failure_callback(actor, train.max_failures)],
            ),
            datasets={SHARD: ray.data.range(1)},
            dataset_config=plan_data_config(
                train_stream, validation, latest_position, placement.cpus_per_worker
            ),
        )
        try:
            outcome: Any = trainer.fit()
        except SystemExit as error:  # how Ray ends a Ctrl-C: with no word, and in a notebook too
            raise KeyboardInterrupt from error
        except ray.exceptions.RayActorError as error:
            raise RunEnded(
                f"run {train.name} was ended from outside; the same command continues it"
            ) from error
        except TrainingFailedError as error:
            last = str(error).strip().splitlines()[-1:] or [type(error).__name__]
            found = store.latest()
            kept = f"the last checkpoint is {found[0]}" if found else "there is no checkpoint yet"
            raise RunFailed(
                f"run {train.name} failed, after {train.max_failures} restarts: {last[0][:500]}; {kept}. "
                "The same command continues it"
            ) from error
    stop = outcome.return_value or {}
    if stop.get("stopped"):
        ids = train_manifest.table.column("video_id").take(train_manifest.usable[stop["rows"]])
        named = f": {', '.join(ids.to_pylist())}" if stop["rows"] else ""
        raise RunStopped(f"run {train.name} stopped: {stop['stopped']}{named}")


def ray_storage(storage: str) -> dict[str, Any]:
    """Where Ray Train keeps what little it writes itself; a URL is read by fsspec, like everything else."""
    if "://" not in storage:
        return {"storage_path": storage}
    import fsspec
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    filesystem, root = fsspec.core.url_to_fs(storage)
    return {
        "storage_path": root,
        "storage_filesystem": PyFileSystem(FSSpecHandler(filesystem)),
    }


def stream_spec(config: Config, manifest: Manifest, clip: ClipSpec, **order: Any) -> StreamSpec:
    """The stream of a manifest under the settings of ``config``; the manifest's rows go to the object store."""
    return StreamSpec(
        videos=put_videos(manifest),
        num_videos=len(manifest.usable),
        global_batch=config.optim.batch_size,
        clip=clip,
        seed=config.train.seed,
        clips_per_task=config.data.clips_per_task,
        cpus_per_task=config.data.cpus_per_task,
        prefetch_batches=config.data.prefetch_batches,
        decode_deadline_s=config.data.decode_deadline_s,
        max_cpus=config.data.max_cpus,
        **order,
    )


def schedule(config: Config, train_manifest: Manifest, val_manifest: Manifest | None) -> str:
    """One line: what will be trained on what, and the effective batch and rate."""
    optim, left_out = config.optim, len(train_manifest) - len(train_manifest.usable)
    return (
        f"{config.model.variant} depth {config.model.depth}, {train_manifest.num_classes} classes, "
        f"{len(train_manifest.usable)} videos"
        + (f" ({left_out} unusable)" if left_out else "")
        + (f", {len(val_manifest)} to validate" if val_manifest else "")
        + f"; {config.data.num_segments} x {config.data.size} px; {optim.epochs} epochs, global batch "
        f"{optim.batch_size} ({optim.batch_size // config.train.num_workers} a worker), lr {optim.effective_lr:g}"
        + (
            f" (scaled from {optim.lr:g} at {optim.reference_batch_size})"
            if optim.reference_batch_size
            else ""
        )
        + (f", gradients of {optim.accumulate} parts a step" if optim.accumulate > 1 else "")
    )


def _result(
    store: CheckpointStore, folder: Path, name: str, tracker: tracking.Tracker
) -> dict[str, Any]:
    found = store.checkpoints()
    if not found:
        raise RuntimeError(f"run {name} ended without a checkpoint in {store.run_directory}")
    (last, last_meta), (path, meta) = found[-1], best(found)
    tracker.tags({"stm.best_checkpoint": path})
    tracker.artifact(plot_curves(folder / "curves.png", {name: tracker.spool}))
    if "://" not in path:
        for file in (checkpoints.MODEL, checkpoints.META):
            tracker.artifact(Path(path) / file, "checkpoint")
    return {
        "run": name,
        "run_id": tracker.run_id,
        "checkpoint": path,
        "last_checkpoint": last,
        "steps": last_meta.step,
        "epochs": last_meta.position.epoch,
        "best_epoch": meta.metrics.get("epoch"),
        "val_top1": meta.metrics.get("val_top1"),
        "val_top5": meta.metrics.get("val_top5"),
        "val_num_videos": meta.metrics.get("val_num_videos"),
    }


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    from importlib.metadata import version

    return {"stm": __version__, **{name: version(name) for name in ("torch", "ray", "numpy", "av")}}


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat.update(
            _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return flat
