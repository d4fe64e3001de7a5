"""Summaries of a run: one line before it trains, its result afterwards, and the versions it depends on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stm import tracking
from stm.checkpoint import format as checkpoints
from stm.checkpoint.store import CheckpointStore, best, validated, validated_on
from stm.config import Config
from stm.data.annotations.formats import test_list_of
from stm.data.manifest import Manifest
from stm.data.stream.plan import steps_per_epoch
from stm.figures import plot_curves
from stm.log import get_logger
from stm.plural import counted
from stm.results import TrainResult
from stm.storage import StorageError, is_url
from stm.train.checks import flat
from stm.version import __version__

logger = get_logger(__name__)


def schedule(config: Config, train_manifest: Manifest, val_manifest: Manifest | None) -> str:
    """Describe in one line the network, the data, the effective batch and the rate."""
    optim, left_out = config.optim, len(train_manifest) - len(train_manifest.usable)
    return (
        f"{config.model.variant} depth {config.model.depth}, {counted(train_manifest.num_classes, 'class')}, "
        f"{counted(len(train_manifest.usable), 'video')}"
        + (f" ({left_out} unusable)" if left_out else "")
        + (f", {len(val_manifest)} to validate" if val_manifest else "")
        + f"; {config.data.num_segments} x {config.data.size} px"
        + (f" ({config.data.frames})" if config.data.sampling != "segments" else "")
        + f"; {counted(optim.epochs, 'epoch')}, global batch "
        f"{optim.batch_size} ({optim.batch_size // config.train.num_workers} a worker), lr {optim.effective_lr:g}"
        + (
            f" (scaled from {optim.lr:g} at {optim.reference_batch_size})"
            if optim.reference_batch_size
            else ""
        )
        + (f", gradients of {optim.accumulate} parts a step" if optim.accumulate > 1 else "")
        + (f"; for rare classes: {config.rare_classes}" if config.rare_classes else "")
        + f"; {optim.described}"
    )


def schedule_warnings(
    config: Config, train_manifest: Manifest, previous: checkpoints.Meta | None
) -> list[str]:
    """Return warnings about a rate that may be unintended; ``previous`` is the meta of the checkpoint to continue."""
    from stm.train.optim import learning_rate

    optim, found = config.optim, []
    after = optim.milestone_epochs
    if optim.schedule == "step" and after and min(after) >= optim.epochs:
        found.append(
            f"the rate never falls: the first of --optim.milestones {optim.milestones} is not before the end of "
            f"{counted(optim.epochs, 'epoch')}. Shares of the training follow --optim.epochs: "
            "--optim.milestones 0.6 0.8 0.9"
        )
    if optim.warmup_epochs > optim.epochs:
        found.append(
            f"the rate never reaches {optim.effective_lr:g}: --optim.warmup_epochs {optim.warmup_epochs:g} is longer "
            f"than the training, of {counted(optim.epochs, 'epoch')}"
        )
    if previous is not None:
        per_epoch = steps_per_epoch(len(train_manifest.usable), optim.batch_size)
        before = checkpoints.config_of(previous).optim
        was, now = (learning_rate(each, previous.step, per_epoch) for each in (before, optim))
        if was != now:
            found.append(
                f"the rate goes on at {now:.3g} in place of {was:.3g}: its schedule follows --optim.epochs, which were "
                f"{before.epochs} and are {optim.epochs}"
            )
    return found


def parameters(config: Config) -> dict[str, Any]:
    """Return the settings for the record by dotted name, without those that the optimizer does not use."""
    unused = {f"optim.{name}" for name in config.optim.without_effect}
    return {name: value for name, value in flat(config.to_dict()).items() if name not in unused}


def record_manifest(
    tracker: tracking.Tracker, context: str, path: str | None, manifest: Manifest
) -> None:
    """Add a manifest to the record; ``context`` is "train" or "val"."""
    counts = {
        "videos": len(manifest),
        "usable": len(manifest.usable),
        "classes": manifest.num_classes,
    }
    tracker.dataset(context, manifest.dataset or context, manifest.fingerprint, str(path), counts)


def say_if_chosen_anew(store: CheckpointStore, val_fingerprint: str) -> None:
    """Warn that a run continued with another validation manifest chooses its best checkpoint from later validations;
    name the best one so far, because it will be removed."""
    found = store.checkpoints()
    on = validated_on(found)
    path, meta = best(found)
    top1 = validated(meta, on)
    if top1 is not None and val_fingerprint not in ("", on):
        logger.warning(
            f"--data.val is another manifest than the one that chose {path} (epoch {meta.metrics.get('epoch', 0):.0f}, "
            f"top-1 {top1:.1%}): best is chosen anew, among the validations from here on. Copy it to keep it"
        )


def record_result(
    tracker: tracking.Tracker, folder: Path, result: TrainResult, log_model: bool
) -> None:
    """Add the curves and the best checkpoint to the record: as a model with ``log_model``, else as files (only if the
    run directory is on this machine). The weights are uploaded once."""
    path = result.checkpoint
    tracker.tags({"stm.best_checkpoint": path})
    tracker.artifact(plot_curves(folder / "curves.png", {result.run: tracker.spool}))
    if log_model:
        tracker.model(path)
    elif not is_url(path):
        for file in (checkpoints.MODEL, checkpoints.META):
            tracker.artifact(Path(path) / file, "checkpoint")


def result_of(store: CheckpointStore, name: str, run_id: str | None) -> TrainResult:
    """Return the result of ``stm.train.trainer.train``."""
    found = store.checkpoints()
    if not found:
        raise RuntimeError(f"run {name} ended without a checkpoint in {store.run_directory}")
    (last, last_meta), (path, meta) = found[-1], best(found)
    return TrainResult(
        run=name,
        run_id=run_id,
        checkpoint=path,
        last_checkpoint=last,
        steps=last_meta.step,
        epochs=last_meta.position.epoch,
        best_epoch=meta.metrics.get("epoch"),
        val_top1=meta.metrics.get("val_top1"),
        val_top5=meta.metrics.get("val_top5"),
        val_num_videos=meta.metrics.get("val_num_videos"),
        last_val_top1=last_meta.metrics.get("val_top1"),
        test_list=test_list_of(meta.val_dataset) if "val_top1" in meta.metrics else None,
    )


def next_step(store: CheckpointStore, again: str) -> str:
    """Describe how to continue a run that ended early; ``again`` names the command, such as "the same command"."""
    try:
        found = store.latest()
    except StorageError as error:
        return f"{again} continues from the last checkpoint, which cannot be seen now: {error}"
    if found is None:
        return "no checkpoint was kept: the same command begins anew"
    return f"{again} continues at step {found[1].step}"


def versions() -> dict[str, str]:
    """Return the versions of stm and of the packages that a result depends on."""
    from importlib.metadata import version

    return {"stm": __version__, **{name: version(name) for name in ("torch", "ray", "numpy", "av")}}
