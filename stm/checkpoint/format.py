"""The format of a checkpoint: a folder, or its URL, with everything that a run needs to continue exactly.

    model.safetensors   the weights for evaluation (the moving average, if there is one)
    state.pt            optimizer, gradient scaler, and the trained weights if those above are an average
    history.json        the steps since the previous checkpoint, for the record
    meta.json           the network and the position of training; written last
    validation.json     the metrics of a later validation beside training
    plugin.py           the source of the network's blocks, if they are a plugin (never run without permission)

``meta.json`` describes the network (config, classes) and the position of training, so evaluation and prediction need
only the checkpoint's path. Reading runs no pickled code: weights are safetensors, and the optimizer's state loads with
``weights_only=True``.

Damage is detected: ``meta.json`` contains the size and checksum of every other file and its own checksum,
``validation.json`` its own checksum, and every read compares them. Checkpoints of older versions have no checksums and
are read without a check.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stm.config import Config
from stm.data.stream.plan import Position
from stm.errors import UserError
from stm.log import get_logger
from stm.redaction import redacted
from stm.storage import join, read_bytes

if TYPE_CHECKING:
    import torch

    from stm.model.plugins import Plugin

MODEL, STATE, META = "model.safetensors", "state.pt", "meta.json"
HISTORY, VALIDATION, PLUGIN = "history.json", "validation.json", "plugin.py"
_CHECKSUM = "checksum"

logger = get_logger(__name__)


class Damaged(UserError):
    """A file of a checkpoint is missing, or has changed since it was written."""


@dataclass(frozen=True, kw_only=True)
class Meta:
    """The content of ``meta.json``."""

    config: dict[str, Any]
    classes: list[str]
    position: Position
    """The position at which training continues."""
    step: int
    """Optimizer steps taken."""
    fingerprint: str
    """Fingerprint of the training manifest, which determines the order of samples."""
    dataset: str = ""
    class_counts: list[int] | None = None
    """Training videos of each class; None in checkpoints of older versions."""
    class_weights: list[float] | None = None
    """Weights of the classes in the loss; None if it has none."""
    world_size: int = 1
    metrics: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    mlflow_run_id: str | None = None
    val_fingerprint: str = ""
    """Fingerprint of the validation manifest at this point; "" if there is none, or it is unknown."""
    val_dataset: str = ""
    """Data set of the validation manifest."""
    awaits_validation: bool = False
    """Whether its validation, beside training (``stm.train.async_validation``), has no result yet."""
    started_from: dict[str, Any] | None = None
    """Initial weights of the run: source, sha256, summary, ...; None if they were random."""
    plugin: dict[str, str] | None = None
    """``name`` and ``digest`` of the plugin with its blocks; the source is ``plugin.py``."""
    files: dict[str, list[Any]] = field(default_factory=dict)
    """Size in bytes and checksum of each other file, by name; empty in checkpoints of older versions."""

    def to_json(self) -> str:
        return sealed(
            {
                **self.__dict__,
                "config": redacted(self.config),
                "position": [self.position.epoch, self.position.offset],
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Meta:
        """Invert `to_json`. Raises ``ValueError`` for damaged text, ``TypeError`` or ``KeyError`` for other content."""
        values = unsealed(text)
        if "files" in values and _CHECKSUM not in text:
            raise ValueError("its own checksum is missing")
        return cls(**{**values, "position": Position(*values["position"])})


def write(
    directory: Path,
    model: torch.nn.Module,
    state: dict[str, Any],
    meta: Meta,
    history: list[dict[str, Any]] | None = None,
    plugin: Plugin | None = None,
) -> None:
    """Write a checkpoint into ``directory``; ``meta.json`` is last, so a directory without it is not a checkpoint.

    Raises ``OSError``, such as for a full disk.
    """
    import torch
    from safetensors.torch import save

    def keep(name: str, content: bytes | memoryview) -> None:
        # The checksum is of the content in memory, so that it also detects errors of the disk.
        files[name] = [len(content), _checksum(content)]
        (directory / name).write_bytes(content)

    files: dict[str, list[Any]] = {}
    keep(MODEL, save({k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}))
    buffer = io.BytesIO()
    torch.save(state, buffer)
    keep(STATE, buffer.getbuffer())
    keep(HISTORY, json.dumps(history or []).encode())
    if plugin is not None:
        keep(PLUGIN, plugin.source.encode())
        meta = replace(meta, plugin={"name": plugin.name, "digest": plugin.digest})
    (directory / META).write_text(replace(meta, files=files).to_json())


def read_meta(directory: str | Path) -> Meta:
    """Return the meta of a checkpoint, with the metrics of a later validation.

    A damaged validation is ignored with a warning. Raises ``UserError`` if there is no checkpoint, or it is of another
    version, and `Damaged` if ``meta.json`` is damaged.
    """
    try:
        meta = Meta.from_json(read_file(directory, META).decode())
    except FileNotFoundError:
        raise UserError(f"{directory} is not a checkpoint of stm: it has no {META}") from None
    except UserError:
        raise
    except ValueError as error:
        raise Damaged(f"{directory}/{META} is damaged: {error}") from error
    except (TypeError, KeyError) as error:
        raise UserError(f"{directory}/{META} was written by another version: {error}") from error
    if not meta.awaits_validation:
        return meta
    try:
        later = unsealed(read_file(directory, VALIDATION).decode())
        if not all(isinstance(value, int | float) for value in later.values()):
            raise ValueError("it contains more than numbers")
    except FileNotFoundError:
        return meta
    except UserError:
        raise
    except ValueError as error:
        logger.warning(f"{directory}/{VALIDATION} is damaged ({error}): it counts as not validated")
        return meta
    return replace(meta, metrics=meta.metrics | later, awaits_validation=False)


def read_weights(directory: str | Path) -> dict[str, torch.Tensor]:
    """Return the model's state dict, on the CPU. Raises `Damaged` if it is missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(read_file(directory, MODEL))
    except (FileNotFoundError, SafetensorError) as error:
        raise Damaged(f"{directory}/{MODEL} cannot be read as weights: {error}") from error


