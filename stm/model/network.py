"""The whole network: a 2-D ResNet over all frames with STM blocks, and the mean of the frames' scores (section 3.3)."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stm.errors import UserError
from stm.model import registry
from stm.model.block import EXPANSION, Bottleneck
from stm.model.recompute import recomputed

BLOCKS_IN_STAGES = {26: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
"""Depth of a ResNet -> number of bottlenecks in its stages 2 to 5."""
STAGES = (2, 3, 4, 5)
WIDTH_MULTIPLE = 8
PLAIN = "tsn"
"""The variant whose blocks are ResNet's own."""
FC_STANDARD_DEVIATION = 0.001


def build_model(
    variant: str = "stm",
    depth: int = 50,
    num_classes: int = 174,
    *,
    stages: Sequence[int] = STAGES,
    blocks: Sequence[int] | None = None,
    dropout: float = 0.5,
    width: int = 64,
    gradient_checkpointing: bool = False,
    **settings: Any,
) -> VideoResNet:
    """Build a network: ``clips: float [N, T, 3, H, W]`` -> ``logits: float [N, num_classes]``.

    T, H and W are free. The defaults are the paper's STM for Something-Something v1. Weights are
    random until ``load_pretrained`` loads ImageNet's. Layers have the names of torchvision's ResNet.

    Args:
        variant: kind of block: ``stm``, its parts ``cstm`` and ``cmm``, the baselines ``tsm`` and
            ``tsn`` (see ``stm.model.variants``), or one that you registered.
        depth: 26, 50, 101 or 152.
        num_classes: length of the score vector.
        stages: the ResNet stages that have blocks of this variant, numbered 2 to 5 as in the
            paper. The blocks of other stages are ResNet's own.
        blocks: indices from 0 of the blocks of this variant in each of those stages; None means
            all blocks.
        dropout: probability, before the FC. The paper does not give it; projects of the TSN family
            use 0.5, and 0.8 for UCF-101 and HMDB-51.
        width: channels of the stem; 64 in the paper, 32 for a laptop.
        gradient_checkpointing: compute each block a second time in the backward pass instead of
            keeping its activations. Gradients stay the same.
        settings: keyword arguments of the variant's blocks. stm's variants have ``fusion``,
            ``temporal_conv``, ``temporal_kernel`` and ``reduction`` (see ``stm.model.variants``).

    Raises:
        UserError: (a ValueError) a value is not allowed, or has no effect on this variant.
    """
    kind = registry.get(variant)
    _require_kind("int", "depth", depth)
    _require_kind("float", "dropout", dropout)
    _require(depth in BLOCKS_IN_STAGES, "depth", depth, f"one of {tuple(BLOCKS_IN_STAGES)}")
    _require(_is_positive_int(num_classes), "num_classes", num_classes, "an integer of at least 1")
    _require(0 <= dropout < 1, "dropout", dropout, "a probability of at least 0 and below 1")
    _require(
        _is_positive_int(width) and width % WIDTH_MULTIPLE == 0,
        "width",
        width,
        f"a positive multiple of {WIDTH_MULTIPLE}",
    )
    for name, indices in (("stages", stages), ("blocks", blocks or ())):
        _require(isinstance(indices, Sequence), name, indices, "a list of integers")
        for index in indices:
            _require_kind("int", f"each of {name}", index)
    stages = tuple(stages)
    blocks = None if blocks is None else tuple(blocks)
    _require(
        bool(stages) and set(stages) <= set(STAGES) and len(set(stages)) == len(stages),
        "stages",
        stages,
        f"some of {STAGES}, each only once; for a network without such blocks use variant 'tsn'",
    )
    _require_blocks_exist(depth, stages, blocks)
    _require_effect(kind, stages, blocks, settings)

    model = VideoResNet(
        kind,
        depth,
        num_classes,
        settings={name: value for name, value in settings.items() if name in kind.settings},
        stages=stages,
        blocks=blocks,
        dropout=dropout,
        width=width,
        gradient_checkpointing=gradient_checkpointing,
    )
    model.to(memory_format=model.memory_format)  # type: ignore[call-overload]
    return model


def check_settings(num_frames: int = 8, *, runs: bool = False, **settings: Any) -> None:
    """Check settings of ``build_model`` in milliseconds, without creating weights.

    Args:
        num_frames: T of the clip for ``runs``.
        runs: also run the network on a clip, in case a registered block fails or changes shapes.

    Raises:
        UserError: (a ValueError) as ``build_model``, or with ``runs`` if the network does not return its scores.
    """
    with torch.device("meta"):
        model = build_model(**{"num_classes": 1, **settings}).eval()
        if not runs:
            return
        try:
            logits = model(torch.empty(1, num_frames, 3, 64, 64))
        except NotImplementedError:  # an operator that cannot run on the meta device
            return
        except Exception as error:
            raise UserError(
                f"variant {model.variant!r}: its block does not run on {num_frames} frames: "
                f"{type(error).__name__}: {error}"
            ) from error
    if logits.shape != (1, model.num_classes):
        raise UserError(
            f"variant {model.variant!r}: its block changes the number of frames or channels: the network returns "
            f"{list(logits.shape)} instead of [1, {model.num_classes}]"
        )


