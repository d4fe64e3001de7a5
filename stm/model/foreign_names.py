"""Rename the layers of ResNets from Hugging Face, OpenMMLab, TSN and TSM to torchvision's names.

resnet.encoder.stages.0.layers.0.layer.1.convolution.weight     Hugging Face
backbone.layer1.0.conv2.conv.weight                             OpenMMLab
module.base_model.layer1.0.conv2.weight                         TSN and TSM, saved from DataParallel
layer1.0.conv2.weight                                           torchvision, timm and stm
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from stm.errors import UserError
from stm.model.weight_files import first

_A_CONV = "layer1.0.conv2.weight"
"""A name that every ResNet has exactly once, with bottlenecks or with basic blocks."""


def _hugging_face(name: str) -> str:
    found = re.fullmatch(
        r"(?:resnet\.)?(?:(?P<stem>embedder\.embedder)|encoder\.stages\.(?P<stage>\d+)\.layers\.(?P<block>\d+)\."
        r"(?:layer\.(?P<conv>\d+)|(?P<shortcut>shortcut)))\.(?P<kind>convolution|normalization)\.(?P<rest>\w+)",
        name,
    )
    if found is None:
        return re.sub(r"^classifier\.1\.", "fc.", name)
    is_conv, rest = found["kind"] == "convolution", found["rest"]
    if found["stem"]:
        return f"{'conv1' if is_conv else 'bn1'}.{rest}"
    block = f"layer{int(found['stage']) + 1}.{found['block']}"
    if found["shortcut"]:
        return f"{block}.downsample.{0 if is_conv else 1}.{rest}"
    return f"{block}.{'conv' if is_conv else 'bn'}{int(found['conv']) + 1}.{rest}"


def _open_mmlab(name: str) -> str:
    name = re.sub(r"\bdownsample\.(conv|bn)\.", lambda m: f"downsample.{m[1] == 'bn':d}.", name)
    return re.sub(r"\bconv(\d)\.(conv|bn)\.", lambda m: f"{m[2]}{m[1]}.", name)


def as_torchvision(state: Mapping[str, Tensor], where: str) -> tuple[dict[str, Tensor], str]:
    """Return the state dict with torchvision's names, and a phrase for the names it had ("" for torchvision's).

    Tensors outside the ResNet of a larger model, such as another framework's head, keep their names.

    Raises:
        UserError: (a ValueError) the file holds several networks, or a ResNet that torchvision's layers cannot
            express. The message names the kind.
    """
    whose, renamed = "", dict(state)
    if any("embedder.embedder.convolution" in name for name in state):
        whose, renamed = "Hugging Face's", {_hugging_face(k): v for k, v in state.items()}
    elif any(re.search(r"\blayer1\.0\.conv1\.conv\.", name) for name in state):
        whose, renamed = "OpenMMLab's", {_open_mmlab(k): v for k, v in state.items()}
    # TSM wraps the convolution whose input it shifts.
    unwrapped = {
        re.sub(r"(\blayer\d\.\d+\.conv1)\.net\.", r"\1.", k): v for k, v in renamed.items()
    }
    if unwrapped.keys() != renamed.keys():
        whose, renamed = whose or "TSM's", unwrapped
    prefixes = [
        name.removesuffix(_A_CONV) for name in renamed if f".{name}".endswith(f".{_A_CONV}")
    ]
    if len(prefixes) > 1:
        raise UserError(
            f"{where} holds {len(prefixes)} networks, under {' and '.join(repr(each) for each in prefixes)}: save the "
            "state dict of only one of them"
        )
    if prefixes and prefixes[0]:
        whose += f"{' ' if whose else ''}below {prefixes[0]!r}"
        renamed = {name.removeprefix(prefixes[0]): value for name, value in renamed.items()}
    if reason := _other_kind(renamed):
        raise UserError(
            f"{where} is {reason}. Choose a plain ResNet (torchvision's, timm's resnet50)"
        )
    return renamed, whose


def _other_kind(state: Mapping[str, Tensor]) -> str:
    """A phrase for the kind of network, if it is not torchvision's ResNet with bottlenecks; "" if it seems to be."""

    def shape(name: str) -> tuple[int, ...]:
        return tuple(state[name].shape) if name in state else ()

    if "conv1.0.weight" in state or "stem.conv1.weight" in state:
        return "a ResNet with several convolutions in its stem (timm's resnet50d, 50s, 50t), but the model has one 7x7"
    if len(shape("layer1.0.downsample.1.weight")) == 4:
        return "a ResNet-D, whose shortcuts have an average pool before the 1x1"
    if extra := [
        name for name in state if re.search(r"^layer\d\.\d+\.(se|eca|attn|ca|gc)\b", name)
    ]:
        return (
            f"a ResNet with attention in its blocks ({first(sorted(extra), 1)}), such as SE or ECA"
        )
    if any(re.match(r"(stages\.\d|s\d\.b\d|blocks\.\d)", name) for name in state):
        return f"not a ResNet with torchvision's layers ({first(sorted(state))})"
    if shape("layer1.0.conv3.weight"):
        if "bn1.weight" in state and not any(name.endswith("running_mean") for name in state):
            return (
                "a ResNet without batch normalisation statistics (with group normalisation or none)"
            )
        width, inner = shape("conv1.weight"), shape("layer1.0.conv1.weight")
        convs = [
            shape(name) for name in state if re.fullmatch(r"layer\d\.\d+\.conv2\.weight", name)
        ]
        if all(conv[1:2] != conv[:1] for conv in convs):
            return "a ResNeXt, whose 3x3 convolutions are grouped"
        if width and inner and inner[0] != width[0]:
            return f"a wide ResNet, whose first block has {inner[0]} channels instead of {width[0]}"
    return ""
