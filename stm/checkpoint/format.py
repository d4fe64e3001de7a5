"""What a checkpoint contains: everything a run needs to continue exactly. A checkpoint is a folder or its URL.

    model.safetensors   the weights that are evaluated and shipped (the moving average, where one is kept)
    state.pt            optimizer, gradient scaler, and the weights in training where they are other ones
    history.json        the steps since the checkpoint before, for the record
    meta.json           what the network is and where training stood; written last
    validation.json     what a validation beside training found later
    plugin.py           the source of the network's blocks, where they are the user's own (never run unasked)

``meta.json`` alone says what the network is (config, classes) and where training stood (position), so evaluation and
prediction need nothing but the checkpoint's path. Nothing in it is pickled: weights are safetensors, the optimizer's
state loads with ``weights_only=True``.

A checkpoint knows whether it is whole: ``meta.json`` has the size and the checksum of every other file and one of
itself, ``validation.json`` one of itself, and whoever reads a file compares. Those that older versions wrote have
none of it and are read as they are.
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
    """A file of a checkpoint is not what was written."""


@dataclass(frozen=True, kw_only=True)
class Meta:
    """What ``meta.json`` holds."""

    config: dict[str, Any]
    classes: list[str]
    position: Position
    """The position at which training continues."""
    step: int
    """Optimizer steps taken."""
    fingerprint: str
    """Of the training manifest; another manifest has another order."""
    dataset: str = ""
    class_counts: list[int] | None = None
    """Videos of each class that were trained on; None where an older version wrote it."""
    class_weights: list[float] | None = None
    """Of the loss, where it has some."""
    world_size: int = 1
    metrics: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    mlflow_run_id: str | None = None
    val_fingerprint: str = ""
    """Of the manifest that the run is validated on at this point, as it was read; "" without one, or unknown."""
    val_dataset: str = ""
    """That manifest's data set."""
    awaits_validation: bool = False
    """Its validation runs elsewhere (``stm.train.async_validation``), and its result is not there yet."""
    started_from: dict[str, Any] | None = None
    """The weights that the run began with: source, sha256, summary, ...; None for random ones."""
    plugin: dict[str, str] | None = None
    """name and digest of the plugin that its blocks come from; the source is ``plugin.py``."""
    files: dict[str, list[Any]] = field(default_factory=dict)
    """File -> [bytes, checksum], of all others that were written with it; empty where an older version wrote it."""

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
        """Raises ``ValueError`` where the text is damaged, ``TypeError`` or ``KeyError`` where it is something else."""
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
    """Write a checkpoint into ``directory``; ``meta.json`` comes last, so a directory without it is not one."""
    import torch
    from safetensors.torch import save

    def keep(name: str, content: bytes | memoryview) -> None:
        # Of what is to be written, not of what a disk made of it. A full disk is an OSError here.
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
    """The meta of a checkpoint, with the validation that came after it; ``UserError`` where there is none, `Damaged`
    where it is not what was written. A validation that is damaged does not count."""
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
    """The model's state dict, on the CPU."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(read_file(directory, MODEL))
    except (FileNotFoundError, SafetensorError) as error:
        raise Damaged(f"{directory}/{MODEL} cannot be read as weights: {error}") from error


def read_state(directory: str | Path) -> dict[str, Any]:
    """What ``write`` was given as ``state``, on the CPU. Raises ``UserError`` where it holds more than tensors and
    plain values: that would be code, and is not run."""
    import torch

    try:
        content = io.BytesIO(read_file(directory, STATE))
        return torch.load(content, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:  # a cut file fails in as many ways as it has parts
        raise Damaged(
            f"{directory}/{STATE} is damaged, or holds Python objects beside tensors, which are never run here"
        ) from error


def read_history(directory: str | Path) -> list[dict[str, Any]]:
    """The steps that a checkpoint brought with it."""
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
    """One of a checkpoint's files; raises as ``stm.storage.read_bytes``, and `Damaged` where it is another than was
    written."""
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
    """Read every file that a run needs to go on; raises `Damaged` for the first that is not what was written.

    Of a checkpoint of an older version, which has no checksums, the files must be readable.
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
    """JSON with a checksum of itself."""
    checksum = _checksum(json.dumps(values, indent=1).encode())
    return json.dumps({**values, _CHECKSUM: checksum}, indent=1)


def unsealed(text: str) -> dict[str, Any]:
    """What `sealed` was given. Raises ``ValueError`` where that is damaged; what has no checksum is taken as it is."""
    values = json.loads(text)
    if not isinstance(values, dict):
        raise ValueError("it is no JSON object")
    checksum = values.pop(_CHECKSUM, None)
    if checksum not in (None, _checksum(json.dumps(values, indent=1).encode())):
        raise ValueError("it is not what was written, by its checksum")
    return values


def _checksum(content: bytes | memoryview) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def chosen_on(meta: Meta, fingerprint: str, dataset: str) -> str | None:
    """Why a figure on the manifest of ``fingerprint`` is too high: the run's best checkpoint was chosen on it.

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
