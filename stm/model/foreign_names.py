"""ResNets under other people's names: what Hugging Face, OpenMMLab and training frameworks call torchvision's layers.

resnet.encoder.stages.0.layers.0.layer.1.convolution.weight     Hugging Face
backbone.layer1.0.conv2.conv.weight                             OpenMMLab
module.base_model.layer1.0.conv2.weight                         TSN, TSM, inside DataParallel
layer1.0.conv2.weight                                           torchvision, timm, and here
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from stm.errors import UserError
from stm.model.weight_files import first

_A_CONV = "layer1.0.conv2.weight"
"""A name that every ResNet of bottlenecks or basic blocks has once."""


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
    """The state dict under torchvision's names, and whose names it had, in words ("" where these were the names).

    What stands outside the network in a larger model, such as the head of another framework, keeps its name.

    Raises:
        UserError: (a ValueError) two networks are in it, or it is a kind of ResNet that torchvision's layers cannot
            express; the message says which.
    """
    whose, renamed = "", dict(state)
    if any("embedder.embedder.convolution" in name for name in state):
        whose, renamed = "Hugging Face's", {_hugging_face(k): v for k, v in state.items()}
    elif any(re.search(r"\blayer1\.0\.conv1\.conv\.", name) for name in state):
        whose, renamed = "OpenMMLab's", {_open_mmlab(k): v for k, v in state.items()}
    # TSM wraps the convolution that it shifts.
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
            "state dict of the one that is meant"
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
    """What makes it another network than torchvision's ResNet of bottlenecks; "" where nothing shows."""

    def shape(name: str) -> tuple[int, ...]:
        return tuple(state[name].shape) if name in state else ()

    if "conv1.0.weight" in state or "stem.conv1.weight" in state:
        return "a ResNet with a stem of several convolutions (timm's resnet50d, 50s, 50t), where the model's is one 7x7"
    if len(shape("layer1.0.downsample.1.weight")) == 4:
        return "a ResNet-D, whose shortcuts average before their 1x1"
    if extra := [
        name for name in state if re.search(r"^layer\d\.\d+\.(se|eca|attn|ca|gc)\b", name)
    ]:
        return (
            f"a ResNet with attention in its blocks ({first(sorted(extra), 1)}), such as SE or ECA"
        )
    if any(re.match(r"(stages\.\d|s\d\.b\d|blocks\.\d)", name) for name in state):
        return f"no ResNet with the layers of torchvision's ({first(sorted(state))})"
    if shape("layer1.0.conv3.weight"):
        if "bn1.weight" in state and not any(name.endswith("running_mean") for name in state):
            return (
                "a ResNet without statistics of batch normalisation (group normalisation, or none)"
            )
        width, inner = shape("conv1.weight"), shape("layer1.0.conv1.weight")
        convs = [
            shape(name) for name in state if re.fullmatch(r"layer\d\.\d+\.conv2\.weight", name)
        ]
        if all(conv[1:2] != conv[:1] for conv in convs):
            return "a ResNeXt, whose 3x3 convolutions are in groups"
        if width and inner and inner[0] != width[0]:
            return f"a wide ResNet, whose blocks have {inner[0]} channels where the model's have {width[0]}"
    return ""
