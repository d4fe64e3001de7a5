"""Find the weights that `--model.pretrained` names, and initialize a network with them.

    found = find("imagenet", depth=50)                    # also a run, a checkpoint, a file, a URL, models:/NAME@ALIAS
    print(begin(model, found, classes=["open", "close"]))

A driver finds them once and passes them to its workers (`receive`), so that only the driver needs the file,
the internet or the registry.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from stm.checkpoint import format as checkpoints
from stm.checkpoint.download import DownloadFailed, download
from stm.checkpoint.locate import PREFIX, locate
from stm.config import ModelConfig
from stm.data.classes import match_classes
from stm.errors import UserError
from stm.log import get_logger
from stm.plural import counted
from stm.redaction import one_line, redact
from stm.storage import is_url, join, read_bytes, resolved, split_url

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from stm.model import PretrainedReport

logger = get_logger(__name__)

IMAGENET = "imagenet"
MIRROR = "STM_IMAGENET_URL"
"""Environment variable with the URL of a mirror of torchvision's files."""
_TORCHVISION = "https://download.pytorch.org/models"
_PUBLISHED = {
    50: "resnet50-0676ba61.pth",
    101: "resnet101-63fe2227.pth",
    152: "resnet152-394f9c45.pth",
}
"""torchvision's IMAGENET1K_V1 weights by depth; a name ends with the first 8 hex digits of the file's sha256."""
_FILES = (".pth", ".pt", ".bin", ".safetensors", ".ckpt", ".tar")
_OF_HUGGING_FACE = ("model.safetensors", "pytorch_model.bin")
_CAFFE = re.compile(r"caffe|detectron|msra", re.I)
_NAMED = 5


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """Initial weights, with the names that stm's networks use."""

    label: str
    """Name of the weights in messages."""
    state: Mapping[str, Tensor]
    adapted: str = ""
    """The library whose names they had, if they were renamed."""
    sha256: str
    """Hex digest of the file."""
    classes: tuple[str, ...] = ()
    """Class of each row of its classifier, if they are known."""
    model: Mapping[str, Any] | None = None
    """The ``model`` section of the config, for a checkpoint or an export of stm."""
    num_segments: int | None = None
    """T of the clips that it was trained on, if it is known."""


_received: dict[str, Pretrained] = {}


def receive(found: Mapping[str, Pretrained]) -> None:
    """Take the weights that another process of the job has found, by `key`."""
    _received.update(found)


def forget() -> None:
    """Forget the received weights, because the files may have changed."""
    _received.clear()


def key(model: ModelConfig) -> str:
    """Return a string that identifies what `find` finds."""
    name = str(model.pretrained)
    return f"{name}-{model.depth}" if name == IMAGENET else absolute(name)


def is_path(name: str) -> bool:
    """Return whether a name is a path on a disk."""
    return not (name == IMAGENET or name.startswith(PREFIX) or is_url(name))


def absolute(name: str) -> str:
    """Return the name for processes with another working directory; a path becomes absolute."""
    return resolved(name) if is_path(name) else name


def check_name(model: ModelConfig) -> None:
    """Raise ``UserError`` for an impossible name, before anything is downloaded."""
    name = model.pretrained
    if name is None or name == IMAGENET:
        if name == IMAGENET and model.depth not in _PUBLISHED:
            raise UserError(
                f"--model.pretrained imagenet: torchvision publishes no ResNet of depth {model.depth}; "
                f"allowed: --model.depth {', '.join(map(str, _PUBLISHED))}, or the file of another network"
            )
        if name == IMAGENET and model.width != 64:
            raise UserError(
                f"--model.pretrained imagenet: torchvision's ResNets have --model.width 64, not {model.width}"
            )
        return
    if not name.strip():
        raise UserError("--model.pretrained is empty: give it a value, or null")
    if _CAFFE.search(name.rstrip("/").rpartition("/")[2]):
        raise UserError(
            f"--model.pretrained {redact(name)}: Caffe's ResNets (v1; `style='caffe'`, STRIDE_IN_1X1) have the stride "
            "of a block in its first 1x1 and expect BGR pixels; these blocks have it in the 3x3, like torchvision's, "
            "and would compute something else with such weights. Use imagenet, or weights of style pytorch. If the "
            "weights are not Caffe's, rename the file"
        )
    if re.fullmatch(rf"{IMAGENET}\W?\w*|resnet-?\d+", name, re.I) and not os.path.lexists(name):
        raise UserError(
            f"--model.pretrained {name}: no such file; torchvision's weights of --model.depth are called {IMAGENET}"
        )


def find(name: str, depth: int = 50, tracking: str | None = None) -> Pretrained:
    """Return the weights of a name; those from the web are downloaded into a cache.

    Args:
        name: ``imagenet``, a file, a run, a checkpoint, a Hugging Face folder, the URL of one of these, or
            ``models:/NAME@ALIAS``.
        depth: of the network, for ``imagenet``.
        tracking: server or database of a registered model.

    Raises:
        UserError: there are none, they cannot be read, or the registry or server does not answer.
    """
    if found := _received.get(key(ModelConfig(pretrained=name, depth=depth))):
        return found
    if name == IMAGENET:
        return _imagenet(depth)
    if name.startswith(PREFIX):
        located = locate(name, tracking)
        return replace(_checkpoint(located.directory), label=located.label)
    if is_url(name):
        return _at_url(name)
    return _on_disk(name)


