"""Checkpoints: ``model.safetensors`` + ``state.pt`` + ``meta.json``, everything a run needs to go on exactly.

``meta.json`` alone says what the network is (config, classes) and where training stood (position), so evaluation and
prediction need nothing but the checkpoint's path. Nothing in it is pickled: weights are safetensors, the optimizer's
state loads with ``weights_only=True``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stm.config import Config
from stm.data.plan import Position
from stm.errors import UserError

if TYPE_CHECKING:
    import torch

MODEL, STATE, META = "model.safetensors", "state.pt", "meta.json"


@dataclass(frozen=True, kw_only=True)
class Meta:
    """What ``meta.json`` holds."""

    config: dict[str, Any]
    classes: list[str]
    position: Position
    """Where training goes on."""
    step: int
    """Optimizer steps taken."""
    fingerprint: str
    """Of the training manifest; another manifest has another order."""
    dataset: str = ""
    world_size: int = 1
    metrics: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    mlflow_run_id: str | None = None

    def to_json(self) -> str:
        return json.dumps(
            {**self.__dict__, "position": [self.position.epoch, self.position.offset]}, indent=1
        )

    @classmethod
    def from_json(cls, text: str) -> Meta:
        values = json.loads(text)
        return cls(**{**values, "position": Position(*values["position"])})


def write(directory: Path, model: torch.nn.Module, state: dict[str, Any], meta: Meta) -> None:
    """Write a checkpoint into ``directory``; ``meta.json`` comes last, so a directory without it is not one."""
    import torch
    from safetensors.torch import save_file

    weights = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    save_file(weights, directory / MODEL)
    torch.save(state, directory / STATE)
    (directory / META).write_text(meta.to_json())


def read_meta(directory: str | Path) -> Meta:
    """The meta of a checkpoint directory; ``UserError`` where it is none."""
    path = Path(directory) / META
    try:
        return Meta.from_json(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{directory} is not a checkpoint of stm: it has no {META}") from None
    except (json.JSONDecodeError, TypeError, KeyError) as error:
        raise UserError(f"{path} is damaged or of another version: {error}") from error


def read_weights(directory: str | Path) -> dict[str, torch.Tensor]:
    """The model's state dict, on the CPU."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(directory) / MODEL
    try:
        return load_file(path)
    except (FileNotFoundError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read as weights: {error}") from error


def read_state(directory: str | Path) -> dict[str, Any]:
    """Optimizer and scaler state, on the CPU."""
    import torch

    return torch.load(Path(directory) / STATE, map_location="cpu", weights_only=True)


def config_of(meta: Meta) -> Config:
    """The config that a checkpoint was trained with."""
    return Config.from_dict(meta.config)


def network_arguments(meta: Meta) -> dict[str, Any]:
    """All arguments of ``stm.model.build_model`` for the network of a checkpoint."""
    return {**model_arguments(config_of(meta)), "num_classes": len(meta.classes)}


def model_arguments(config: Config) -> dict[str, Any]:
    """The arguments of ``stm.model.build_model`` that come from the config (all but ``num_classes``)."""
    values = dict(config.to_dict()["model"])
    del values["pretrained"]
    return values


def resolve(path: str) -> str:
    """The checkpoint directory that ``path`` means: itself, or the best (else last) checkpoint of a run directory."""
    directory = Path(path)
    if (directory / META).is_file():
        return str(directory)
    if not directory.exists():
        raise UserError(f"--checkpoint {path}: no such directory")
    found = [(read_meta(meta.parent), meta.parent) for meta in sorted(directory.glob(f"*/{META}"))]
    if not found:
        raise UserError(
            f"--checkpoint {path}: neither a checkpoint (no {META} in it) nor a run directory with one"
        )
    return str(
        max(found, key=lambda pair: (pair[0].metrics.get("val_top1", -1.0), pair[0].position))[1]
    )


def latest(run_directory: str) -> tuple[str, Meta] | None:
    """The last checkpoint that Ray Train committed in a run directory, or None before the first.

    Ray's own record is asked, not the directory: a checkpoint on disk may be one that a crash cut short.
    """
    from ray.train import Result

    if not (Path(run_directory) / "checkpoint_manager_snapshot.json").exists():
        return None
    checkpoint = Result.from_path(run_directory).checkpoint
    return (checkpoint.path, read_meta(checkpoint.path)) if checkpoint is not None else None
