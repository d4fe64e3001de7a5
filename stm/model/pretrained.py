"""Start a network from ImageNet weights, or from one trained here on another dataset."""

from __future__ import annotations

import pickle
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from stm.errors import UserError
from stm.model.network import PLAIN, VideoResNet, build_model

HEAD = "fc"
SHOWN_KEYS = 4


@dataclass(frozen=True, kw_only=True)
class PretrainedReport:
    """What ``load_pretrained`` did, by the names of the model's state dict."""

    loaded: int
    """Number of the model's tensors that came from the file."""
    missing: tuple[str, ...]
    """The model's tensors that the file does not have; they keep their initial values."""
    ignored: tuple[str, ...]
    """The file's tensors that were not used: its FC, which scores other classes, and what belongs to layers of ResNet
    that the model's blocks do without."""


def load_pretrained(model: nn.Module, path: str | Path) -> PretrainedReport:
    """Fill ``model`` from a ResNet of its depth, or from a network of its own kind.

    The FC always keeps its initial values: the file's belongs to the classes of another dataset. Of
    the rest either everything must be there (our own weights), or everything but the layers that
    ResNet does not have (ImageNet weights). Anything else, such as a 3x3 that does not fit, is an
    error, and then the model is left as it was.

    Args:
        model: a network from ``build_model``.
        path: a state dict with the names of torchvision's ResNet, ``.pth``, ``.pt`` or
            ``.safetensors``; or a checkpoint folder of ours, which holds ``model.safetensors``. The
            step counts of batch normalisation may be absent, as they are in weights from before
            PyTorch 0.4.1.

    Returns:
        What was loaded, what was missing and what was ignored.

    Raises:
        UserError: (a ValueError) the file cannot be read, or does not fit this model.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "model.safetensors"
    source = _read_state_dict(path)
    target = model.state_dict()

    wanted = {key for key in target if not _is_head(key)}
    given = {key for key in source if not _is_head(key)}
    of_resnet = _keys_of_resnet(model)
    missing = {key for key in wanted - given if not key.endswith(".num_batches_tracked")}
    all_added = {key for key in wanted - of_resnet if not key.endswith("_tracked")}
    # None of the added layers (ImageNet) or all of them (ours); some would be a network of another
    # variant.
    is_resnet = missing & all_added == all_added
    absent = missing - all_added if is_resnet else missing
    unknown = given - wanted - (of_resnet if is_resnet else set())
    if absent or unknown:
        raise UserError(_misfit(model, path, source, absent, unknown))

    usable = wanted & given
    reshaped = [
        f"{key} is {list(source[key].shape)} there and {list(target[key].shape)} here"
        for key in sorted(usable)
        if source[key].shape != target[key].shape
    ]
    if reshaped:
        raise UserError(
            f"{path} does not fit the model: {_first(reshaped)}. "
            "Build the model with the width, reduction and temporal_conv of the file, or choose "
            "another file."
        )

    model.load_state_dict({key: source[key] for key in usable}, strict=False)
    head = {key for key in target if _is_head(key)}
    return PretrainedReport(
        loaded=len(usable),
        missing=tuple(sorted(missing | head)),
        ignored=tuple(sorted(set(source) - usable)),
    )


def _read_state_dict(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise UserError(f"pretrained weights: there is no file {path}")
    if path.suffix not in (".pth", ".pt", ".safetensors"):
        raise UserError(
            f"pretrained weights: {path} ends in {path.suffix or 'nothing'!r}; "
            "allowed: .pth, .pt, .safetensors"
        )
    try:
        if path.suffix == ".safetensors":
            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"pretrained weights: {path} is damaged, or holds Python objects beside tensors, which "
            "are never run here. Save the state dict: torch.save(model.state_dict(), path)"
        ) from error
    except Exception as error:  # Each format has errors of its own for a damaged file.
        raise UserError(
            f"pretrained weights: {path} cannot be read ({type(error).__name__}: {error}). "
            "It may be cut short; fetch it again."
        ) from error
    if not isinstance(content, Mapping) or not all(
        isinstance(value, Tensor) for value in content.values()
    ):
        keys = _first([str(key) for key in content]) if isinstance(content, Mapping) else ""
        raise UserError(
            f"pretrained weights: {path} holds a {type(content).__name__} ({keys}), no state dict. "
            "Save the state dict itself: torch.save(model.state_dict(), path)"
        )
    return content


def _is_head(key: str) -> bool:
    return key.startswith(f"{HEAD}.")


def _keys_of_resnet(model: nn.Module) -> set[str]:
    """The names in the state dict of a ResNet of the model's depth: all others are layers that its blocks add."""
    if not isinstance(model, VideoResNet):
        return set(model.state_dict())
    with torch.device("meta"):
        return set(build_model(PLAIN, model.depth, 1).state_dict())


def _blocks_in_stages(keys: Collection[str]) -> tuple[int, ...]:
    """Number of bottlenecks in ``layer1`` to ``layer4``, by the names of a state dict."""
    found = {tuple(key.split(".")[:2]) for key in keys if key.startswith("layer")}
    return tuple(sum(layer == f"layer{n}" for layer, _ in found) for n in range(1, 5))


def _misfit(
    model: nn.Module,
    path: Path,
    source: Mapping[str, Tensor],
    absent: set[str],
    unknown: set[str],
) -> str:
    """Say which keys do not match, and what most likely explains it."""
    problems = []
    if absent:
        problems.append(f"it lacks {len(absent)} of the model: {_first(sorted(absent))}")
    if unknown:
        problems.append(f"{len(unknown)} are not the model's: {_first(sorted(unknown))}")

    there, here = _blocks_in_stages(source), _blocks_in_stages(model.state_dict())
    if all(key.startswith("module.") for key in source):
        remedy = "Its names begin with 'module.'; save the state dict of the network inside DDP."
    elif sum(there) == 0:
        remedy = "Its names are not those of torchvision's ResNet."
    elif there != here:
        remedy = (
            f"It has {there} blocks in stages 2 to 5, the model {here}: "
            "choose weights of the same depth."
        )
    elif not any(key.endswith(".conv3.weight") for key in source):
        remedy = "It is made of basic blocks (ResNet-18 or 34), the model of bottlenecks."
    else:
        remedy = (
            "It was trained as another variant: build the model with the variant, stages, blocks "
            "and fusion of the file."
        )
    return f"{path} does not fit the model: {'; '.join(problems)}. {remedy}"


def _first(items: list[str]) -> str:
    rest = len(items) - SHOWN_KEYS
    return ", ".join(items[:SHOWN_KEYS]) + (f" and {rest} more" if rest > 0 else "")
