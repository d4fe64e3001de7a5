"""The whole network: a ResNet over the frames, in blocks that mix time, and a consensus."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stm.errors import UserError
from stm.model.block import (
    EXPANSION,
    FUSIONS,
    TEMPORAL_CONVS,
    VARIANTS,
    VARIANTS_WITH_CMM,
    VARIANTS_WITH_TEMPORAL_CONV,
    Bottleneck,
)
from stm.model.recompute import recomputed

BLOCKS_IN_STAGES = {26: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
"""Depth of a ResNet -> number of bottlenecks in its stages 2 to 5."""
STAGES = (2, 3, 4, 5)
WIDTH_MULTIPLE = 8
FC_STANDARD_DEVIATION = 0.001


def build_model(
    variant: str = "stm",
    depth: int = 50,
    num_classes: int = 174,
    *,
    fusion: str = "sum",
    temporal_conv: str = "channelwise",
    stages: Sequence[int] = STAGES,
    blocks: Sequence[int] | None = None,
    dropout: float = 0.5,
    width: int = 64,
    reduction: int = 16,
    gradient_checkpointing: bool = False,
) -> VideoResNet:
    """Build a network: ``clips: float [N, T, 3, H, W]`` -> ``logits: float [N, num_classes]``.

    It takes any T, H and W. The defaults are the paper's STM on Something-Something. Initial
    weights are random; ``load_pretrained`` fills in ImageNet's. The layers carry the names of
    torchvision's ResNet.

    Args:
        variant: what the blocks are: ``stm``, its halves ``cstm`` and ``cmm``, the baselines
            ``tsm`` and ``tsn`` (see ``Bottleneck``).
        depth: 26, 50, 101 or 152.
        num_classes: length of the score vector.
        fusion: how STM joins CSTM and CMM: ``sum``, or ``concat`` as in the paper's ablation.
        temporal_conv: ``channelwise``, or ``ordinary`` as in the paper's ablation.
        stages: the ResNet stages, named 2 to 5 as in the paper, whose blocks are of this variant.
            The blocks of other stages are plain.
        blocks: the blocks within each of those stages, from 0; None means all.
        dropout: probability, before the FC. The paper is silent; 0.5 is the practice of the TSN
            family, 0.8 for UCF-101 and HMDB-51.
        width: channels of the stem; 64 in the paper, 32 for a laptop.
        reduction: CMM squeezes C channels to C / ``reduction``.
        gradient_checkpointing: compute each block a second time in the backward pass instead of
            keeping its activations. Gradients stay the same.

    Raises:
        UserError: (a ValueError) a value is impossible, or would have no effect on this variant.
    """
    stages = tuple(stages)
    blocks = None if blocks is None else tuple(blocks)
    _require(variant in VARIANTS, "variant", variant, f"one of {', '.join(VARIANTS)}")
    _require(depth in BLOCKS_IN_STAGES, "depth", depth, f"one of {tuple(BLOCKS_IN_STAGES)}")
    _require(_is_positive_int(num_classes), "num_classes", num_classes, "an integer of at least 1")
    _require(fusion in FUSIONS, "fusion", fusion, f"one of {', '.join(FUSIONS)}")
    _require(
        temporal_conv in TEMPORAL_CONVS,
        "temporal_conv",
        temporal_conv,
        f"one of {', '.join(TEMPORAL_CONVS)}",
    )
    _require(0 <= dropout < 1, "dropout", dropout, "a probability from 0 up to, but not, 1")
    _require(
        _is_positive_int(width) and width % WIDTH_MULTIPLE == 0,
        "width",
        width,
        f"a positive multiple of {WIDTH_MULTIPLE}",
    )
    _require(_is_positive_int(reduction), "reduction", reduction, "an integer of at least 1")
    _require(
        variant not in VARIANTS_WITH_CMM or width % reduction == 0,
        "reduction",
        reduction,
        f"a divisor of width ({width})",
    )
    _require(
        bool(stages) and all(stage in STAGES for stage in stages),
        "stages",
        stages,
        f"some of {STAGES}; for a network without any such block use variant 'tsn'",
    )
    stages = tuple(sorted(set(stages)))
    _require_blocks_exist(depth, stages, blocks)
    _require_effect("fusion", fusion, "sum", variant, ("stm",))
    _require_effect(
        "temporal_conv", temporal_conv, "channelwise", variant, VARIANTS_WITH_TEMPORAL_CONV
    )
    _require_effect("reduction", reduction, 16, variant, VARIANTS_WITH_CMM)
    moving_variants = tuple(name for name in VARIANTS if name != "tsn")
    _require_effect("stages", stages, STAGES, variant, moving_variants)
    _require_effect("blocks", blocks, None, variant, moving_variants)

    model = VideoResNet(
        variant,
        depth,
        num_classes,
        fusion=fusion,
        temporal_conv=temporal_conv,
        stages=stages,
        blocks=blocks,
        dropout=dropout,
        width=width,
        reduction=reduction,
        gradient_checkpointing=gradient_checkpointing,
    )
    model.to(memory_format=model.memory_format)  # type: ignore[call-overload]
    return model


class VideoResNet(nn.Module):
    """A ResNet that sees T frames of a video and scores them together (paper, section 3.3).

        stem     conv 7x7 / 2, BN, ReLU, maxpool 3x3 / 2
        stages   four, of bottlenecks; some of them mix time; none reduces T
        head     global average pool, dropout, FC on each frame, mean of the T score vectors

    Use ``build_model``, which checks the arguments and explains them.
    """

    memory_format = torch.channels_last
    layer1: nn.ModuleList
    layer2: nn.ModuleList
    layer3: nn.ModuleList
    layer4: nn.ModuleList

    def __init__(
        self,
        variant: str,
        depth: int,
        num_classes: int,
        *,
        fusion: str,
        temporal_conv: str,
        stages: tuple[int, ...],
        blocks: tuple[int, ...] | None,
        dropout: float,
        width: int,
        reduction: int,
        gradient_checkpointing: bool,
    ) -> None:
        super().__init__()
        self.variant = variant
        self.depth = depth
        self.num_classes = num_classes
        self.gradient_checkpointing = gradient_checkpointing

        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.bn1 = nn.BatchNorm2d(width)

        in_channels = width
        for position, stage in enumerate(STAGES):
            channels = width * 2**position
            bottlenecks = nn.ModuleList()
            for index in range(BLOCKS_IN_STAGES[depth][position]):
                is_chosen = stage in stages and (blocks is None or index in blocks)
                bottlenecks.append(
                    Bottleneck(
                        in_channels,
                        channels,
                        stride=2 if index == 0 and stage > 2 else 1,
                        variant=variant if is_chosen else "tsn",
                        fusion=fusion,
                        temporal_conv=temporal_conv,
                        reduction=reduction,
                    )
                )
                in_channels = EXPANSION * channels
            # torchvision counts the stages from the first with bottlenecks: the paper's stage 2 is
            # ``layer1``.
            self.add_module(f"layer{stage - 1}", bottlenecks)

        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(in_channels, num_classes)
        nn.init.normal_(self.fc.weight, std=FC_STANDARD_DEVIATION)
        nn.init.zeros_(self.fc.bias)

    def forward(self, clips: Tensor) -> Tensor:
        """``clips: float [N, T, 3, H, W]`` -> ``logits: float [N, num_classes]``.

        Any memory format will do; clips that lie as ``[N, T, H, W, 3]`` are used where they are.
        """
        if clips.ndim != 5 or clips.shape[2] != 3 or not clips.is_floating_point():
            raise ValueError(
                f"clips must be float [N, T, 3, H, W], got {clips.dtype} {list(clips.shape)}"
            )
        batch, num_frames = clips.shape[:2]
        frames = clips.flatten(0, 1).contiguous(memory_format=self.memory_format)

        x = F.relu(self.bn1(self.conv1(frames)), inplace=True)
        x = F.max_pool2d(x, kernel_size=3, stride=2, padding=1)
        recompute = self.gradient_checkpointing and torch.is_grad_enabled()
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in stage:
                x = recomputed(block, x, num_frames) if recompute else block(x, num_frames)

        features = self.dropout(x.mean(dim=(2, 3)))
        return self.fc(features).view(batch, num_frames, self.num_classes).mean(dim=1)


def _is_positive_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _require(condition: bool, field: str, value: object, allowed: str) -> None:
    if not condition:
        raise UserError(f"{field} is {value!r}; allowed: {allowed}")


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
            f"0 to {count - 1}, for stage {stage} of depth {depth} has {count} blocks",
        )


def _require_effect(
    field: str, value: object, default: object, variant: str, variants: tuple[str, ...]
) -> None:
    """A setting that changes nothing would put a false name on a result."""
    if value != default and variant not in variants:
        raise UserError(
            f"{field} is {value!r}, which has no effect on variant {variant!r}; "
            f"leave it at {default!r}, or choose the variant from: {', '.join(variants)}"
        )