class VideoResNet(nn.Module):
    """A ResNet that scores the T frames of each clip together (paper, section 3.3).

        stem     conv 7x7 / 2, BN, ReLU, maxpool 3x3 / 2
        stages   four stages of bottlenecks (``stm.model.block``); in STM, every block mixes time and none reduces T
        head     global average pool, dropout, FC on each frame, mean of the T logit vectors

    Use ``build_model``, which checks the arguments and documents them.
    """

    memory_format = torch.channels_last
    layer1: nn.ModuleList
    layer2: nn.ModuleList
    layer3: nn.ModuleList
    layer4: nn.ModuleList

    def __init__(
        self,
        kind: registry.Variant,
        depth: int,
        num_classes: int,
        *,
        settings: Mapping[str, Any],
        stages: tuple[int, ...],
        blocks: tuple[int, ...] | None,
        dropout: float,
        width: int,
        gradient_checkpointing: bool,
    ) -> None:
        super().__init__()
        self.variant = kind.name
        self.depth = depth
        self.num_classes = num_classes
        self.gradient_checkpointing = gradient_checkpointing

        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)

        in_channels = width
        for position, stage in enumerate(STAGES):
            channels = width * 2**position
            stage_blocks = nn.ModuleList()
            for index in range(BLOCKS_IN_STAGES[depth][position]):
                stride = 2 if index == 0 and stage > 2 else 1
                if stage in stages and (blocks is None or index in blocks):
                    stage_blocks.append(kind.build(in_channels, channels, stride, **settings))
                else:
                    stage_blocks.append(Bottleneck(in_channels, channels, stride))
                in_channels = EXPANSION * channels
            # torchvision does not count the stem as a stage: the paper's stage 2 is ``layer1``.
            self.add_module(f"layer{stage - 1}", stage_blocks)

        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(in_channels, num_classes)
        nn.init.normal_(self.fc.weight, std=FC_STANDARD_DEVIATION)
        nn.init.zeros_(self.fc.bias)

    def forward(self, clips: Tensor) -> Tensor:
        """``clips: float [N, T, 3, H, W]`` -> ``logits: float [N, num_classes]``.

        Clips can have any memory format. Clips that are ``[N, T, H, W, 3]`` in memory are not copied.

        Raises:
            ValueError: ``clips`` have another shape or are not floating point.
        """
        if clips.ndim != 5 or clips.shape[2] != 3 or not clips.is_floating_point():
            raise ValueError(
                f"clips must be float [N, T, 3, H, W], got {clips.dtype} {list(clips.shape)}"
            )
        batch, num_frames = clips.shape[:2]
        frames = clips.flatten(0, 1).contiguous(memory_format=self.memory_format)

        x = self.relu(self.bn1(self.conv1(frames)))
        x = F.max_pool2d(x, kernel_size=3, stride=2, padding=1)
        recompute = self.gradient_checkpointing and torch.is_grad_enabled()
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in stage:
                x = recomputed(block, x, num_frames) if recompute else block(x, num_frames)

        features = self.dropout(x.mean(dim=(2, 3)))
        return self.fc(features).view(batch, num_frames, self.num_classes).mean(dim=1)

    @property
    def blocks(self) -> dict[str, nn.Module]:
        """All residual blocks in order, by name: ``layer1.0`` to ``layer4.2`` at depth 50."""
        stages = (self.layer1, self.layer2, self.layer3, self.layer4)
        return {
            f"layer{number}.{index}": block
            for number, stage in enumerate(stages, 1)
            for index, block in enumerate(stage)
        }


def _is_positive_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _require(condition: bool, field: str, value: object, allowed: str) -> None:
    if not condition:
        raise UserError(f"{field} is {value!r}; allowed: {allowed}")


_OF_KIND: dict[str, tuple[Any, str]] = {
    "int": (int, "an integer"),
    "float": ((int, float), "a number"),
    "str": (str, "a string"),
    "bool": (bool, "true or false"),
}


def _require_kind(kind: object, field: str, value: object) -> None:
    """Raise ``UserError`` if a value is not of the type that an annotation names; other annotations allow any value."""
    types, words = _OF_KIND.get(getattr(kind, "__name__", str(kind)), (object, ""))
    is_bool = isinstance(value, bool) and types not in (bool, object)
    _require(isinstance(value, types) and not is_bool, field, value, words)


def _require_blocks_exist(
    depth: int, stages: tuple[int, ...], blocks: tuple[int, ...] | None
) -> None:
    if blocks is None:
        return
    _require(bool(blocks), "blocks", blocks, "block indices from 0, or None for all")
    for stage in stages:
        count = BLOCKS_IN_STAGES[depth][STAGES.index(stage)]
        _require(
            all(index in range(count) for index in blocks),
            "blocks",
            blocks,
            f"0 to {count - 1}, because stage {stage} of depth {depth} has {count} blocks",
        )


def _require_effect(
    kind: registry.Variant,
    stages: tuple[int, ...],
    blocks: tuple[int, ...] | None,
    settings: Mapping[str, Any],
) -> None:
    """Raise ``UserError`` for a setting that changes nothing, so that no result is recorded under a wrong setting."""
    if kind.name == PLAIN:
        others = ", ".join(name for name in registry.names() if name != PLAIN)
        for field, value, default in (
            ("stages", sorted(stages), list(STAGES)),
            ("blocks", blocks, None),
        ):
            if value != default:
                raise UserError(
                    _no_effect(field, stages if field == "stages" else value, kind, others)
                )
    for field, value in settings.items():
        having = registry.those_with(field)
        if field in kind.settings:
            _require_kind(inspect.signature(kind.build).parameters[field].annotation, field, value)
            continue
        if not having:
            raise UserError(
                f"{field} is {value!r}, but no variant has such a setting; {kind.name!r} has "
                f"{', '.join(kind.settings) or 'none'}"
            )
        if value != registry.get(having[0]).settings[field]:
            raise UserError(_no_effect(field, value, kind, ", ".join(having)))


def _no_effect(field: str, value: object, kind: registry.Variant, others: str) -> str:
    return (
        f"{field} is {value!r}, which has no effect on variant {kind.name!r}; leave it out, or choose "
        f"the variant from: {others}"
    )