def read_state(directory: str | Path) -> dict[str, Any]:
    """Return the ``state`` that was given to ``write``, on the CPU.

    Raises `Damaged` if it is damaged, or contains anything but tensors and plain values, which could be code.
    """
    import torch

    try:
        content = io.BytesIO(read_file(directory, STATE))
        return torch.load(content, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:  # a truncated file raises many kinds of errors
        raise Damaged(
            f"{directory}/{STATE} is damaged, or contains Python objects other than tensors, which are never run here"
        ) from error


def read_history(directory: str | Path) -> list[dict[str, Any]]:
    """Return the steps since the previous checkpoint. Raises `Damaged`."""
    try:
        return json.loads(read_file(directory, HISTORY))
    except FileNotFoundError as error:
        if HISTORY in read_meta(directory).files:
            raise Damaged(f"{directory}/{HISTORY} is missing") from error
        return []
    except UserError:
        raise
    except ValueError as error:
        raise Damaged(f"{directory}/{HISTORY} is damaged: {error}") from error


def read_file(directory: str | Path, name: str) -> bytes:
    """Return the content of one of a checkpoint's files.

    Raises the errors of ``stm.storage.read_bytes``, and `Damaged` if the file has changed since it was written.
    """
    content = read_bytes(join(str(directory), name))
    if name not in (META, VALIDATION):
        size_bytes, checksum = read_meta(directory).files.get(name, (None, None))
        if size_bytes not in (None, len(content)):
            raise Damaged(
                f"{directory}/{name} is damaged: it has {len(content)} bytes, and {size_bytes} were written"
            )
        if checksum not in (None, _checksum(content)):
            raise Damaged(f"{directory}/{name} is damaged: its checksum is not the one in {META}")
    return content


def check_whole(directory: str, meta: Meta) -> None:
    """Read every file that a run needs to continue. Raises `Damaged` for the first that is missing or damaged.

    A checkpoint of an older version has no checksums; its files must be readable.
    """
    for name in meta.files:
        try:
            read_file(directory, name)
        except FileNotFoundError:
            raise Damaged(f"{directory}/{name} is missing") from None
    if not meta.files:
        read_weights(directory)
        read_state(directory)
        read_history(directory)


def sealed(values: dict[str, Any]) -> str:
    """Return values as JSON that contains its own checksum."""
    checksum = _checksum(json.dumps(values, indent=1).encode())
    return json.dumps({**values, _CHECKSUM: checksum}, indent=1)


def unsealed(text: str) -> dict[str, Any]:
    """Invert `sealed`. Raises ``ValueError`` if the text is damaged; text without a checksum is not checked."""
    values = json.loads(text)
    if not isinstance(values, dict):
        raise ValueError("it is not a JSON object")
    checksum = values.pop(_CHECKSUM, None)
    if checksum not in (None, _checksum(json.dumps(values, indent=1).encode())):
        raise ValueError("its checksum is wrong")
    return values


def _checksum(content: bytes | memoryview) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def chosen_on(meta: Meta, fingerprint: str, dataset: str) -> str | None:
    """Return why a figure on the manifest of ``fingerprint`` is too high: the best checkpoint was chosen on its videos.

    None if the best checkpoint was chosen on other videos, or not at all.
    """
    if "val_top1" not in meta.metrics:
        return None
    from stm.data.annotations.formats import test_list_of

    if (name := test_list_of(meta.val_dataset)) and dataset == meta.val_dataset:
        return (
            f"{name} publishes no validation list, so the best checkpoint was chosen on its test list and this figure "
            "is too high: report that of the last checkpoint (--which last)"
        )
    if fingerprint and fingerprint == meta.val_fingerprint:
        return (
            "the best checkpoint was chosen on these very videos, so this figure is too high; the last one (--which "
            "last) was not"
        )
    return None


def config_of(meta: Meta) -> Config:
    """Return the config that a checkpoint was trained with."""
    return Config.from_dict(meta.config)


def network_arguments(meta: Meta, where: str) -> dict[str, Any]:
    """Return all arguments of ``stm.model.build_model`` for the network of the checkpoint ``where``.

    Raises ``UserError`` if its blocks come from a plugin that this process was not told to run.
    """
    check_plugin(meta, where)
    return {**model_arguments(config_of(meta)), "num_classes": len(meta.classes)}


def check_plugin(meta: Meta, where: str) -> None:
    """Raise ``UserError`` if the checkpoint ``where`` needs a plugin that this process was not told to run.

    A driver calls this before it starts workers.
    """
    if meta.plugin is not None:
        from stm.model import plugins

        plugins.require(meta.plugin["name"], meta.plugin["digest"], where)


def model_arguments(config: Config) -> dict[str, Any]:
    """Return the arguments of ``stm.model.build_model`` from the config, which are all but ``num_classes``."""
    return config.model.build_arguments()


def load_plugin(config: Config) -> Plugin | None:
    """Run the plugin that the config names, if any, in this process. Raises ``UserError``."""
    if config.model.plugin is None:
        return None
    from stm.model import plugins

    try:
        return plugins.load(config.model.plugin)
    except UserError as error:
        raise UserError(f"--model.plugin: {error}") from error


def check_model(config: Config) -> None:
    """Raise ``UserError`` if no network can be built from the config, or a plugin's block does not run.

    Nothing is allocated, and neither Ray nor a GPU is needed.
    """
    from stm.model import check_settings

    plugin, arguments = load_plugin(config), model_arguments(config)
    try:
        check_settings(config.data.num_segments, runs=plugin is not None, **arguments)
    except UserError as error:
        is_of_block = str(error).partition(" ")[0] in config.model.settings
        raise UserError(f"--model.{'settings.' * is_of_block}{error}") from error
