"""Reports that a run is already finished, in about a second: without PyTorch, Ray or MLflow."""

from __future__ import annotations

from stm import tracking
from stm.checkpoint.format import Damaged, Meta, check_whole
from stm.checkpoint.store import CheckpointStore, validated_on
from stm.config import Config
from stm.log import get_logger
from stm.plural import counted
from stm.storage import StorageError
from stm.train.checks import changed_settings

logger = get_logger(__name__)

# These may differ without a warning: locations, and settings that are compared separately.
_NO_MATTER = {
    *("data.train", "data.val", "data.root", "model.plugin"),
    *("optim.epochs", "train.name", "train.storage"),
}


def end_of(config: Config, store: CheckpointStore) -> Meta | None:
    """The meta of the last checkpoint if it ends the last epoch, is intact and needs no validation; else None."""
    try:
        found = store.latest()
    except StorageError:  # a later write to the store reports what is wrong
        return None
    if found is None:
        return None
    path, meta = found
    if meta.position.epoch < config.optim.epochs or meta.awaits_validation:
        return None
    try:
        check_whole(path, meta)
    except Damaged:  # it will be set aside, and the run continues from the previous one
        return None
    return meta


def say_finished(
    config: Config, store: CheckpointStore, meta: Meta, val_fingerprint: str, uri: str | None
) -> None:
    """Log that there is nothing to train, how to continue the run, and which changed settings have no effect."""
    epochs, asked = meta.position.epoch, config.optim.epochs
    than = f", and --optim.epochs is {asked}" if epochs > asked else ""
    logger.info(
        f"run {config.train.name} is finished: {counted(epochs, 'epoch')}, step {meta.step}, in "
        f"{store.run_directory}{than}. --optim.epochs {2 * epochs} or any number above {epochs} continues it"
    )
    if uri is not None:
        logger.info(f"record: {tracking.how_to_look(uri)}")
    idle = [
        f"{key} (was {before}, now {now})"
        for key, before, now in changed_settings(config, meta)
        if key not in _NO_MATTER and not key.startswith("tracking.")
    ]
    on = validated_on(store.checkpoints())
    if on and val_fingerprint not in ("", on):
        idle.append(
            "data.val (another manifest than chose the best: `stm evaluate` measures on it)"
        )
    if idle:
        logger.warning(f"nothing is trained, so these change nothing: {'; '.join(idle)}")
