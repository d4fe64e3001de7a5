"""The Ray Train job around the loop: from a config to a result, on whatever cluster is connected."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from stm import __version__, cluster, tracking
from stm.config import Config
from stm.data.clips import ClipSpec
from stm.data.guarded import quarantine
from stm.data.manifest import Manifest
from stm.data.plan import Position
from stm.data.stream import StreamSpec, plan_data_config, put_videos
from stm.errors import UserError
from stm.figures import plot_curves
from stm.train import checkpoint as checkpoints
from stm.train.progress import Event, board

Show = Callable[[str], None]

# What may differ when a run is continued, because it does not change what is computed.
_FREE_ON_RESUME = {
    "data.train",
    "data.val",
    "data.decoder",
    "data.max_bad_fraction",
    "data.clips_per_task",
    "data.cpus_per_task",
    "data.prefetch_batches",
    "data.decode_deadline_s",
    "optim.epochs",
    "model.gradient_checkpointing",
    "model.pretrained",
}


def train(config: Config, say: Show, address: str | None = None) -> dict[str, Any]:
    """Train to the end of ``config.optim.epochs``; a run of the same name is continued.

    Returns run, run_id (MLflow), checkpoint (best by validation, else last), its val_top1 / val_top5, steps, epochs.
    Raises ``UserError`` for anything the user can mend.
    """
    train_manifest = read_manifest(config.data.train, "data.train")
    val_manifest = read_manifest(config.data.val, "data.val") if config.data.val else None
    if val_manifest is not None and val_manifest.classes != train_manifest.classes:
        raise UserError(
            f"--data.val {config.data.val} has other classes than --data.train {config.data.train}: "
            f"index both splits in one `stm index`"
        )
    name = (
        config.train.name
        or f"{config.model.variant}{config.model.depth}-{time.strftime('%Y%m%d-%H%M%S')}"
    )
    storage = (
        config.train.storage
        if "://" in config.train.storage
        else str(Path(config.train.storage).resolve())
    )
    run_directory = Path(storage) / name
    check_pretrained(config, train_manifest)

    cluster.connect(address, num_cpus=cluster.logical_cpus(config))
    placement = cluster.place(config)
    previous = checkpoints.latest(str(run_directory))
    if previous is not None:
        check_same_run(config, train_manifest.fingerprint, previous[1])
    run_directory.mkdir(parents=True, exist_ok=True)
    tracker = tracking.open_run(config, run_directory, name)
    # Absolute from here on: checkpoints outlive the directory this command was typed in.
    config = replace(config, train=replace(config.train, storage=storage, name=name))
    say(f"run {name}: {placement} in {run_directory}")
    if tracker.uri:
        say(
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
        position = previous[1].position
        say(
            f"continuing at epoch {position.epoch + 1}, sample {position.offset} (step {previous[1].step})"
        )
    tracker.status("RUNNING")
    status = "FAILED"
    try:
        if previous is None or previous[1].position.epoch < config.optim.epochs:
            _fit(config, name, storage, placement, train_manifest, val_manifest, tracker, say)
        result = _result(run_directory, name, tracker)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        tracker.status(status)
        if not tracker.deliver(patient=True):
            say(f"the record waits in {tracker.spool}; the next run of this name delivers it")
    return result


def read_manifest(path: str | None, flag: str) -> Manifest:
    """The manifest at ``path``; ``UserError`` naming the flag where there is none."""
    if path is None:
        raise UserError(f"--{flag} is not set: give it a manifest, written by `stm index`")
    return Manifest.read(path)


def check_pretrained(config: Config, manifest: Manifest) -> None:
    """Load the pretrained weights once in the driver, so that a wrong file is told before anything starts."""
    if config.model.pretrained is None:
        return
    from stm.model import build_model, load_pretrained

    model = build_model(**checkpoints.model_arguments(config), num_classes=manifest.num_classes)
    try:
        load_pretrained(model, config.model.pretrained)
    except (ValueError, OSError) as error:
        raise UserError(f"--model.pretrained: {error}") from error


def check_same_run(config: Config, fingerprint: str, meta: checkpoints.Meta) -> None:
    """Refuse to continue a run with settings or data that would make it another run."""
    if fingerprint != meta.fingerprint:
        raise UserError(
            f"run {config.train.name!r} was trained on another manifest (fingerprint {meta.fingerprint[:12]}, "
            f"--data.train has {fingerprint[:12]}): choose another --train.name"
        )
    old, new = _flat(meta.config), _flat(config.to_dict())
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
    name: str,
    storage: str,
    placement: cluster.Placement,
    train_manifest: Manifest,
    val_manifest: Manifest | None,
    tracker: tracking.Tracker,
    say: Show,
) -> None:
    import ray
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from stm.train.loop import Job, train_loop

    run_directory = str(Path(storage) / name)

    def latest_position() -> Position:
        found = checkpoints.latest(run_directory)
        return found[1].position if found else Position()

    say(schedule(config, train_manifest, val_manifest))
    culprits = quarantine()
    train_stream = stream_spec(
        config,
        train_manifest,
        ClipSpec.training(config.data, flip=train_manifest.flip, flip_map=train_manifest.flip_map),
        num_epochs=config.optim.epochs,
        shuffle=True,
        quarantine=culprits,
    )
    val_stream = (
        stream_spec(config, val_manifest, ClipSpec.one_clip(config.data), quarantine=culprits)
        if val_manifest
        else None
    )
    names = ["train"] + (["val"] if val_stream else [])
    with board(lambda event: _show(event, say)) as actor:
        job = Job(
            config=config,
            classes=list(train_manifest.classes),
            dataset=train_manifest.dataset,
            fingerprint=train_manifest.fingerprint,
            num_videos=len(train_manifest.usable),
            num_val_videos=len(val_manifest) if val_manifest else 0,
            board=actor,
            mlflow_run_id=tracker.run_id,
            versions=versions(),
        )
        trainer = TorchTrainer(
            train_loop,  # type: ignore[arg-type]  # what it returns reaches us as `return_value`
            train_loop_config={"job": job},
            torch_config=TorchConfig(
                backend="nccl" if placement.use_gpu else "gloo",
                timeout_s=int(config.train.collective_timeout_s),
            ),
            scaling_config=ScalingConfig(
                num_workers=placement.num_workers,
                use_gpu=placement.use_gpu,
                resources_per_worker={
                    "CPU": placement.cpus_per_worker,
                    **({"GPU": 1} if placement.use_gpu else {}),
                },
            ),
            run_config=RunConfig(
                name=name,
                storage_path=storage,
                failure_config=FailureConfig(max_failures=config.train.max_failures),
                checkpoint_config=CheckpointConfig(
                    num_to_keep=1, checkpoint_score_attribute="score"
                ),
                callbacks=[tracking.controller_callback(tracker)],
            ),
            datasets={shard: ray.data.range(1) for shard in names},
            dataset_config=plan_data_config(train_stream, val_stream, latest_position),
        )
        outcome: Any = trainer.fit()
    stopped = (outcome.return_value or {}).get("stopped")
    if stopped:
        raise UserError(f"run {name} stopped: {stopped}")


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
    )


def _result(run_directory: Path, name: str, tracker: tracking.Tracker) -> dict[str, Any]:
    last = checkpoints.latest(str(run_directory))
    if last is None:
        raise RuntimeError(f"run {name} ended without a checkpoint in {run_directory}")
    best = checkpoints.resolve(str(run_directory))
    meta = checkpoints.read_meta(best)
    tracker.tags({"stm.best_checkpoint": best})
    tracker.artifact(plot_curves(run_directory / "curves.png", {name: tracker.spool}))
    for file in (checkpoints.MODEL, checkpoints.META):
        tracker.artifact(Path(best) / file, "checkpoint")
    return {
        "run": name,
        "run_id": tracker.run_id,
        "checkpoint": best,
        "last_checkpoint": last[0],
        "steps": last[1].step,
        "epochs": last[1].position.epoch,
        "best_epoch": meta.metrics.get("epoch"),
        "val_top1": meta.metrics.get("val_top1"),
        "val_top5": meta.metrics.get("val_top5"),
        "val_num_videos": meta.metrics.get("val_num_videos"),
    }


def _show(event: Event, say: Show) -> None:
    if event["kind"] == "steps":
        memory = f", {event['memory_bytes'] / 2**30:.1f} GiB" if event["memory_bytes"] else ""
        say(
            f"epoch {event['epoch'] + 1} step {event['step_in_epoch']}/{event['steps_per_epoch']}"
            f"  loss {event['mean_loss']:.3f}  lr {event['lr']:.2g}  {event['clips_per_s']:.1f} clips/s"
            f"  waiting for data {event['wait_share']:.0%}{memory}"
        )
    elif event["kind"] == "waiting":
        say(event["message"])
    elif event["kind"] == "epoch":
        said = f"epoch {event['epoch']:.0f}/{event['epochs']} done"
        if "val_top1" in event:
            said += f"  val top-1 {event['val_top1']:.1%} of {event['val_num_videos']:.0f}"
            said += f", loss {event['val_loss']:.3f}"
        say(said)
        for failure in event["failures"][:10]:
            say(f"  unreadable: {failure['path']}: {failure['reason']} {failure['detail']}")


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