def begin(
    model: torch.nn.Module,
    found: Pretrained,
    *,
    classes: Sequence[str] = (),
    num_segments: int | None = None,
) -> PretrainedReport:
    """Load the weights that `find` returned into ``model``, with the classifier's rows for classes of the same name.

    Args:
        classes: of the model; without them, the classifier keeps its initial values.
        num_segments: T of the clips to train on, for the report.

    Raises:
        UserError: they do not fit the model, which is not changed; the message says what would fit.
    """
    from stm.model.pretrained import fill

    _check_variant(model, found)
    match = match_classes(classes, found.classes)
    report = fill(model, found.state, found.label, rows=match.labels, adapted=found.adapted)
    return replace(
        report, text=_told(report, found, classes, match.labels, match.said(), num_segments)
    )


def load_pretrained(
    model: torch.nn.Module,
    source: str | os.PathLike[str],
    *,
    classes: Sequence[str] = (),
    tracking: str | None = None,
) -> PretrainedReport:
    """Load weights into a network from ``build_model``; ``print`` shows the returned report in one line.

    Args:
        source: ``imagenet``, a file, a run, a checkpoint, a URL, ``models:/NAME@ALIAS``.
        classes: of the model, in the order of its labels. Rows of the last layer are loaded for classes that the source
            also has, by name. Without ``classes``, the whole layer keeps its initial values.
        tracking: MLflow server or database of a registered model; None uses $MLFLOW_TRACKING_URI, else runs/mlflow.db.

    Raises:
        UserError: (a ValueError) there is no such source, or it does not fit; the model is not changed.
    """
    return begin(
        model, find(os.fspath(source), getattr(model, "depth", 50), tracking), classes=classes
    )


def record(found: Pretrained, report: PretrainedReport) -> dict[str, Any]:
    """Return what a checkpoint stores about the initial weights of its run, as plain values."""
    return {
        "source": found.label,
        "sha256": found.sha256,
        "loaded": report.loaded,
        "classifier_rows": report.rows,
        "adapted": report.adapted,
        "summary": report.text,
    }


# ---------------------------------------------------------------------- from a name to a file


def _imagenet(depth: int) -> Pretrained:
    check_name(ModelConfig(pretrained=IMAGENET, depth=depth))
    name = _PUBLISHED[depth]
    place = (os.environ.get(MIRROR) or _TORCHVISION).rstrip("/")
    if split_url(place)[0] not in ("http", "https"):
        raise UserError(
            f"${MIRROR} {redact(place)}: is not the http(s) URL of a folder with {name}"
        )
    folder = _torch_hub()
    try:
        file = download(f"{place}/{name}", folder, name=name, digest=name[-12:-4])
    except DownloadFailed as error:
        raise UserError(
            f"--model.pretrained imagenet: {error}. Without network access, download {_TORCHVISION}/{name} elsewhere, "
            f"put it at {folder / name}, or name the file: --model.pretrained {name}; ${MIRROR} sets a mirror"
        ) from error
    return _file(file.read_bytes(), f"imagenet ({name})")


def _torch_hub() -> Path:
    """Return the folder where torchvision stores its weights, so that one copy suffices."""
    home = os.environ.get("TORCH_HOME") or str(_cache() / "torch")
    return Path(home).expanduser() / "hub" / "checkpoints"


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def _at_url(url: str) -> Pretrained:
    label = redact(url)
    if split_url(url)[0].lower() in ("http", "https"):
        name = re.sub(r"[^\w.-]", "_", unquote(PurePosixPath(urlsplit(url).path).name))[-100:]
        try:
            file = download(url, _cache() / "stm" / "weights", name=name or "weights")
        except DownloadFailed as error:
            raise UserError(
                f"{error}. You can also download it yourself and name the file: --model.pretrained {name}"
            ) from error
        return _file(file.read_bytes(), label)
    if url.lower().endswith(_FILES):
        try:
            return _file(read_bytes(url), label)
        except FileNotFoundError:
            raise UserError(f"--model.pretrained {label}: there is no such file") from None
    return _checkpoint(_located(url))


def _on_disk(name: str) -> Pretrained:
    folder = name
    if os.path.isfile(name):
        folder, file = os.path.split(name)
        if file != checkpoints.MODEL or not os.path.isfile(join(folder or ".", checkpoints.META)):
            return _file(read_bytes(name), name)
        return _checkpoint(folder or ".")
    if not os.path.isdir(name):
        raise UserError(
            f"--model.pretrained {name}: there is no such file or folder; it is imagenet, a run, a checkpoint, a file, "
            "a URL or models:/NAME@ALIAS"
        )
    if os.path.isfile(join(name, "config.json")):
        return _hugging_face(name)
    if os.path.isfile(join(name, checkpoints.MODEL)) and not os.path.isfile(
        join(name, checkpoints.META)
    ):
        return _file(read_bytes(join(name, checkpoints.MODEL)), join(name, checkpoints.MODEL))
    return _checkpoint(_located(name))


