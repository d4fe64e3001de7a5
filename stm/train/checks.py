"""What is asked before a run starts: its manifests, its network, its compiler, and the run that it would continue."""

from __future__ import annotations

import os
import shutil
from typing import Any

from stm import cluster
from stm.checkpoint import format as checkpoints
from stm.config import Config
from stm.data.manifest import Manifest
from stm.errors import UserError

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
    "model.plugin",
}


def read_manifest(path: str | None, flag: str, root: str | None = None) -> Manifest:
    """The manifest at ``path``; ``UserError`` naming the flag where there is none, or a video outside ``root``."""
    if path is None:
        raise UserError(f"--{flag} is not set: give it a manifest, written by `stm index`")
    return Manifest.read(path, root)


def check_network(config: Config, manifest: Manifest) -> None:
    """Build the network once in the driver, so that what is wrong with it is told before anything starts."""
    if not config.optim.groups:
        return
    from stm.model import build_model
    from stm.train.optim import parameter_groups

    model = build_model(**checkpoints.model_arguments(config), num_classes=manifest.num_classes)
    parameter_groups(model, config.optim)


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
    plugin = checkpoints.load_plugin(config)
    before, now = (meta.plugin or {}).get("digest"), plugin.digest if plugin else None
    if before != now:
        raise UserError(
            f"run {config.train.name!r} was trained with blocks of {meta.plugin and meta.plugin['name']} "
            f"(sha256 {before and before[:12]}), and --model.plugin {config.model.plugin} is another source "
            f"({now and now[:12]}): choose another --train.name, or give the same file"
        )
    old, new = flat(Config.from_dict(meta.config).to_dict()), flat(config.to_dict())
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


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found.update(
            flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return found
