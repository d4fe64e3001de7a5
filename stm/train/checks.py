"""Checks before a run starts: its manifests, its network, its compiler, and the run that it would continue."""

from __future__ import annotations

import os
import shutil
from typing import Any

import numpy as np

from stm import cluster
from stm.checkpoint import format as checkpoints
from stm.config import Config
from stm.data.manifest import Manifest
from stm.errors import UserError
from stm.log import get_logger
from stm.train.rarity import class_terms

logger = get_logger(__name__)

# Settings that may differ when a run is continued, because they do not change what is computed.
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
    "data.streams",
    "data.decode_deadline_s",
    "data.wait_deadline_s",
    "optim.epochs",
    "model.gradient_checkpointing",
    "model.pretrained",
    "model.plugin",
}


def read_manifest(path: str | None, flag: str, root: str | None = None) -> Manifest:
    """Read the manifest at ``path``. Raises ``UserError`` if there is none, or if a video is outside ``root``."""
    if path is None:
        raise UserError(f"--{flag} is not set: give it a manifest, written by `stm index`")
    return Manifest.read(path, root)


def check_network(config: Config, manifest: Manifest) -> None:
    """Raise ``UserError`` if the loss, groups or frozen parts do not fit the network and classes."""
    class_terms(config, manifest.class_counts, manifest.classes)
    check_optimizer(config)


def check_optimizer(config: Config) -> None:
    """Raise ``UserError`` for groups and frozen parts that do not exist; warn if random weights would be frozen."""
    import torch

    from stm.model import build_model
    from stm.train.freezing import freeze

    with torch.device("meta"):
        model = build_model(**checkpoints.model_arguments(config), num_classes=1)
    if freeze(model, config.optim) and config.model.pretrained is None:
        logger.warning(
            "what --optim.freeze and --optim.groups freeze keeps its random weights: there is no --model.pretrained"
        )


def check_compiler(config: Config, placement: cluster.Placement) -> None:
    """Raise ``UserError`` for `train.compile` on CPUs if this machine has no C++ compiler; the workers' may differ."""
    compiler = os.environ.get("CXX", "g++")
    if config.train.compile and not placement.use_gpu and shutil.which(compiler) is None:
        raise UserError(
            f"--train.compile true compiles for the CPU with {compiler}, which is not installed: "
            "install a C++ compiler wherever training runs, or leave the network as it is"
        )


def check_same_run(config: Config, fingerprint: str, meta: checkpoints.Meta) -> None:
    """Raise ``UserError`` if the settings or the data differ from those of the run to continue."""
    if fingerprint != meta.fingerprint:
        raise UserError(
            f"run {config.train.name!r} was trained on another manifest (fingerprint {meta.fingerprint[:12]}, "
            f"--data.train has {fingerprint[:12]}): choose another --train.name"
        )
    plugin = checkpoints.load_plugin(config)
    before, now = (meta.plugin or {}).get("digest"), plugin.digest if plugin else None
    if before != now:
        raise UserError(
            f"run {config.train.name!r} was trained with blocks of {meta.plugin and meta.plugin['name']} "
            f"(sha256 {before and before[:12]}), and --model.plugin {config.model.plugin} is another source "
            f"({now and now[:12]}): choose another --train.name, or give the same file"
        )
    trained = Config.from_dict(meta.config)
    unused = {
        f"optim.{name}" for name in trained.optim.without_effect & config.optim.without_effect
    }
    if trained.optim.milestone_epochs == config.optim.milestone_epochs:
        unused.add("optim.milestones")  # [30] and [0.6] are the same with 50 epochs
    changed = [
        f"{key}: was {old}, now {new}"
        for key, old, new in changed_settings(config, meta)
        if key not in _FREE_ON_RESUME | unused
        and not key.startswith("tracking.")
        and (not key.startswith("train.") or key == "train.seed")
    ]
    if changed:
        raise UserError(
            f"run {config.train.name!r} exists with other settings ({'; '.join(changed)}): "
            "choose another --train.name, or set them back to continue it"
        )
    if meta.class_weights is not None and meta.class_counts is not None:
        terms = class_terms(config, np.array(meta.class_counts), meta.classes)
        weights = terms.weights if terms else None
        if weights is None or not np.allclose(weights, meta.class_weights):
            raise UserError(
                f"run {config.train.name!r} was trained with other weights of classes than are in "
                f"--optim.class_weights {config.optim.class_weights} now: choose another --train.name, or give the "
                "same file"
            )


def changed_settings(config: Config, meta: checkpoints.Meta) -> list[tuple[str, Any, Any]]:
    """Return (dotted name, value in the checkpoint, value now) for each setting that differs."""
    old, new = flat(Config.from_dict(meta.config).to_dict()), flat(config.to_dict())
    keys = sorted(old.keys() | new.keys())
    return [(key, old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)]


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings to dotted names."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found.update(
            flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return found
