"""What a checkpoint holds: everything a run needs to go on exactly. A checkpoint is a folder, or a URL of one.

    model.safetensors   the weights that are evaluated and shipped (the moving average, where one is kept)
    state.pt            optimizer, gradient scaler, and the weights in training where they are other ones
    history.json        the steps since the checkpoint before, for the record
    meta.json           what the network is and where training stood; written last
    validation.json     what a validation beside training found later
    plugin.py           the source of the network's blocks, where they are the user's own (never run unasked)

``meta.json`` alone says what the network is (config, classes) and where training stood (position), so evaluation and
prediction need nothing but the checkpoint's path. Nothing in it is pickled: weights are safetensors, the optimizer's
state loads with ``weights_only=True``.
"""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stm.config import Config
from stm.data.stream.plan import Position
from stm.errors import UserError
from stm.redaction import redacted
from stm.storage import join, read_bytes

if TYPE_CHECKING:
    import torch

    from stm.model.plugins import Plugin

MODEL, STATE, META = "model.safetensors", "state.pt", "meta.json"
HISTORY, VALIDATION, PLUGIN = "history.json", "validation.json", "plugin.py"


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
    awaits_validation: bool = False
    """Its validation runs elsewhere (``stm.train.async_validation``), and its result is not there yet."""
    plugin: dict[str, str] | None = None
    """name and digest of the plugin that its blocks come from; the source is ``plugin.py``."""

    def to_json(self) -> str:
        return json.dumps(
            {
                **self.__dict__,
                "config": redacted(self.config),
                "position": [self.position.epoch, self.position.offset],
            },
            indent=1,
        )

    @classmethod
    def from_json(cls, text: str) -> Meta:
        values = json.loads(text)
        return cls(**{**values, "position": Position(*values["position"])})


def write(
    directory: Path,
    model: torch.nn.Module,
    state: dict[str, Any],
    meta: Meta,
    history: list[dict[str, Any]] | None = None,
    plugin: Plugin | None = None,
) -> None:
    """Write a checkpoint into ``directory``; ``meta.json`` comes last, so a directory without it is not one."""
    import torch
    from safetensors.torch import save

    weights = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    (directory / MODEL).write_bytes(
        save(weights)
    )  # a full disk is an OSError, not an error of safetensors
    buffer = io.BytesIO()
    torch.save(state, buffer)
    (directory / STATE).write_bytes(buffer.getbuffer())
    (directory / HISTORY).write_text(json.dumps(history or []))
    if plugin is not None:
        (directory / PLUGIN).write_text(plugin.source, encoding="utf-8")
        meta = replace(meta, plugin={"name": plugin.name, "digest": plugin.digest})
    (directory / META).write_text(meta.to_json())


def read_meta(directory: str | Path) -> Meta:
    """The meta of a checkpoint, with the validation that came after it; ``UserError`` where there is none."""
    try:
        meta = Meta.from_json(read_file(directory, META).decode())
        if meta.awaits_validation:
            with contextlib.suppress(FileNotFoundError):
                later = json.loads(read_file(directory, VALIDATION))
                return replace(meta, metrics=meta.metrics | later, awaits_validation=False)
        return meta
    except FileNotFoundError:
        raise UserError(f"{directory} is not a checkpoint of stm: it has no {META}") from None
    except (UnicodeDecodeError, json.JSONDecodeError, TypeError, KeyError) as error:
        raise UserError(f"{directory}/{META} is damaged or of another version: {error}") from error


def read_weights(directory: str | Path) -> dict[str, torch.Tensor]:
    """The model's state dict, on the CPU."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(read_file(directory, MODEL))
    except (FileNotFoundError, SafetensorError) as error:
        raise UserError(f"{directory}/{MODEL} cannot be read as weights: {error}") from error


def read_state(directory: str | Path) -> dict[str, Any]:
    """What ``write`` was given as ``state``, on the CPU. Raises ``UserError`` where it holds more than tensors and
    plain values: that would be code, and is not run."""
    import pickle

    import torch

    content = io.BytesIO(read_file(directory, STATE))
    try:
        return torch.load(content, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{directory}/{STATE} is damaged, or holds Python objects beside tensors, which are never run here"
        ) from error


def read_history(directory: str | Path) -> list[dict[str, Any]]:
    """The steps that a checkpoint brought with it."""
    try:
        return json.loads(read_file(directory, HISTORY))
    except FileNotFoundError:
        return []


def read_file(directory: str | Path, name: str) -> bytes:
    """One of a checkpoint's files; raises as ``stm.storage.read_bytes``."""
    return read_bytes(join(str(directory), name))


def config_of(meta: Meta) -> Config:
    """The config that a checkpoint was trained with."""
    return Config.from_dict(meta.config)


def network_arguments(meta: Meta, where: str) -> dict[str, Any]:
    """All arguments of ``stm.model.build_model`` for the network of the checkpoint ``where``.

    Raises ``UserError`` where its blocks come from a plugin that this process was not told to run.
    """
    check_plugin(meta, where)
    return {**model_arguments(config_of(meta)), "num_classes": len(meta.classes)}


def check_plugin(meta: Meta, where: str) -> None:
    """Raise ``UserError`` where the checkpoint ``where`` needs a plugin that this process was not told to run.

    A driver asks before it starts workers.
    """
    if meta.plugin is not None:
        from stm.model import plugins

        plugins.require(meta.plugin["name"], meta.plugin["digest"], where)


def model_arguments(config: Config) -> dict[str, Any]:
    """The arguments of ``stm.model.build_model`` that come from the config (all but ``num_classes``)."""
    return config.model.build_arguments()


def load_plugin(config: Config) -> Plugin | None:
    """Run the plugin that the config names, if any, in this process."""
    if config.model.plugin is None:
        return None
    from stm.model import plugins

    try:
        return plugins.load(config.model.plugin)
    except UserError as error:
        raise UserError(f"--model.plugin: {error}") from error


def check_model(config: Config) -> None:
    """Raise ``UserError`` where no network can be built from the config, or a plugin's block does not run.

    Nothing is allocated, and neither Ray nor a GPU is needed: it takes a second, which is importing PyTorch.
    """
    from stm.model import check_settings

    plugin = load_plugin(config)
    try:
        check_settings(config.data.num_segments, runs=plugin is not None, **model_arguments(config))
    except UserError as error:
        raise UserError(f"--model.{error}") from error
