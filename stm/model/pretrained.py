"""Initialise a network from ImageNet weights, or from a network of stm that was trained on another data set."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stm.errors import UserError
from stm.model import registry
from stm.model.foreign_names import as_torchvision
from stm.model.network import BLOCKS_IN_STAGES, PLAIN, VideoResNet, build_model
from stm.model.weight_files import first, read_state_dict

HEAD = "fc"
_COUNTERS = ".num_batches_tracked"


@dataclass(frozen=True, kw_only=True)
class PretrainedReport:
    """The result of ``load_pretrained``, with the names of the model's state dict."""

    loaded: int
    """Number of tensors of the model that were loaded from the file."""
    missing: tuple[str, ...]
    """Tensors of the model that are not in the file. They keep their initial values."""
    ignored: tuple[str, ...]
    """Tensors of the file that were not used: its FC, which scores other classes, and layers of ResNet that the model's
    blocks do not have."""
    rows: int = 0
    """Number of classes whose FC rows were loaded from the file. The other rows keep their initial values."""
    adapted: str = ""
    """A phrase for the file's names if they are not torchvision's or stm's, such as "Hugging Face's"."""
    text: str = ""
    """The report as one line."""

    def __str__(self) -> str:
        return self.text


def load_pretrained(model: nn.Module, path: str | Path) -> PretrainedReport:
    """Load weights from a file into ``model``: those of a ResNet of its depth, or of a network of its variant.

    ``stm.load_pretrained`` also accepts everything that `--model.pretrained` accepts, and matches classes by name.

    Args:
        model: a network from ``build_model``.
        path: a state dict (safetensors, or from ``torch.save``) with the names of torchvision, timm, Hugging Face or
            OpenMMLab; or a checkpoint folder of stm, which has a ``model.safetensors``.

    Returns:
        The names of the tensors that were loaded, missing and ignored.

    Raises:
        UserError: (a ValueError) the file cannot be read, or does not fit this model.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "model.safetensors"
    if not path.is_file():
        raise UserError(f"pretrained weights: there is no file {path}")
    state, adapted = as_torchvision(read_state_dict(path.read_bytes(), str(path))[0], str(path))
    return fill(model, state, str(path), adapted=adapted)


def fill(
    model: nn.Module,
    source: Mapping[str, Tensor],
    where: str,
    *,
    rows: Mapping[int, int] | None = None,
    adapted: str = "",
) -> PretrainedReport:
    """Load a state dict with the model's names into ``model``.

    Apart from the FC, the state dict must have all tensors of the model (weights of stm), or all except those of layers
    that ResNet does not have (ImageNet weights). Step counts of batch normalisation may be absent, as in weights from
    before PyTorch 0.4.1.

    Args:
        source: name -> tensor. With ``adapted``, tensors outside the ResNet of a larger model are ignored.
        where: the name of the source, for messages.
        rows: label in the model -> label in the source, for the FC rows to load.
        adapted: a phrase for the names that ``source`` had before they were changed.

    Raises:
        UserError: (a ValueError) tensors are missing, unknown or of another shape. Then the model does not change.
    """
    target = model.state_dict()
    wanted = {key for key in target if not _is_head(key)}
    given = {key for key in source if not _is_head(key)}
    of_resnet = _keys_of_resnet(model)
    missing = {key for key in wanted - given if not key.endswith(_COUNTERS)}
    all_added = {key for key in wanted - of_resnet if not key.endswith(_COUNTERS)}
    # The source lacks all added layers (ImageNet) or none (stm). If it has only some, it is another
    # variant's.
    is_resnet = missing & all_added == all_added
    absent = missing - all_added if is_resnet else missing
    unknown = given - wanted - (of_resnet if is_resnet else set())
    if adapted:
        unknown = {key for key in unknown if key.startswith(("conv1.", "bn1.", "layer"))}
    if absent or unknown:
        raise UserError(_misfit(model, where, source, absent, unknown))

    usable = wanted & given
    reshaped = [
        f"{key} is {list(source[key].shape)} in it and {list(target[key].shape)} in the model"
        for key in sorted(usable)
        if source[key].shape != target[key].shape
    ]
    if reshaped:
        raise UserError(f"{where} does not fit the model: {first(reshaped)}. {_remedy(source)}")

    new = {key: source[key] for key in usable}
    head = {key for key in target if _is_head(key)}
    rows = {here: there for here, there in (rows or {}).items() if head <= source.keys()}
    if any(
        source[key].shape[1:] != target[key].shape[1:] or max(rows.values()) >= source[key].shape[0]
        for key in head
        if rows
    ):
        raise UserError(
            f"{where} does not fit the model: the shape of its classifier does not match its class names"
        )
    for key in head if rows else ():
        new[key] = target[key].clone()
        new[key][list(rows)] = source[key][list(rows.values())].to(target[key])
    model.load_state_dict(new, strict=False)
    report = PretrainedReport(
        loaded=len(new),
        missing=tuple(sorted(missing if rows else missing | head)),
        ignored=tuple(sorted(set(source) - new.keys())),
        rows=len(rows),
        adapted=adapted,
    )
    return report


def new_layers(missing: Collection[str]) -> list[str]:
    """Phrases for the layers that keep their initial weights: ``["temporal of 16 blocks", "cmm of 16 blocks"]``."""
    blocks: dict[str, set[str]] = {}
    for key in missing:
        parts = key.split(".")
        if len(parts) > 3 and parts[0].startswith("layer"):
            blocks.setdefault(parts[2], set()).add(".".join(parts[:2]))
        elif not _is_head(key):
            blocks.setdefault(parts[0], set())
    return [
        f"{part} of {len(of)} block{'s' * (len(of) != 1)}" if of else part
        for part, of in sorted(blocks.items(), reverse=True)
    ]


def _is_head(key: str) -> bool:
    return key.startswith(f"{HEAD}.")


def _keys_of_resnet(model: nn.Module) -> set[str]:
    """State dict names of a ResNet of the model's depth. All other names are of layers that the model's blocks add."""
    if not isinstance(model, VideoResNet):
        return set(model.state_dict())
    with torch.device("meta"):
        return set(build_model(PLAIN, model.depth, 1).state_dict())


def _blocks_in_stages(keys: Collection[str]) -> tuple[int, ...]:
    """Number of blocks in each of ``layer1`` to ``layer4``, from the names of a state dict."""
    found = {tuple(key.split(".")[:2]) for key in keys if key.startswith("layer")}
    return tuple(sum(layer == f"layer{n}" for layer, _ in found) for n in range(1, 5))


def _misfit(
    model: nn.Module,
    where: str,
    source: Mapping[str, Tensor],
    absent: set[str],
    unknown: set[str],
) -> str:
    """Describe which tensors do not match, and the most likely reason."""
    problems = []
    if absent:
        problems.append(f"it lacks {len(absent)} of the model's tensors: {first(sorted(absent))}")
    if unknown:
        problems.append(
            f"{len(unknown)} of its tensors are not in the model: {first(sorted(unknown))}"
        )

    there, here = _blocks_in_stages(source), _blocks_in_stages(model.state_dict())
    if sum(there) == 0:
        remedy = (
            "Its tensors do not have the names of a ResNet from torchvision, timm or Hugging Face."
        )
    elif not any(key.endswith(".conv3.weight") for key in source):
        remedy = "It has basic blocks (ResNet-18 or 34), but the model has bottlenecks."
    elif there != here:
        remedy = f"It has {there} blocks in stages 2 to 5, and the model {here}. {_remedy(source)}"
    else:
        remedy = _remedy(source)
    return f"{where} does not fit the model: {'; '.join(problems)}. {remedy}"


def _remedy(source: Mapping[str, Tensor]) -> str:
    settings = settings_of(source)
    if settings is None:
        return "No network that stm can build has these layers: choose other weights."
    told = ", ".join(f"{name} {value}" for name, value in settings.items())
    return f"It fits a model of {told}: build that one, or choose other weights."


def settings_of(source: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """Arguments of ``build_model`` for a network with these layers and shapes; None if there are none.

    variant, depth and width are always included, other arguments only if they differ from the default.
    """
    depths: dict[tuple[int, ...], int] = {
        blocks: depth for depth, blocks in BLOCKS_IN_STAGES.items()
    }
    depth = depths.get(_blocks_in_stages(source))
    if depth is None or "conv1.weight" not in source:
        return None
    guessed: dict[str, Any] = {}
    for key, value in source.items():
        if key.endswith(".temporal.weight") and value.ndim == 4:
            guessed["temporal_kernel"] = value.shape[2]
            guessed["temporal_conv"] = "channelwise" if value.shape[1] == 1 else "ordinary"
        elif key.endswith(".cmm.reduce.weight"):
            guessed["reduction"] = value.shape[1] // value.shape[0]
        elif key.endswith(".conv3_cmm.weight"):
            guessed["fusion"] = "concat"
    base: dict[str, Any] = {"depth": depth, "width": source["conv1.weight"].shape[0]}
    with torch.device("meta"):
        for name in sorted(registry.names(), key=lambda name: name != PLAIN):
            own = {
                key: value
                for key, value in guessed.items()
                if registry.get(name).settings.get(key, value) != value
            }
            for places in ({}, _places(source, base)) if name != PLAIN else ({},):
                try:
                    made = build_model(name, num_classes=1, **base, **own, **places).state_dict()
                except ValueError:
                    continue
                if _shapes(made) == _shapes(source):
                    return {"variant": name, **base, **own, **places}
    return None


def _places(source: Mapping[str, Tensor], base: dict[str, Any]) -> dict[str, Any]:
    """``stages`` and ``blocks`` that select the blocks with layers that ResNet does not have."""
    plain = build_model(PLAIN, num_classes=1, **base).state_dict()
    added = [re.match(r"layer(\d)\.(\d+)\.", key) for key in source.keys() - plain.keys()]
    pairs = {(int(found[1]) + 1, int(found[2])) for found in added if found}
    stages = sorted({stage for stage, _ in pairs})
    blocks = sorted({block for _, block in pairs})
    whole = all(
        sum(stage == each for each, _ in pairs) == BLOCKS_IN_STAGES[base["depth"]][stage - 2]
        for stage in stages
    )
    return {"stages": stages} | ({} if whole else {"blocks": blocks})


def _shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {
        key: value.shape
        for key, value in state.items()
        if not _is_head(key) and not key.endswith(_COUNTERS)
    }