def _located(name: str) -> str:
    try:
        return locate(name).directory
    except UserError as error:
        raise UserError(str(error).removeprefix("--checkpoint ")) from error


def _hugging_face(folder: str) -> Pretrained:
    """Read a folder that ``save_pretrained`` of Hugging Face wrote."""
    try:
        config = json.loads(read_bytes(join(folder, "config.json")))
        names = config.get("id2label") or {}
        classes = tuple(str(names[k]) for k in sorted(names, key=int))
    except (ValueError, AttributeError) as error:
        raise UserError(f"{folder}/config.json is not a Hugging Face config: {error}") from error
    if config.get("downsample_in_bottleneck"):
        raise UserError(
            f"{folder} is a ResNet with its strides in the first 1x1 of a block (downsample_in_bottleneck, Caffe's "
            "v1), but these blocks have them in the 3x3: choose a ResNet without it"
        )
    for name in _OF_HUGGING_FACE:
        if os.path.isfile(join(folder, name)):
            found = _file(read_bytes(join(folder, name)), join(folder, name))
            return replace(found, classes=classes)
    raise UserError(f"{folder} has a config.json, but neither {' nor '.join(_OF_HUGGING_FACE)}")


def _checkpoint(directory: str) -> Pretrained:
    meta = checkpoints.read_meta(directory)
    try:
        content = checkpoints.read_file(directory, checkpoints.MODEL)
    except FileNotFoundError:
        raise UserError(f"{directory} is damaged: it has no {checkpoints.MODEL}") from None
    return replace(
        _file(content, redact(directory)),
        classes=tuple(meta.classes),
        model=meta.config.get("model"),
        num_segments=meta.config.get("data", {}).get("num_segments"),
    )


def _file(content: bytes, label: str) -> Pretrained:
    from stm.model.foreign_names import as_torchvision
    from stm.model.weight_files import read_state_dict

    state, metadata = read_state_dict(content, label)
    state, adapted = as_torchvision(state, label)
    classes, config = metadata.get("classes"), metadata.get("network")
    return Pretrained(
        label=label,
        state=state,
        adapted=adapted,
        sha256=hashlib.sha256(content).hexdigest(),
        classes=tuple(map(str, classes)) if isinstance(classes, list) else (),
        model=config if isinstance(config, dict) else None,
        num_segments=metadata.get("num_frames"),
    )


# ---------------------------------------------------------------------- messages


def _check_variant(model: torch.nn.Module, found: Pretrained) -> None:
    """Raise ``UserError`` for another variant, whose weights may have the same names and shapes but not fit."""
    from stm.model.network import PLAIN

    there, here = (found.model or {}).get("variant"), getattr(model, "variant", None)
    if there not in (None, PLAIN, here) and here is not None:
        settings = {
            k: v for k, v in (found.model or {}).items() if k in ("variant", "depth", "width")
        }
        told = " ".join(f"--model.{name} {value}" for name, value in settings.items())
        raise UserError(
            f"{found.label} is a network of variant {there}, but this one is of {here}: use {told}, or begin "
            "with a plain ResNet (imagenet, variant tsn)"
        )


def _told(
    report: PretrainedReport,
    found: Pretrained,
    classes: Sequence[str],
    labels: Mapping[int, int],
    near: str,
    num_segments: int | None,
) -> str:
    from stm.model.pretrained import HEAD, new_layers

    said = [f"{found.label}: {counted(report.loaded, 'tensor')} loaded"]
    if report.adapted:
        said.append(f"names were {report.adapted}")
    if layers := new_layers(report.missing):
        said.append(f"new: {', '.join(layers)}")
    fresh = [name for label, name in enumerate(classes) if label not in labels]
    if report.rows:
        said.append(
            f"classifier: {report.rows} of {counted(len(classes), 'class')} by name "
            f"({_some(classes[k] for k in sorted(labels))})"
            + (f", new: {_some(fresh)}" if fresh else "")
            + (f"; taken as the same: {near}" if near else "")
        )
    else:
        why = (
            "no class of this name there"
            if found.classes and classes
            else "its classes are not known"
        )
        said.append(f"classifier: new{f', {why}' if classes else ''}")
    rows = found.state.get(f"{HEAD}.weight")
    left = (
        []
        if rows is None or rows.shape[0] == report.rows
        else [counted(rows.shape[0] - report.rows, "class")]
    )
    left += sorted({name.split(".")[0] for name in report.ignored} - {HEAD})[:_NAMED]
    if left:
        said.append(f"left out: {', '.join(left)}")
    if found.num_segments and num_segments and found.num_segments != num_segments:
        said.append(
            f"trained on {counted(found.num_segments, 'frame')}, here {num_segments}, on which no weight depends"
        )
    return "; ".join(said)


def _some(names: Iterable[str]) -> str:
    shown = [one_line(name) for name in names]
    more = f" and {len(shown) - _NAMED} more" if len(shown) > _NAMED else ""
    return ", ".join(shown[:_NAMED]) + more
